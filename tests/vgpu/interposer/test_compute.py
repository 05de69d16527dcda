"""Shares of a card's time, by the simulator's own books. Bounds are wide: how exact shares are is what the benchmark measures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tessera_vgpu.layout import SeatBytes, TurnsCardBytes, TurnsPageBytes
from tessera_vgpu.pages import CardLimits, Limits, change_limits, create_limits, create_usage, read_usage
from tessera_vgpu.simulate import Machine, make_machine, parse_cards, read_cards
from tessera_vgpu.trial import LIBRARY
from tessera_vgpu.turns import create_turns, write_rosters
from tests.vgpu.interposer.conftest import answer, go, scribbling

DILATION = 4
"""The card runs so much slower than the clock, so that two busy processors are fast enough for it."""
SECONDS = 1.2
"""Of the card's clock that a measurement takes, at least."""


@dataclass(frozen=True)
class Container:
    """What a container has of the card: request and limit in centi-cards, class and weight."""

    request: int
    limit: int = 100
    priority: int = 0
    weight: int = 1


@dataclass
class Node:
    """A simulated card that containers share, and their programs."""

    folder: Path
    machine: Machine
    programs: dict[str, Path]
    containers: dict[str, Container]
    started: dict[subprocess.Popen[str], str]

    def limits(self, name: str, container: Container) -> Limits:
        card = CardLimits(self.machine.uuids[0], 1 << 30, container.request, container.limit, container.weight, 64 << 20)
        return Limits(f"pod-{name}", "main", (card,), container.priority)

    def add(self, **containers: Container) -> None:
        for name, container in containers.items():
            pages = self.folder / name
            pages.mkdir()
            create_limits(pages / "limits", self.limits(name, container))
            create_usage(pages / "usage")
            create_turns(pages / "turns", self.folder / "node", name)
        self.containers |= containers
        write_rosters(self.folder / "node", {name: self.limits(name, each) for name, each in self.containers.items()})

    def start(self, name: str, mode: str, ns: int, seconds: float = 600) -> subprocess.Popen[str]:
        """Start a program that keeps the card busy; it waits for :meth:`go`."""
        return self.start_program(name, "load", mode, ns, seconds * DILATION)

    def start_program(self, name: str, *command: object) -> subprocess.Popen[str]:
        """Start a compiled program of a container, and return it when it has said "ready"."""
        return self.start_command(name, [str(self.programs[str(command[0])]), *map(str, command[1:])])

    def start_command(self, name: str, command: Sequence[str]) -> subprocess.Popen[str]:
        trial = {
            "LD_PRELOAD": str(LIBRARY),
            "TESSERA_TRIAL_PAGES": str(self.folder / name),
            "TESSERA_TRIAL_NODE": str(self.folder / "node"),
            "TESSERA_TRIAL_DILATION_PPM": str(DILATION * 1_000_000),
        }
        process = subprocess.Popen(
            command,
            env=self.machine.environment() | trial,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started[process] = name
        answer(process, None, "ready")
        return process

    def go(self) -> None:
        go(*(process for process in self.started if process.poll() is None))

    def busy(self) -> tuple[int, dict[str, int]]:
        """Return the card's time, and of it what the living programs of each container have had, in ns."""
        seen = self.machine.inspect()
        of = {process.pid: name for process, name in self.started.items()}
        used = dict.fromkeys(self.containers, 0)
        for process in seen.processes:
            if process.pid in of:
                used[of[process.pid]] += process.cards[0].busy_ns
        return seen.now_ns, used

    def shares(self, seconds: float = SECONDS, settle: float = 0.3) -> dict[str, float]:
        """Return the percentage of the card's time that each container has from now on."""
        time.sleep(settle * DILATION)
        began, before = self.busy()
        while (reached := self.busy())[0] < began + seconds * 1e9:
            time.sleep(0.1)
        now, after = reached
        return {name: 100 * (after[name] - before[name]) / (now - began) for name in after}


@pytest.fixture
def node(built: dict[str, Path], tmp_path: Path) -> Iterator[Node]:
    machine = make_machine(tmp_path / "machine", parse_cards("A100-80G", read_cards()), dilation=DILATION)
    (tmp_path / "node").mkdir()
    made = Node(tmp_path, machine, built, {}, {})
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("mode", "ns"),
    [
        ("async", 200_000),
        ("sync", 500_000),
        ("graph", 50_000),
        ("cooperative", 300_000),
        ("extended", 200_000),
        ("capture", 200_000),
    ],
)
def test_a_program_gets_its_limit_and_no_more(node: Node, mode: str, ns: int) -> None:
    node.add(a=Container(30, 30))
    node.start("a", mode, ns)
    node.go()
    assert 22 < node.shares()["a"] < 36
    usage = read_usage(node.folder / "a" / "usage", 1)
    assert usage.totals[0].device_time_ns > 0
    assert usage.totals[0].throttled_ns > 0


