"""Content-addressed files, one folder per tenant: knowing a hash gives nothing to another tenant.

A blob arrives in pieces that are appended to ``<sha256>.part`` and is renamed once its length and hash are right, so a
reader never sees half a file and an upload goes on where it was cut. Writes go through a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

CHUNK: Final = 1 << 20


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BlobError(Exception):
    """A blob cannot be taken.

    ``code`` is ``blob.offset``, ``blob.hash_mismatch``, ``blob.too_large``, ``blob.length`` or ``disk.full``.
    """

    def __init__(self, code: str, message: str, *, offset: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.offset = offset


class BlobStore:
    """Blobs below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._uploads: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    def path(self, tenant_id: int, sha256: str) -> Path:
        """Return where the complete blob lies or will lie."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError("a SHA-256 is 64 lower-case hexadecimal digits")
        return self.root / str(int(tenant_id)) / sha256[:2] / sha256

    def exists(self, tenant_id: int, sha256: str) -> bool:
        """Whether the blob is complete."""
        return self.path(tenant_id, sha256).is_file()

    def offset(self, tenant_id: int, sha256: str) -> int | None:
        """Return how many bytes have arrived, None if none."""
        path = self.path(tenant_id, sha256)
        for candidate in (path, path.with_suffix(".part")):
            try:
                return candidate.stat().st_size
            except FileNotFoundError:
                continue
        return None

    async def append(
        self, tenant_id: int, sha256: str, offset: int, size: int | None, data: AsyncIterator[bytes], *, limit: int
    ) -> bool:
        """Append *data* at *offset* and return whether the blob is complete now.

        Raises:
            BlobError: ``blob.offset`` (its ``offset`` says where to go on), ``blob.too_large``, ``blob.length``,
                ``blob.hash_mismatch`` (all bytes are dropped) or ``disk.full``.
            OSError: the store cannot be written for another reason.
        """
        final = self.path(tenant_id, sha256)
        # Two uploads of one file would append to the same part: the second waits and goes on from what the first left.
        async with self._uploads.setdefault(final, asyncio.Lock()):
            return await self._append(final, sha256, offset, size, data, limit)

    async def _append(
        self, final: Path, sha256: str, offset: int, size: int | None, data: AsyncIterator[bytes], limit: int
    ) -> bool:
        if final.is_file():
            return True
        if size is not None and size > limit:
            raise BlobError("blob.too_large", f"{size} bytes are more than the limit of {limit}")
        part = final.with_suffix(".part")
        try:
            await asyncio.to_thread(part.parent.mkdir, parents=True, exist_ok=True)
            have = part.stat().st_size if part.exists() else 0
            if offset != have:
                raise BlobError("blob.offset", f"go on at {have}", offset=have)
            with part.open("ab") as file:
                async for piece in data:
                    if have + len(piece) > limit:
                        raise BlobError("blob.too_large", f"more bytes arrived than the limit of {limit}", offset=have)
                    if size is not None and have + len(piece) > size:
                        raise BlobError("blob.length", "more bytes arrived than were announced", offset=have)
                    await asyncio.to_thread(file.write, piece)
                    have += len(piece)
            if size is not None and have < size:
                return False
            await asyncio.to_thread(_finish, part, final, sha256)
        except OSError as error:
            if not is_full(error):
                raise
            raise BlobError("disk.full", f"the store cannot be written: {error.strerror}") from error
        return True

    async def read(self, tenant_id: int, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from *offset*.

        Raises:
            FileNotFoundError: not here, or not complete.
        """
        with self.path(tenant_id, sha256).open("rb") as file:
            file.seek(offset)
            while piece := await asyncio.to_thread(file.read, CHUNK):
                yield piece

    def sweep(self, idle_seconds: float) -> int:
        """Remove what arrived in part and got nothing for so long; return how many files."""
        before = time.time() - idle_seconds
        swept = 0
        for part in self.root.glob("*/*/*.part"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < before:
                    part.unlink()
                    swept += 1
        return swept

    def free_bytes(self) -> int:
        """Return what is free on the store's disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free


def _finish(part: Path, final: Path, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if found != sha256:
        part.unlink()
        raise BlobError("blob.hash_mismatch", "the bytes do not have this hash; send the file again")
    part.rename(final)
