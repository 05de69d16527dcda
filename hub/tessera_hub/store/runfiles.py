"""Logs and the growing notebook of each run, as files addressed by offset, so that a repeated write is harmless."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID, uuid4

from pydantic import StringConstraints

Stream = Annotated[str, StringConstraints(pattern=r"^(output|progress|part-[1-9][0-9]{0,3})$")]
"""``output`` and ``progress`` of the first part, ``part-<n>`` the output of another; it names a file, so nothing else passes."""
LOG_LIMIT: Final = 256 << 20
"""Bytes kept of one stream; runners bound their output well below."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of a stream from ``offset``; ``end`` is the length of what is stored."""

    offset: int
    data: bytes
    end: int


class RunFiles:
    """Files of runs below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run_id: UUID) -> Path:
        """Return the folder of a run, made if it is new."""
        path = self.root / run_id.hex[:2] / str(run_id)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def write_log(self, run_id: UUID, stream: Stream, offset: int, data: bytes) -> int:
        """Write *data* at *offset* and return the new length; bytes beyond a gap or the limit are refused by returning less.

        The caller goes on from the returned length: a lost answer, a repeat and a reordered call all end in the same file.

        Raises:
            OSError: the disk is full; what did fit is kept and counts.
        """
        path = self.folder(run_id) / f"{stream}.log"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end = os.fstat(descriptor).st_size
            if offset > end:
                return end
            data = data[: max(LOG_LIMIT - offset, 0)]
            written = os.pwrite(descriptor, data, offset) if data else 0
            return max(end, offset + written)
        finally:
            os.close(descriptor)

    def read_log(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> LogPiece:
        """Return at most *limit* bytes from *offset* (negative: that many before the end)."""
        path = self.root / run_id.hex[:2] / str(run_id) / f"{stream}.log"
        try:
            with path.open("rb") as file:
                end = os.fstat(file.fileno()).st_size
                start = min(max(offset if offset >= 0 else end + offset, 0), end)
                file.seek(start)
                return LogPiece(start, file.read(limit), end)
        except FileNotFoundError:
            return LogPiece(0, b"", 0)

    def write_notebook(self, run_id: UUID, data: bytes) -> str:
        """Replace the run's notebook and return its ETag."""
        etag = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder(run_id) / "notebook.ipynb"
        temporary = path.with_suffix(f".{uuid4().hex}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return etag

    def read_notebook(self, run_id: UUID) -> bytes | None:
        """Return the notebook so far, None before the first cell."""
        try:
            return (self.root / run_id.hex[:2] / str(run_id) / "notebook.ipynb").read_bytes()
        except FileNotFoundError:
            return None