def test_processes_of_a_container_share_its_limit(node: Node) -> None:
    node.add(a=Container(40, 40))
    for _process in range(3):
        node.start("a", "async", 300_000)
    node.go()
    assert 30 < node.shares()["a"] < 47


def test_busy_containers_get_what_they_requested(node: Node) -> None:
    node.add(small=Container(20), large=Container(80))
    node.start("small", "async", 200_000)
    node.start("large", "async", 1_000_000)
    node.go()
    shares = node.shares(seconds=2)
    assert 12 < shares["small"] < 28
    assert shares["large"] > 60


def test_who_waits_for_its_limit_keeps_nobody_from_the_card(node: Node) -> None:
    node.add(limited=Container(20, 20), greedy=Container(50))
    node.start("limited", "async", 2_000_000)
    node.start("greedy", "async", 2_000_000)
    node.go()
    shares = node.shares(seconds=2)
    assert 12 < shares["limited"] < 27
    assert shares["greedy"] > 55


def test_who_pauses_after_each_kernel_finds_the_card_when_it_comes_back(node: Node) -> None:
    """It could have half of the card, alone: a millisecond of work, a millisecond without. The other has the rest."""
    node.add(pausing=Container(50), greedy=Container(50))
    node.start("pausing", "pausing", 1_000_000)
    node.start("greedy", "async", 1_000_000)
    node.go()
    shares = node.shares(seconds=2)
    assert shares["pausing"] > 20
    assert shares["greedy"] > 35


def test_what_others_leave_is_used_and_given_back(node: Node) -> None:
    node.add(a=Container(50), b=Container(50))
    first = node.start("a", "async", 200_000)
    node.go()
    assert node.shares(seconds=1)["a"] > 80
    second = node.start("b", "async", 200_000)
    node.go()
    assert 35 < node.shares()["b"] < 65
    second.kill()
    second.wait()
    assert node.shares(seconds=1)["a"] > 80
    assert first.poll() is None


def test_the_more_important_goes_first(node: Node) -> None:
    node.add(low=Container(50), high=Container(50, priority=10))
    node.start("low", "async", 200_000)
    node.start("high", "async", 200_000)
    node.go()
    shares = node.shares()
    assert shares["high"] > 70
    assert shares["low"] < 25


def test_a_limit_is_changed_while_the_program_runs(node: Node) -> None:
    node.add(a=Container(20, 20))
    node.start("a", "async", 200_000)
    node.go()
    assert node.shares(seconds=1)["a"] < 30
    change_limits(node.folder / "a" / "limits", node.limits("a", Container(20, 70)))
    assert 55 < node.shares(settle=0.6)["a"] < 80


