"""What every container with a slice gets besides its own pages: the library that enforces it, and the driver's libraries.

The library is named in ``/etc/ld.so.preload``, which every dynamically linked program reads, whatever its environment. Its file
is kept by its content: a container that runs has the one it started with, also after the agent was upgraded.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
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


def driver_files(folders: Iterable[Path], inside: Path) -> dict[Path, Path]:
    """Return the driver's libraries of this machine and where containers find them. A link is mounted as what it leads to.

    Raises:
        VgpuError: ``library.no_driver``, ``libcuda.so.1`` is not there.
    """
    looked = list(folders)
    found: dict[str, Path] = {}
    for folder in looked:
        for pattern in DRIVER_FILES:
            for path in sorted(folder.glob(pattern)):
                found.setdefault(path.name, path)
    if looked and "libcuda.so.1" not in found:
        raise VgpuError(
            "library.no_driver",
            "The driver's library libcuda.so.1 is not in {folders}.",
            "Name the folder of the driver's libraries on this node.",
            folders=", ".join(map(str, looked)),
        )
    return {path: inside / name for name, path in found.items()}


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
