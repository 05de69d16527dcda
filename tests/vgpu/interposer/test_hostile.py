"""A container's programs get no card with limits that are not right, and pages full of rubbish crash nothing."""

from __future__ import annotations

import ctypes
import random
import secrets
import sys
import time
import zlib
from pathlib import Path

import pytest

from tessera_vgpu.layout import USAGE_MAGIC, VERSION, LimitsPageBytes, UsagePageBytes
from tests.vgpu.interposer.conftest import EFFORT, Slice, answer


def rewrite(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def test_without_pages_there_is_no_card(slice_: Slice) -> None:
    for name in ("usage", "limits"):
        (slice_.pages / name).rename(slice_.pages / "away")
        slice_.run("worker", "refused")
        (slice_.pages / name).mkdir()
        slice_.run("worker", "refused")
        (slice_.pages / name).rmdir()
        (slice_.pages / "away").rename(slice_.pages / name)
    assert slice_.units() == 8


def damage(page: LimitsPageBytes, what: str) -> bytes:
    bank = page.bank[0]
    match what:
        case "magic":
            page.magic ^= 1
        case "version":
            page.version += 1
        case "size":
            page.size -= 1
        case "sequence":
            page.sequence = 1
        case "checksum":
            bank.checksum ^= 1
        case "cards":
            bank.card_count = 1000
        case "no limit":
            bank.cards[0].memory_limit_bytes = 0
        case "endless name":
            bank.cards[0].uuid = b"G" * 96
        case "processes":
            bank.most_processes = 513
    if what not in ("checksum", "sequence"):
        bank.checksum = 0
        bank.checksum = zlib.crc32(bytes(bank))
    return bytes(page)


@pytest.mark.parametrize(
    "what", ["magic", "version", "size", "sequence", "checksum", "cards", "no limit", "endless name", "processes"]
)
def test_damaged_limits_give_no_card(slice_: Slice, what: str) -> None:
    path = slice_.pages / "limits"
    content = path.read_bytes()
    rewrite(path, damage(LimitsPageBytes.from_buffer_copy(content), what))
    slice_.run("worker", "refused")
    rewrite(path, content)
    assert slice_.units() == 8


@pytest.mark.parametrize("length", [0, 1, ctypes.sizeof(LimitsPageBytes) - 1, ctypes.sizeof(LimitsPageBytes) + 1])
def test_limits_of_another_length_give_no_card(slice_: Slice, length: int) -> None:
    rewrite(slice_.pages / "limits", (slice_.pages / "limits").read_bytes().ljust(length, b"\0")[:length])
    slice_.run("worker", "refused")


def test_random_limits_crash_nothing(slice_: Slice) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    path, size = slice_.pages / "limits", ctypes.sizeof(LimitsPageBytes)
    for _try in range(5 * EFFORT):
        rewrite(path, chance.randbytes(size))
        slice_.run("worker", "refused")


MOUNT = "36 35 98:0 {source} {target} rw,relatime - ext4 /dev/sda rw\n"


def test_limits_of_another_container_give_no_card(slice_: Slice, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"

    def outcome(*sources: str) -> str:
        mounts.write_text("".join(MOUNT.format(source=source, target="/etc/hosts") for source in ("/", *sources)))
        program = ("worker", "refused") if "other" in "".join(sources) else ("fill", "linear", "linked")
        return slice_.run(*program, TESSERA_TRIAL_MOUNTS=str(mounts))

    pods = "/var/lib/kubelet/pods"
    assert outcome(f"{pods}/pod-a/etc-hosts", f"{pods}/pod-a/containers/main/4711").startswith("8 8")
    assert outcome(f"{pods}/pod-a/volumes/kubernetes.io~empty-dir/x").startswith("8 8")
    outcome(f"{pods}/pod-other/etc-hosts")
    outcome(f"{pods}/pod-a-other/etc-hosts")
    outcome(f"{pods}/pod-a/etc-hosts", f"{pods}/pod-a/containers/other/4711")


def test_limits_that_are_damaged_later_leave_the_earlier_ones(slice_: Slice) -> None:
    worker = slice_.start("told")
    answer(worker, "alloc 100", "0")
    (slice_.pages / "limits").chmod(0o644)
    chance = random.Random(1)
    with (slice_.pages / "limits").open("r+b") as file:
        file.write(chance.randbytes(ctypes.sizeof(LimitsPageBytes)))
    answer(worker, "info", "156 256")
    answer(worker, "alloc 157", "2")
    answer(worker, "alloc 156", "0")


def test_limits_of_others_cannot_come_into_force(slice_: Slice) -> None:
    """A bank with other cards, an older one, or another pod's is not taken."""
    worker = slice_.start("told")
    path = slice_.pages / "limits"
    path.chmod(0o644)
    page = LimitsPageBytes.from_buffer_copy(path.read_bytes())
    for changes in ({"pod_uid": b"pod-b"}, {"card_count": 2}, {"generation": 1}):
        bank = LimitsPageBytes.from_buffer_copy(bytes(page)).bank[0]
        bank.generation = 100
        bank.cards[0].memory_limit_bytes = 1 << 40
        bank.cards[1] = bank.cards[0]
        for name, value in changes.items():
            setattr(bank, name, value)
        bank.checksum = 0
        bank.checksum = zlib.crc32(bytes(bank))
        page.bank[(page.sequence + 1) & 1] = bank
        page.sequence += 1
        with path.open("r+b") as file:
            file.write(bytes(page))
        answer(worker, "info", "256 256")


def test_rubbish_in_the_usage_page_crashes_nothing(slice_: Slice) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    size = ctypes.sizeof(UsagePageBytes)
    workers = [slice_.start("torture", place, 2, 0, 200, 1) for place in range(3)]
    until = time.monotonic() + 4 * EFFORT
    with (slice_.pages / "usage").open("r+b", buffering=0) as file:
        while time.monotonic() < until:
            # Mostly where processes look: the header, the sums, and the first slots.
            file.seek(chance.randrange(size if chance.random() < 0.3 else 4096))
            file.write(chance.choice([b"\0" * 8, b"\xff" * 8, chance.randbytes(8)]))
            time.sleep(0.002)
        assert [worker.poll() for worker in workers] == [None] * 3
        for worker in workers:
            worker.kill()
            worker.wait()
        file.seek(0)
        file.write(bytes(UsagePageBytes(magic=USAGE_MAGIC, version=VERSION, size=size)))
    assert slice_.units() == 8