def test_programs_that_wait_for_each_other_on_the_card_come_to_their_end(node: Node) -> None:
    """As ranks of a collective do, on two slices of one card: who has the turn cannot go on before the other has had one."""
    node.add(a=Container(50), b=Container(50))
    counters = node.folder / "counters"
    counters.write_bytes(bytes(16))
    ranks = [node.start_program(name, "collective", counters, me, 4) for me, name in enumerate(("a", "b"))]
    node.go()
    assert [answer(rank, None) for rank in ranks] == ["done", "done"]


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_who_stops_in_its_turn_holds_nobody_up(node: Node) -> None:
    """A stopped or wedged process says nothing any more; its neighbour goes on without it."""
    node.add(a=Container(50), b=Container(50))
    stuck = node.start("a", "async", 200_000)
    node.start("b", "async", 200_000)
    node.go()
    node.shares(seconds=0.5)
    # The simulator is stopped with a program that it stops in one of its calls, so a moment outside of one is sought.
    for _attempt in range(50):
        with stopped(stuck):
            if moves(node):
                assert node.shares(seconds=1)["b"] > 70
                return
        time.sleep(0.05)
    pytest.fail("the program was always stopped inside the simulated driver")


def moves(node: Node) -> bool:
    """Whether the simulated machine goes on."""
    try:
        node.machine.inspect()
    except subprocess.TimeoutExpired:
        return False
    return True


def rubbish() -> bytes:
    return os.urandom(1 << 12)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(rubbish()),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"\xff" * 67_000),
        lambda path: path.write_bytes(bytes(TurnsPageBytes(magic=1)) + rubbish()),
    ],
    ids=["rubbish", "cut", "ones", "long"],
)
def test_a_hostile_page_does_not_hold_its_neighbour_up(node: Node, harm: Callable[[Path], None]) -> None:
    """Whatever a tenant writes into its own page, others run, and crash nowhere."""
    node.add(a=Container(50), hostile=Container(50))
    mine = node.start("a", "async", 200_000)
    harm(node.folder / "hostile" / "turns")
    node.go()
    assert node.shares(seconds=1)["a"] > 70
    assert mine.poll() is None


