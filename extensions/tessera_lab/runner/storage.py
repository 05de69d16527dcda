"""Files that are whole or absent, also on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
from datetime import UTC, datetime
from pathlib import Path

# Enough for an exit record and a small notebook with its error.
RESERVE_BYTES = 128 * 1024


def now_text() -> str:
    """The time in UTC as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_disk_full(error: OSError) -> bool:
    """Whether the disk or the person's share of it has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old or the new content, never a part.

    Args:
        durable: also wait until the content and the name are on disk.

    Raises:
        OSError: among others with ``ENOSPC``; the temporary file is gone then and ``path`` is unchanged.
    """
    temporary = stage(path, data, durable=durable)
    publish(temporary, path, durable=durable)


def stage(path: Path, data: bytes, *, durable: bool) -> Path:
    """Write ``data`` beside ``path`` and return the temporary file's path, to be given to :func:`publish`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def publish(temporary: Path, path: Path, *, durable: bool) -> None:
    """Give a staged file its name."""
    temporary.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Reserve:
    """Disk space held back from the start, so that the exit record still fits when everything else is full."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> None:
        """Allocate the space now; on a disk that is already full there is none to hold, which is no error yet."""
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.release()
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give the space free."""
        with contextlib.suppress(OSError):
            self._path.unlink()
