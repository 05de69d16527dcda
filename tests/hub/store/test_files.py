"""Blobs that arrive in pieces, and logs written by offset."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tessera_hub.store.blobs import BlobError, BlobStore
from tessera_hub.store.runfiles import RunFiles

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        await asyncio.sleep(0)
        yield data[start : start + 1000]


async def test_an_upload_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert not await store.append(1, SHA, 0, len(DATA), pieces(DATA[:4321]), limit=1 << 20)
    assert store.offset(1, SHA) == 4321
    assert not store.exists(1, SHA)
    with pytest.raises(BlobError) as refusal:
        await store.append(1, SHA, 0, len(DATA), pieces(DATA), limit=1 << 20)
    assert (refusal.value.code, refusal.value.offset) == ("blob.offset", 4321)
    assert await store.append(1, SHA, 4321, len(DATA), pieces(DATA[4321:]), limit=1 << 20)
    assert b"".join([piece async for piece in store.read(1, SHA, 100)]) == DATA[100:]
    assert not store.exists(2, SHA), "another tenant has no such blob"


async def test_two_uploaders_of_one_file_both_succeed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    uploads = (store.append(1, SHA, 0, len(DATA), pieces(DATA), limit=1 << 20) for _ in range(2))
    assert await asyncio.gather(*uploads) == [True, True]
    assert b"".join([piece async for piece in store.read(1, SHA)]) == DATA


async def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(BlobError) as refusal:
        await store.append(1, SHA, 0, len(DATA), pieces(DATA[::-1]), limit=1 << 20)
    assert refusal.value.code == "blob.hash_mismatch"
    assert store.offset(1, SHA) is None


@pytest.mark.parametrize(
    ("size", "limit", "code"), [(len(DATA), 100, "blob.too_large"), (None, 100, "blob.too_large"), (500, 1 << 20, "blob.length")]
)
async def test_too_much_is_refused(tmp_path: Path, size: int | None, limit: int, code: str) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(BlobError) as refusal:
        await store.append(1, SHA, 0, size, pieces(DATA), limit=limit)
    assert refusal.value.code == code
    assert not store.exists(1, SHA)


@pytest.mark.parametrize("seed", range(10))
def test_reordered_and_repeated_writes_give_the_same_log(tmp_path: Path, seed: int) -> None:
    draw, files, run_id = random.Random(seed), RunFiles(tmp_path), uuid4()
    writes = [(start, DATA[start : start + 700]) for start in range(0, len(DATA), 700)] * 2
    draw.shuffle(writes)
    end = 0
    for offset, data in writes:
        end = files.write_log(run_id, "output", offset, data)
    while end < len(DATA):  # the writer goes on from the length it was told
        end = files.write_log(run_id, "output", end, DATA[end : end + 700])
    assert files.read_log(run_id, "output", 0, len(DATA) + 1).data == DATA
    assert files.read_log(run_id, "output", -5, 100).data == DATA[-5:]