MOVES = """
import ctypes, sys, time
cuda, context, to, other = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64()
size, count, device = int(sys.argv[2]), ctypes.c_int(), ctypes.c_int(0)
assert cuda.cuInit(0) == cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(to), ctypes.c_size_t(size)) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(other), ctypes.c_size_t(size)) == 0
host = ctypes.create_string_buffer(size)
host_address = ctypes.c_uint64(ctypes.addressof(host))
long, many = ctypes.c_size_t, 1024

class Place(ctypes.Structure):  # an end of a copy of rows: where, and of what kind
    _fields_ = [("x", long), ("y", long), ("kind", ctypes.c_int), ("host", ctypes.c_void_p), ("card", ctypes.c_uint64),
                ("array", ctypes.c_void_p), ("pitch", long)]

class Rows(ctypes.Structure):
    _fields_ = [("source", Place), ("target", Place), ("width", long), ("height", long)]

width = size // many
within = Rows(Place(kind=2, card=to, pitch=width), Place(kind=4, card=other, pitch=width), width, many)
down = Rows(Place(kind=1, host=host_address.value, pitch=width), Place(kind=2, card=to, pitch=width), width, many)
piece = size // 8
pieces = (long * 8)(*[piece] * 8)
each = lambda begin: (ctypes.c_uint64 * 8)(*[begin.value + i * piece for i in range(8)])
calls = {
    "rows": lambda: cuda.cuMemcpy2DAsync_v2(ctypes.byref(within), None),
    "rows at once": lambda: cuda.cuMemcpy2DUnaligned_v2(ctypes.byref(within)),
    "rows from the host": lambda: cuda.cuMemcpy2D_v2(ctypes.byref(down)),
    "batch": lambda: cuda.cuMemcpyBatchAsync_v2(each(other), each(to), pieces, long(8), None, None, long(0), None),
    "fill": lambda: cuda.cuMemsetD32_v2(to, 7, ctypes.c_size_t(size // 4)),
    "fill of a stream": lambda: cuda.cuMemsetD8Async_ptsz(to, 7, ctypes.c_size_t(size), None),
    "copy": lambda: cuda.cuMemcpyDtoDAsync_v2(other, to, ctypes.c_size_t(size), None),
    "copy of any kind": lambda: cuda.cuMemcpyAsync(other, to, ctypes.c_size_t(size), None),
    "from the host, of any kind": lambda: cuda.cuMemcpy(to, host_address, ctypes.c_size_t(size)),
    "from the host": lambda: cuda.cuMemcpyHtoD_v2(to, host, ctypes.c_size_t(size)),
}
for _again in range(10):
    assert calls[sys.argv[1]]() == 0
assert cuda.cuCtxSynchronize() == 0
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("call", "mib", "counts"),
    [
        ("fill", 8, True),
        ("fill of a stream", 8, True),
        ("copy", 8, True),
        ("copy of any kind", 8, True),
        ("from the host, of any kind", 8, False),
        ("from the host", 8, False),
        ("rows", 8, True),
        ("rows at once", 8, True),
        ("rows from the host", 8, False),
        ("batch", 8, True),
        ("fill", 0.5, False),
    ],
)
def test_large_fills_and_copies_within_the_card_are_device_time(node: Node, call: str, mib: float, counts: bool) -> None:
    """What engines of their own do, and what is small, takes no time from others."""
    node.add(a=Container(50))
    began = time.monotonic_ns()
    node.start_command("a", [sys.executable, "-c", MOVES, call, str(int(mib * (1 << 20)))])
    passed_ns = (time.monotonic_ns() - began) // DILATION
    booked = read_usage(node.folder / "a" / "usage", 1).totals[0].device_time_ns
    # The simulated driver moves the bytes in the program's own time, so it may be more than a card's.
    least = 10 * 8 / 1.7e6 * (1 << 20) * 1000
    assert least / 2 < booked < passed_ns if counts else booked == 0


def telling(node: Node, seat: Callable[[int], SeatBytes], virtual_ns: list[int] | None = None) -> AbstractContextManager[None]:
    """Write a seat, and a virtual time, into the page of the hostile container again and again."""
    card = TurnsPageBytes.cards.offset

    def write(page: int) -> None:
        os.pwrite(page, bytes(seat(time.monotonic_ns() // DILATION)), card + TurnsCardBytes.seats.offset)
        os.pwrite(page, b"\x01", card + TurnsCardBytes.seats_in_use.offset)
        if virtual_ns is not None:
            os.pwrite(page, virtual_ns[0].to_bytes(8, "little"), card + TurnsCardBytes.virtual_ns.offset)

    return scribbling(node.folder / "hostile" / "turns", write)


@pytest.mark.parametrize(
    "lie",
    [
        lambda now: SeatBytes(active_ns=now, held_ns=now, until_ns=now + 20_000_000),
        lambda now: SeatBytes(active_ns=now, wanted_ns=now - 10_000_000),
    ],
    ids=["always has its turn", "always wants it"],
)
@pytest.mark.parametrize("priority", [0, 1])
def test_who_lies_keeps_nobody_waiting_for_longer_than_is_its_part(
    node: Node, lie: Callable[[int], SeatBytes], priority: int
) -> None:
    node.add(a=Container(80), hostile=Container(10, 20, priority))
    node.start("a", "async", 1_000_000)
    with telling(node, lie):
        node.go()
        assert node.shares(seconds=1, settle=1.5)["a"] > 60


def test_who_says_that_it_had_much_puts_others_behind_nobody_for_long(node: Node) -> None:
    """Who comes back begins where the others are; if that was a lie, it may not be behind for ever."""
    node.add(a=Container(80), late=Container(10), hostile=Container(10))
    node.start("a", "async", 1_000_000)
    told = [1 << 61]
    with telling(node, lambda now: SeatBytes(active_ns=now), told):
        node.go()
        node.shares(seconds=0.2)
        told[0] = 0
        node.start("late", "async", 1_000_000)
        node.go()
        shares = node.shares(seconds=2, settle=1.5)
        assert shares["a"] > 3 * shares["late"], shares


def test_limits_hold_without_a_roster(node: Node) -> None:
    """What has the container's files but no node around it is limited by itself."""
    node.add(a=Container(30, 30))
    (node.folder / "node" / "a").unlink()
    for roster in (node.folder / "node").glob("roster-*"):
        roster.unlink()
    node.start("a", "async", 200_000)
    node.go()
    assert 22 < node.shares()["a"] < 36
