"""The chart's images for the test cluster, built from exactly the Containerfiles in ``helm/images``.

Debian's buildah builds them on a base that debootstrap makes, without a daemon. What was built is kept in the cache directory,
keyed by what it was made from, so that an unchanged image costs nothing and a changed one only its last layers.

``image("notebook")`` builds and returns reference and archive; its ``load(machine)`` brings it into the cluster.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import shutil
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import ModuleType
from typing import Final

from tests.cluster.leftovers import RUN
from tests.cluster.machine import Machine
from tests.cluster.parts import DEBIAN, ClusterError, cache, checked, making, program, say

IMAGES: Final = Path(__file__).resolve().parents[2] / "helm" / "images"
REGISTRY: Final = "tessera.test"
"""Of the references; nothing is ever fetched from there."""
RUN_ROOT: Final = Path("/run/tessera-buildah")
KEPT: Final = 3
"""Archives of one image that stay in the cache."""


def _context() -> ModuleType:
    """Return helm/images/context.py, a program and no package, as a module."""
    found = importlib.util.spec_from_file_location("tessera_image_context", IMAGES / "context.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


context: Final = _context()


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is built.

    Attributes:
        reference: with a tag that its content determines, for a pod's ``image``.
        archive: as ``docker save`` writes it.
    """

    reference: str
    archive: Path

    def load(self, machine: Machine) -> str:
        """Bring it into the cluster's containerd, if it is not there; return the reference."""
        ctr = [program("ctr"), "--address", f"{RUN}/containerd.sock", "--namespace", "k8s.io", "images"]
        assert machine.is_up()
        if self.reference not in checked([*ctr, "ls", "--quiet"]).split():
            checked([*ctr, "import", str(self.archive)])
        return self.reference


def image(name: str) -> Image:
    """Build one of the chart's images, if its sources changed: some minutes the first time, then seconds.

    Raises:
        ClusterError: a program is missing or a step of the build failed; the message has its last words.
        ContextError: a part of the context cannot be had.
    """
    version = _digest(_sources(name))
    reference = f"{REGISTRY}/{name}:{version}"
    archive = cache() / "images" / f"{name}-{platform.machine()}-{version}.tar"
    with making(archive) as draft:
        if draft is not None:
            began = time.monotonic()
            say(f"building the image {name}; this takes a minute or two")
            folder = draft.with_suffix(".context")
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _lay_out(name, folder)
                _build(name, folder, reference, draft)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            _forget_old(name, archive)
            say(f"built the image {name} in {time.monotonic() - began:.0f} s")
    return Image(reference, archive)


def _sources(name: str) -> Iterable[Path]:
    """Return whatever is part of an image: its own files and, where they are in it, our sources, the Lab extension, examples."""
    yield IMAGES / "context.py"
    yield from (path for path in (IMAGES / name).rglob("*") if path.is_file())
    if name == context.WITH_LIBRARY:
        yield context.LIBRARY
    if context.has_tessera(name):
        yield from (context.REPOSITORY / path for path in context.source_files(*context.wheel_sources(), "examples"))
        yield from (path for path in context.LAB.rglob("*") if path.is_file())


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(set(files)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(context.REPOSITORY)}\0{content}\0".encode())
    return total.hexdigest()[:16]


def _lay_out(name: str, folder: Path) -> None:
    """Prepare the context; the packages that were downloaded for the same requirements are used again."""
    context.lay_out(name, folder)
    own = context.build_wheel(folder / "own") if context.has_tessera(name) else None
    ours = [context.REPOSITORY / "setup.cfg"] if own is not None else []
    key = _digest([*ours, *(IMAGES / name).glob("requirements.txt")])
    wheels = cache() / "wheels" / f"{name}-{platform.machine()}-{key}"
    with making(wheels) as draft:
        if draft is not None:
            context.fetch_wheels(name, own, draft)
    shutil.copytree(wheels, folder / "wheels")
    locks = list((IMAGES / name).glob("package-lock.json"))
    if locks:
        modules = cache() / "modules" / f"{name}-{platform.machine()}-{_digest(locks)}"
        with making(modules) as draft:
            if draft is not None:
                draft.mkdir()
                context.fetch_modules(name, draft)
        shutil.copytree(modules, folder, dirs_exist_ok=True, symlinks=True)


def buildah(*arguments: str) -> str:
    """Run buildah on a store of its own in the cache directory; return what it printed.

    Raises:
        ClusterError: it failed.
    """
    storage = ["--root", str(cache() / "buildah"), "--runroot", str(RUN_ROOT), "--storage-driver", "overlay"]
    return checked(["nice", "-n", "10", program("buildah"), *storage, *arguments])


def _image_id(reference: str) -> str | None:
    """Return the id of an image in buildah's store, None if it has none of that name."""
    found = json.loads(buildah("images", "--json") or "[]")
    return next((str(entry["id"]) for entry in found if reference in (entry.get("names") or ())), None)


def _base() -> str:
    """Return the reference of the base image in buildah's store: Debian's smallest system, without a trace of this machine."""
    reference = f"localhost/tessera-base:{DEBIAN}"
    if _image_id(reference) is not None:
        return reference
    root = cache() / "images" / f".base-{platform.machine()}"
    shutil.rmtree(root, ignore_errors=True)
    checked(["nice", "-n", "10", program("debootstrap"), "--variant=minbase", DEBIAN, str(root / "system")])
    for trace in ("etc/hostname", "etc/resolv.conf"):
        (root / "system" / trace).write_text("")
    for useless in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / "system" / useless, ignore_errors=True)
    with tarfile.open(root / "system.tar", "w") as tar:
        tar.add(root / "system", arcname=".", filter=lambda member: None if member.isdev() else member)
    shutil.rmtree(root / "system")
    (root / "Containerfile").write_text("FROM scratch\nADD system.tar /\n")
    buildah("bud", "--isolation", "chroot", "--tag", reference, str(root))
    shutil.rmtree(root)
    return reference


def _build(name: str, folder: Path, reference: str, draft: Path) -> None:
    RUN_ROOT.mkdir(exist_ok=True, mode=0o700)
    (cache() / "buildah").mkdir(parents=True, exist_ok=True, mode=0o700)
    with (cache() / "buildah.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        options = ["--layers", "--network", "host", "--isolation", "chroot", "--pull-never", "--build-arg", f"BASE={_base()}"]
        local = f"localhost/{name}:newest"
        before = _image_id(local)
        buildah("bud", *options, "--tag", local, "--file", str(folder / "Containerfile"), str(folder))
        buildah("push", "--quiet", local, f"docker-archive:{draft}:{reference}")
        if before is not None and before != _image_id(local):
            # With the layers that only it had; those that the new one shares stay for the next build.
            with suppress(ClusterError):
                buildah("rmi", before)


def _forget_old(name: str, newest: Path) -> None:
    """Delete all but the newest few archives of an image: each is some hundred megabytes."""
    pattern = f"{name}-{platform.machine()}-*.tar"
    known = sorted((p for p in newest.parent.glob(pattern) if p != newest), key=lambda p: p.stat().st_mtime)
    for path in known[: -(KEPT - 1)]:
        path.unlink(missing_ok=True)
