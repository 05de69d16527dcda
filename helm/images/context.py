"""Prepares the build context of one of the chart's images: ``python3 helm/images/context.py NAME FOLDER``.

What the images are made of is fetched here, outside, so that no image needs a package index while it is built. A context holds::

    wheels/         third-party packages of the image's requirements.txt, with what they need
    own/            the wheel of tessera-hub, and
    lab/            the built Lab extension, as it lies below Python's prefix, and
    examples/       the example notebooks, where the requirements name tessera-hub
    library/        the library that enforces slices of cards, for the node agent
    node_modules/   where the image has a package.json with its lock file
    …               the files of helm/images/NAME themselves

Then, with any builder: ``podman build -t NAME -f FOLDER/Containerfile FOLDER`` (or ``docker build``, ``buildah bud``).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Final

IMAGES: Final = Path(__file__).resolve().parent
REPOSITORY: Final = IMAGES.parent.parent
LAB: Final = REPOSITORY / "extensions" / "tessera_lab" / "labextension"
LIBRARY: Final = REPOSITORY / "vgpu" / "build" / "interposer" / "libtessera_vgpu.so"
WITH_LIBRARY: Final = "node"
"""The image that has it."""
LAB_TARGET: Final = Path("share/jupyter/labextensions/@tessera/lab")
PYTHON: Final = "3.11"
"""Version of Debian's Python in the images."""


class ContextError(Exception):
    """The context cannot be prepared; the message says what to do."""


def image_names() -> list[str]:
    """Return the names of the chart's images."""
    return sorted(path.parent.name for path in IMAGES.glob("*/Containerfile"))


def requirements(name: str) -> list[str]:
    """Return the lines of an image's requirements.txt, empty if it has none."""
    path = IMAGES / name / "requirements.txt"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def has_tessera(name: str) -> bool:
    """Whether tessera-hub is in an image."""
    return any(re.match(r"tessera-hub\b", line) for line in requirements(name))


def wheel_sources() -> list[str]:
    """Return the files and folders that the wheel of tessera-hub is built from."""
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg", "utf-8")
    places = [line.partition("=")[2].strip() for line in config["options"]["package_dir"].splitlines()]
    return ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", *sorted({p.partition("/")[0] for p in places if p})]


def source_files(*folders: str) -> Iterator[Path]:
    """Return the files below *folders* that git knows or would take, relative to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in sorted(set(filter(None, done.stdout.split("\0")))):
        if (REPOSITORY / name).is_file():
            yield Path(name)


def build_wheel(target: Path) -> Path:
    """Build the wheel of tessera-hub into *target*, from a copy: the build leaves files beside the sources."""
    with tempfile.TemporaryDirectory(prefix="tessera-wheel-") as folder:
        for path in source_files(*wheel_sources()):
            copy = Path(folder) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / path, copy)
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), folder])
    [wheel] = target.glob("tessera_hub-*.whl")
    return wheel


def fetch_wheels(name: str, own: Path | None, target: Path) -> None:
    """Download the packages of an image's requirements; *own* stands for tessera-hub, no index is asked for that."""
    lines = []
    for line in requirements(name):
        if match := re.fullmatch(r"tessera-hub(\[[\w,-]+\])?", line):
            assert own is not None
            lines.append(f"tessera-hub{match[1] or ''} @ {own.resolve().as_uri()}")
        else:
            lines.append(line)
    target.mkdir(parents=True, exist_ok=True)
    if lines:
        only = ["--python-version", PYTHON, "--only-binary=:all:", "--dest", str(target)]
        _run([sys.executable, "-m", "pip", "download", "--quiet", *only, *lines])
    for mine in target.glob("tessera_hub-*.whl"):
        mine.unlink()


def fetch_modules(name: str, target: Path) -> None:
    """Install the image's npm packages, as locked, into ``node_modules`` below *target*; nothing without a package.json."""
    if (IMAGES / name / "package.json").exists():
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(IMAGES / name / file, target / file)
        _run(["npm", "ci", "--silent", "--omit=dev", "--no-fund", "--no-audit", "--ignore-scripts"], cwd=target)


def lay_out(name: str, target: Path) -> None:
    """Copy the image's own files and, where it has tessera-hub, the Lab extension and the examples into *target*.

    Raises:
        ContextError: the Lab extension, or the library that enforces slices, is not built.
    """
    shutil.copytree(IMAGES / name, target, dirs_exist_ok=True)
    if name == WITH_LIBRARY:
        if not LIBRARY.exists():
            raise ContextError("the library that enforces slices is not built: make interposer")
        (target / "library").mkdir()
        shutil.copyfile(LIBRARY, target / "library" / LIBRARY.name)
    if not has_tessera(name):
        return
    if not (LAB / "package.json").exists():
        raise ContextError("the Lab extension is not built: make setup")
    shutil.copytree(LAB, target / "lab" / LAB_TARGET)
    for path in source_files("examples"):
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, copy)


def prepare(name: str, target: Path) -> None:
    """Prepare the whole context of an image in the empty or new folder *target*.

    Raises:
        ContextError: there is no such image, the folder is in use, or something cannot be fetched.
    """
    if name not in image_names():
        raise ContextError(f"no image {name!r}; there are: {', '.join(image_names())}")
    if target.exists() and any(target.iterdir()):
        raise ContextError(f"{target} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    lay_out(name, target)
    own = build_wheel(target / "own") if has_tessera(name) else None
    fetch_wheels(name, own, target / "wheels")
    fetch_modules(name, target)


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise ContextError(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{(done.stderr or done.stdout)[-3000:]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 helm/images/context.py NAME FOLDER")
    try:
        prepare(sys.argv[1], Path(sys.argv[2]))
    except ContextError as error:
        sys.exit(str(error))
