"""Limits that the agent gives to a container, and usage that the container's processes report.

The layout and the protocol are in ``vgpu/interposer/pages.h``. A limits page is created by rename, so that it is there wholly or
not at all, and changed in place through its two banks, since processes have it mapped. A usage page belongs to a tenant: it is
copied with ``pread`` from a plain file, never mapped, and nothing in it is believed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import stat
import time
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import (
    LIMITS_MAGIC,
    MOST_CARDS,
    MOST_PROCESSES,
    NAME_BYTES,
    USAGE_MAGIC,
    UUID_BYTES,
    VERSION,
    LimitsBankBytes,
    LimitsPageBytes,
    UsagePageBytes,
)

HIGHEST: Final = (1 << 64) - 1
_MOST_BYTES: Final = 1 << 62
_MOST_WEIGHT: Final = 10_000
_MOST_PRIORITY: Final = 1000
_TRIES: Final = 100
_SEQUENCE: Final = LimitsPageBytes.sequence.offset
_BANKS: Final = LimitsPageBytes.bank.offset
_BANK_SIZE: Final = ctypes.sizeof(LimitsBankBytes)


class DeviceMode(IntEnum):
    """How a container sees its cards: each with its own limits, or as one device."""

    CARDS = 0
    ONE_DEVICE = 1


@dataclass(frozen=True, slots=True)
class CardLimits:
    """Limits on one card. Compute in centi-cards, request ≤ limit ≤ 100; ``context_bytes`` is the cost of a process's context."""

    uuid: str
    memory_limit_bytes: int
    compute_request_centi: int
    compute_limit_centi: int
    weight: int = 1
    context_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """All that a container may use, and whose it is. A larger ``priority_class`` is more important."""

    pod_uid: str
    container: str
    cards: tuple[CardLimits, ...]
    priority_class: int = 0
    mode: DeviceMode = DeviceMode.CARDS
    most_processes: int = MOST_PROCESSES

    def __post_init__(self) -> None:
        names = [(self.pod_uid, NAME_BYTES), (self.container, NAME_BYTES), *((card.uuid, UUID_BYTES) for card in self.cards)]
        right = (
            all(name.isascii() and name.isprintable() and 0 < len(name) < size for name, size in names)
            and 1 <= len({card.uuid for card in self.cards}) == len(self.cards) <= MOST_CARDS
            and 0 <= self.priority_class <= _MOST_PRIORITY
            and 1 <= self.most_processes <= MOST_PROCESSES
            and all(
                0 < card.memory_limit_bytes <= _MOST_BYTES
                and 0 <= card.context_bytes <= _MOST_BYTES
                and 1 <= card.compute_request_centi <= card.compute_limit_centi <= 100
                and 1 <= card.weight <= _MOST_WEIGHT
                for card in self.cards
            )
        )
        if not right:
            raise VgpuError(
                "limits.invalid",
                "These limits of {pod}/{container} are out of range.",
                pod=self.pod_uid,
                container=self.container,
            )


def create_limits(path: Path, limits: Limits) -> None:
    """Write a new limits page, wholly or not at all; one that is there is replaced. Durable when this returns."""
    page = LimitsPageBytes(magic=LIMITS_MAGIC, version=VERSION, size=ctypes.sizeof(LimitsPageBytes), sequence=0)
    page.bank[0] = _bank(limits, 1)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        os.fchmod(descriptor, 0o444)
        os.write(descriptor, bytes(page))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def change_limits(path: Path, limits: Limits) -> int:
    """Put other limits into a page that processes may have mapped, and return their generation.

    Killed at any moment, it leaves the earlier limits or the new ones in force.

    Raises:
        VgpuError: ``limits.unreadable``: the page is damaged; create it anew, with the processes gone.
    """
    with path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size != ctypes.sizeof(LimitsPageBytes):
            raise _unreadable(path)
        with mmap.mmap(file.fileno(), ctypes.sizeof(LimitsPageBytes)) as mapped:
            page = LimitsPageBytes.from_buffer_copy(mapped)
            sequence = page.sequence
            current = _decode(page.bank[sequence & 1])
            if not _is_limits(page) or current is None:
                raise _unreadable(path)
            generation = current[0] + 1
            other = _BANKS + ((sequence + 1) & 1) * _BANK_SIZE
            mapped[other : other + _BANK_SIZE] = bytes(_bank(limits, generation))
            # One aligned store of 64 bits: ctypes copies the number as a whole, struct.pack_into byte by byte.
            word = ctypes.c_uint64.from_buffer(mapped, _SEQUENCE)
            word.value = (sequence + 1) & HIGHEST
            del word
            mapped.flush()
    return generation


