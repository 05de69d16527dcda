"""A slice as its own container sees it: what it may use, what it uses, and a test that it cannot have more."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tessera_vgpu.calling import call, context_on, driver, plain, shown
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import DeviceMode, read_limits, read_usage
from tessera_vgpu.spinning import time_centi

IN_CONTAINER: Final = Path("/run/tessera")
"""Where a container finds its pages."""
PAGES_VARIABLE: Final = "TESSERA_TRIAL_PAGES"
"""Where a program in a slice of simulated cards finds them."""
_MIB: Final = 1 << 20
_CHUNK: Final = 64 * _MIB
_PIECE: Final = 2 * _MIB
"""What the driver gives at least."""
_OUT_OF_MEMORY: Final = 2
_TIME_TOLERANCE_CENTI: Final = 3
"""A limit of time is kept on average: a turn is not cut in the middle of a kernel."""


@dataclass(frozen=True, slots=True)
class SliceCard:
    """A container's part of one card: compute in hundredths of the card, times in seconds of all its programs so far.

    ``device_time_s`` their work took, ``waiting_s`` it waited for others, ``throttled_s`` for the container's own limit.
    """

    uuid: str
    memory_limit_bytes: int
    memory_reserved_bytes: int
    compute_request_centi: int
    compute_limit_centi: int
    device_time_s: float
    waiting_s: float
    throttled_s: float


@dataclass(frozen=True, slots=True)
class Slice:
    """What this container has, in the order in which its programs see the cards.

    ``one_device``: each of its programs sees one of the cards, as many each as it has of it.
    """

    pod_uid: str
    container: str
    most_processes: int
    cards: tuple[SliceCard, ...]
    one_device: bool

    def __str__(self) -> str:
        """Return a line for each card."""
        return "\n".join(
            f"{card.uuid}: {card.compute_request_centi / 100:.2f} of a card, up to {card.compute_limit_centi / 100:.2f}; "
            f"{card.memory_reserved_bytes / _MIB:.0f} of {card.memory_limit_bytes / _MIB:.0f} MiB in use"
            for card in self.cards
        )


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What happened when a program asked for all the memory of a card and for more, and then for all of its time.

    Attributes:
        granted_bytes: what it got, together with what was in use before.
        shown_bytes: the card's memory as the driver shows it to the program.
        refused: whether the next piece was refused as out of memory.
        compute_limit_centi: the limit, in hundredths of the card's time.
        compute_got_centi: what it got of the time.
    """

    card: str
    limit_bytes: int
    granted_bytes: int
    shown_bytes: int
    refused: bool
    compute_limit_centi: int
    compute_got_centi: int

    @property
    def memory_passed(self) -> bool:
        """Whether it got all memory that it may have, no more, and was refused beyond."""
        room = self.limit_bytes - self.granted_bytes
        return self.refused and 0 <= room < _PIECE and self.shown_bytes == self.limit_bytes

    @property
    def compute_passed(self) -> bool:
        """Whether it got no more of the time than it may have; while others use the card it may get less."""
        return self.compute_got_centi <= self.compute_limit_centi + _TIME_TOLERANCE_CENTI

    @property
    def passed(self) -> bool:
        """Whether both limits hold."""
        return self.memory_passed and self.compute_passed

    def __str__(self) -> str:
        """Return the result in two lines."""
        return (
            f"{_word(self.memory_passed)}: {self.card} has a limit of {self.limit_bytes / _MIB:.0f} MiB, gave "
            f"{self.granted_bytes / _MIB:.0f} MiB and {'refused' if self.refused else 'DID NOT REFUSE'} more; "
            f"the driver shows {self.shown_bytes / _MIB:.0f} MiB\n"
            f"{_word(self.compute_passed)}: {self.card} has a limit of {self.compute_limit_centi / 100:.2f} of its time and gave "
            f"{self.compute_got_centi / 100:.2f} to a program that asked for all"
        )


def slice(folder: Path | None = None) -> Slice:  # noqa: A001 - the word of the field
    """Return what this container has of its cards.

    Args:
        folder: of the pages; by default where containers, or programs in a slice of simulated cards, have them.

    Raises:
        VgpuError: ``inside.no_slice``: this is no container with a slice; ``limits.unreadable``: its limits are damaged.
    """
    where = folder or Path(os.environ.get(PAGES_VARIABLE, str(IN_CONTAINER)))
    if not (where / "limits").exists():
        raise VgpuError(
            "inside.no_slice",
            "This program has no slice of a card: {file} is not there.",
            "Start it in a container with tessera.io/vgpu, or by: tessera vgpu simulate --cards A100-80G --memory 8GiB",
            file=where / "limits",
        )
    _generation, limits = read_limits(where / "limits")
    usage = read_usage(where / "usage", len(limits.cards))
    cards = tuple(
        SliceCard(
            card.uuid,
            card.memory_limit_bytes,
            usage.reserved_bytes[index],
            card.compute_request_centi,
            card.compute_limit_centi,
            usage.totals[index].device_time_ns / 1e9,
            usage.totals[index].waiting_ns / 1e9,
            usage.totals[index].throttled_ns / 1e9,
        )
        for index, card in enumerate(limits.cards)
    )
    one_device = limits.mode is DeviceMode.ONE_DEVICE and len(cards) > 1
    return Slice(limits.pod_uid, limits.container, limits.most_processes, cards, one_device)


def self_test(folder: Path | None = None, seconds: float = 2.0) -> list[SelfTest]:
    """Try to get more memory, and then more time, than the slice has, on each card; programs of yours are held up meanwhile.

    Where programs see one of the cards, that of this program is tried.

    Args:
        folder: as in :func:`slice`.
        seconds: how long the time that one gets is measured; it takes half as long again.

    Raises:
        VgpuError: of :func:`slice`; ``inside.driver``, the driver refuses to work.
    """
    cuda = driver()
    mine, seen = slice(folder), shown(cuda)
    return [_test(cuda, card, seconds) for card in mine.cards if not mine.one_device or plain(card.uuid) in seen]


def _test(cuda: Any, card: SliceCard, seconds: float) -> SelfTest:
    with context_on(cuda, card.uuid):
        granted, shown, refused = _take_memory(cuda, card)
        got = time_centi(cuda, seconds)
    return SelfTest(card.uuid, card.memory_limit_bytes, granted, shown, refused, card.compute_limit_centi, got)


def _take_memory(cuda: Any, card: SliceCard) -> tuple[int, int, bool]:
    """Return how many bytes could be had, how many the driver shows, and whether more was refused; all is given back."""
    taken: list[tuple[ctypes.c_uint64, int]] = []
    try:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        call(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        before, refused = total.value - free.value, False
        for size in (_CHUNK, _PIECE):
            # Far enough beyond the limit nothing more is proved.
            while before + sum(bytes_ for _address, bytes_ in taken) <= card.memory_limit_bytes + _CHUNK:
                address = ctypes.c_uint64()
                if result := cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)):
                    refused = result == _OUT_OF_MEMORY
                    break
                taken.append((address, size))
        return before + sum(bytes_ for _address, bytes_ in taken), total.value, refused
    finally:
        for address, _bytes in taken:
            cuda.cuMemFree_v2(address)


def _word(passed: bool) -> str:
    return "passed" if passed else "FAILED"
