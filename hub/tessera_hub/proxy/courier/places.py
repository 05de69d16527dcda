"""Where the parts of a courier put things, and how files are opened that user code may have exchanged."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_SKIPPED: Final = frozenset({"__pycache__", ".ipynb_checkpoints", ".ipython", ".jupyter", ".cache"})
_BREAKS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, halves of characters and line breaks."""


class Places:
    """The shared folder: ``run/`` is the runner's directory (docs/reference/runner.md), ``control/`` the courier's own.

    ``control/``: ``inputs.json`` (the inputs as they came), ``started`` (made once, by the launcher), ``lock`` (held while it
    lives), ``suspended`` (there while the run is stopped), ``output.log``, ``end.json``.

    Args:
        owner: Unix id whose files the run's are; None: our own.
    """

    def __init__(self, root: Path, owner: int | None = None) -> None:
        self.root = root
        self.owner = os.geteuid() if owner is None else owner
        self.run = root / "run"
        self.control = root / "control"

    @property
    def lock(self) -> Path:
        """Held by ``flock(2)`` as long as the launcher lives; the kernel lets it go however the launcher ends."""
        return self.control / "lock"

    @property
    def suspended(self) -> Path:
        """There while the launcher holds the run stopped."""
        return self.control / "suspended"

    @property
    def started(self) -> Path:
        """Made by the one launcher that ever starts the run."""
        return self.control / "started"


def write_atomic(path: Path, document: Any) -> None:
    """Replace *path* by the JSON document."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document).encode() + b"\n")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_document(path: Path, owner: int | None = None) -> dict[str, Any] | None:
    """Return the JSON object in a regular file of *owner* (by default our own user), None if there is none."""
    descriptor = open_owned(path, owner)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            found = json.loads(file.read(1 << 24))
        except (OSError, ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) else None


def open_owned(path: Path, owner: int | None = None) -> int | None:
    """Open a regular file of *owner*, by default our own user, for reading, never through a link; None if it is anything else.

    User code may put a link to the run's token where a result is expected; the token's file belongs to root.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != (os.geteuid() if owner is None else owner):
        os.close(descriptor)
        return None
    return descriptor


def files_below(top: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative path, path) of the regular files below a folder; links are neither followed nor named.

    User code may have put a link in its place, or above it, to where only we may look.
    """
    if os.path.realpath(top) != str(top):
        return
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            file = Path(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(file.lstat().st_mode):
                    yield str(file.relative_to(top)), file


def is_safe(path: str) -> bool:
    """Whether the service would take this relative path."""
    try:
        path.encode()
    except UnicodeError:
        return False
    return (
        len(path) <= 1024
        and "\\" not in path
        and (path.isprintable() or not any(unicodedata.category(c) in _BREAKS for c in path))
    )