def read_limits(path: Path) -> tuple[int, Limits]:
    """Return generation and limits of a page.

    Raises:
        VgpuError: ``limits.unreadable``: no page, or one that is damaged.
    """
    for attempt in range(_TRIES):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path) from error
        if len(content) != ctypes.sizeof(LimitsPageBytes):
            raise _unreadable(path)
        page = LimitsPageBytes.from_buffer_copy(content)
        if not _is_limits(page):
            raise _unreadable(path)
        # A reading while the agent writes may be mixed; the checksum tells.
        if (found := _decode(page.bank[page.sequence & 1])) is not None:
            return found
        time.sleep(0.0001 * attempt)
    raise _unreadable(path)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bank(limits: Limits, generation: int) -> LimitsBankBytes:
    bank = LimitsBankBytes(
        generation=generation,
        card_count=len(limits.cards),
        priority_class=limits.priority_class,
        mode=int(limits.mode),
        most_processes=limits.most_processes,
        pod_uid=limits.pod_uid.encode("ascii"),
        container=limits.container.encode("ascii"),
    )
    for place, card in zip(bank.cards, limits.cards, strict=False):
        place.uuid = card.uuid.encode("ascii")
        place.memory_limit_bytes = card.memory_limit_bytes
        place.context_bytes = card.context_bytes
        place.compute_request_centi = card.compute_request_centi
        place.compute_limit_centi = card.compute_limit_centi
        place.weight = card.weight
    bank.checksum = zlib.crc32(bytes(bank))
    return bank


def _is_limits(page: LimitsPageBytes) -> bool:
    """Whether the library would read it, too."""
    return bool(page.magic == LIMITS_MAGIC and page.version == VERSION and page.size == ctypes.sizeof(LimitsPageBytes))


def _decode(bank: LimitsBankBytes) -> tuple[int, Limits] | None:
    """Return generation and limits of a bank, None if it is not sound."""
    copy = LimitsBankBytes.from_buffer_copy(bytes(bank))
    checksum, copy.checksum = copy.checksum, 0
    if zlib.crc32(bytes(copy)) != checksum or not 1 <= copy.card_count <= MOST_CARDS:
        return None
    try:
        cards = tuple(
            CardLimits(
                card.uuid.decode("ascii"),
                card.memory_limit_bytes,
                card.compute_request_centi,
                card.compute_limit_centi,
                card.weight,
                card.context_bytes,
            )
            for card in copy.cards[: copy.card_count]
        )
        names = copy.pod_uid.decode("ascii"), copy.container.decode("ascii")
        return copy.generation, Limits(*names, cards, copy.priority_class, DeviceMode(copy.mode), copy.most_processes)
    except (VgpuError, ValueError):
        return None


