"""What every container with a slice gets besides its own pages: the library that enforces it, and the driver's libraries.

The library is named in ``/etc/ld.so.preload``, which every dynamically linked program reads, whatever its environment. Its file
is kept by its content: a container that runs has the one it started with, also after the agent was upgraded.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import sync_folder
from tessera_vgpu.simulate import VGPU

LIBRARY: Final = VGPU / "build" / "interposer" / "libtessera_vgpu.so"
LIBRARY_FOLDER: Final = Path("/var/lib/tessera-vgpu")
"""Not below ``/run``, which Debian mounts noexec."""
LIBRARY_IN_CONTAINER: Final = Path("/usr/local/lib/tessera/libtessera_vgpu.so")
PRELOAD_IN_CONTAINER: Final = Path("/etc/ld.so.preload")
DRIVER_FILES: Final = (
    *("libcuda.so*", "libcudadebugger.so*", "libnvidia-ml.so*", "libnvidia-ptxjitcompiler.so*", "libnvidia-nvvm*.so*"),
    *("libnvidia-gpucomp.so*", "libnvidia-pkcs11*.so*"),
)
"""What programs of CUDA need of the driver; nothing for graphics."""
_ELF: Final = b"\x7fELF"


def install(library: Path, folder: Path) -> dict[Path, Path]:
    """Keep a copy of the library in *folder* and return what is mounted of it: host path → path in containers.

    Raises:
        VgpuError: ``library.unreadable``; ``library.noexec``, where the dynamic linker would leave it out with a warning only.
    """
    try:
        content = library.read_bytes()
    except OSError as error:
        raise _unreadable(library, error.strerror or str(error)) from error
    if not content.startswith(_ELF):
        raise _unreadable(library, "not a library")
    version = folder / hashlib.sha256(content).hexdigest()[:32]
    version.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.statvfs(version).f_flag & os.ST_NOEXEC:
        raise VgpuError(
            "library.noexec",
            "Nothing can be executed from {folder}, so containers would start without the library that enforces their slice.",
            "Give a folder on a file system that is not mounted noexec.",
            folder=folder,
        )
    named = version / "ld.so.preload"
    _write(version / LIBRARY_IN_CONTAINER.name, content, 0o755)
    _write(named, f"{LIBRARY_IN_CONTAINER}\n".encode(), 0o644)
    sync_folder(version)
    return {version / LIBRARY_IN_CONTAINER.name: LIBRARY_IN_CONTAINER, named: PRELOAD_IN_CONTAINER}


def inodes(folder: Path) -> frozenset[int]:
    """Return the inodes of all copies of the library, by which it is recognised in a process."""
    return frozenset(path.stat().st_ino for path in folder.glob(f"*/{LIBRARY_IN_CONTAINER.name}"))


@dataclass(frozen=True, slots=True)
class DriverFiles:
    """The driver's libraries of this machine.

    Args:
        folders: where they are on the machine; none: the agent finds them as any program does, containers get none from it.
        inside: where containers find them.
        host_root: where the agent sees the machine's root.
    """

    folders: tuple[Path, ...] = ()
    inside: Path = Path("/usr/lib/x86_64-linux-gnu")
    host_root: Path = Path("/")

    def mounts(self) -> dict[Path, Path]:
        """Return what is mounted of them: path on the machine → path in containers. A link is mounted as what it leads to.

        Raises:
            VgpuError: ``library.no_driver``, ``libcuda.so.1`` is not there.
        """
        found: dict[str, Path] = {}
        for folder in self.folders:
            for pattern in DRIVER_FILES:
                for path in sorted(self._seen(folder).glob(pattern)):
                    found.setdefault(path.name, folder / path.name)
        if self.folders and "libcuda.so.1" not in found:
            raise VgpuError(
                "library.no_driver",
                "The driver's library libcuda.so.1 is not in {folders}.",
                "Name the folder of the driver's libraries on this node.",
                folders=", ".join(map(str, self.folders)),
            )
        return {path: self.inside / name for name, path in found.items()}

    def find(self, name: str) -> str:
        """Return what the dynamic linker is to be asked for by the agent itself: a path, or the bare name."""
        return next((str(path) for folder in self.folders if (path := self._seen(folder) / name).exists()), name)

    def _seen(self, folder: Path) -> Path:
        return self.host_root / folder.relative_to(folder.anchor)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, wholly or not at all. One that is there may be mapped by containers and stays."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _unreadable(path: Path, reason: str) -> VgpuError:
    return VgpuError(
        "library.unreadable",
        "The library {path} that enforces slices cannot be used: {reason}.",
        "Build it with: make interposer",
        path=path,
        reason=reason,
    )