def _unreadable(path: Path) -> VgpuError:
    return VgpuError(
        "limits.unreadable",
        "The limits in {file} cannot be read.",
        "The container gets no card until the node agent has written them again.",
        file=path,
    )


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a process, or a whole container, has of one card."""

    bytes: int
    device_time_ns: int
    waiting_ns: int
    throttled_ns: int


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """A process's slot. ``pid`` counts in the container's name space."""

    slot: int
    generation: int
    pid: int
    pid_start_ticks: int
    pending_bytes: int
    ledgers: tuple[Ledger, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container says of itself.

    Attributes:
        reserved_bytes: per card, the counter that allocations are checked against.
        totals: per card over the living and the ended processes; sums stop at 2⁶⁴ − 1.
        anomalies: what cannot be true, as stable words; ``truncated``, ``magic``, ``version``, ``not_a_file``, ``oversized``,
            ``saturated``, ``repeated_pid``, ``unknown_card``, ``process_without_pid``.
    """

    limits_generation: int
    reserved_bytes: tuple[int, ...]
    totals: tuple[Ledger, ...]
    processes: tuple[ProcessUsage, ...]
    anomalies: tuple[str, ...]


def create_usage(path: Path) -> None:
    """Write an empty usage page that every user may change: it is mounted into one container, whose users are not known."""
    page = UsagePageBytes(magic=USAGE_MAGIC, version=VERSION, size=ctypes.sizeof(UsagePageBytes))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, bytes(page))
        os.fchmod(descriptor, 0o666)
    finally:
        os.close(descriptor)


def read_usage(path: Path, card_count: int) -> Usage:
    """Return what a usage page says about the container's first *card_count* cards. Raises nothing, whatever the page holds."""
    size = ctypes.sizeof(UsagePageBytes)
    content, anomalies = copy_page(path, size)
    content = content.ljust(size, b"\0")
    return _usage(UsagePageBytes.from_buffer_copy(content), card_count, anomalies)


def copy_page(path: Path, size: int) -> tuple[bytes, list[str]]:
    """Return at most *size* bytes of a tenant's file, and what is wrong with it: no links, no pipes that would block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b"", ["not_a_file"]
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b"", ["not_a_file"]
        large = os.fstat(descriptor).st_size > size
        content = os.pread(descriptor, size, 0)
    except OSError:
        return b"", ["not_a_file"]
    finally:
        os.close(descriptor)
    return content, ["truncated"] if len(content) < size else ["oversized"] if large else []


def _usage(page: UsagePageBytes, card_count: int, anomalies: list[str]) -> Usage:
    found = set(anomalies)
    if not {"truncated", "not_a_file"} & found:
        found |= {"magic"} if page.magic != USAGE_MAGIC else set()
        found |= {"version"} if page.version != VERSION or page.size != ctypes.sizeof(UsagePageBytes) else set()
    processes: list[ProcessUsage] = []
    sums = [[0, c.retired_device_time_ns, c.retired_waiting_ns, c.retired_throttled_ns] for c in page.cards[:card_count]]
    for index, slot in enumerate(page.slots):
        if slot.generation % 2 == 0:
            continue
        ledgers = tuple(Ledger(x.bytes, x.device_time_ns, x.waiting_ns, x.throttled_ns) for x in slot.ledger[:card_count])
        if slot.pid == 0 or slot.pid > (1 << 22):
            found.add("process_without_pid")
        if any(x.bytes or x.device_time_ns for x in slot.ledger[card_count:]):
            found.add("unknown_card")
        for total, ledger in zip(sums, ledgers, strict=True):
            for place, amount in enumerate((ledger.bytes, ledger.device_time_ns, ledger.waiting_ns, ledger.throttled_ns)):
                total[place] += amount
        processes.append(ProcessUsage(index, slot.generation, slot.pid, slot.pid_start_ticks, slot.pending_bytes, ledgers))
    if len({process.pid for process in processes}) < len(processes):
        found.add("repeated_pid")
    if any(amount > _MOST_BYTES for total in sums for amount in total):
        found.add("saturated")
    return Usage(
        page.limits_generation,
        tuple(card.reserved_bytes for card in page.cards[:card_count]),
        tuple(Ledger(*(min(amount, HIGHEST) for amount in total)) for total in sums),
        tuple(processes),
        tuple(sorted(found)),
    )
