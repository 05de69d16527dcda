"""Whatever stands in the files of a slice, programs neither crash nor hang, and its neighbours go on as if nothing were.

Programs and library are built with AddressSanitizer; where a file is cut short under a program, without it, since what comes of
that is the signal of the system. TESSERA_TEST_EFFORT says how many times as many examples as in CI.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import (
    MOST_CARDS,
    MOST_PROCESSES,
    MOST_SEATS,
    ROSTER_MAGIC,
    TURNS_MAGIC,
    VERSION,
    LimitsBankBytes,
    LimitsPageBytes,
    NeighbourBytes,
    RosterBytes,
    TurnsPageBytes,
    UsagePageBytes,
)
from tessera_vgpu.pages import change_limits, read_limits
from tests.vgpu.interposer.conftest import BUILD, EFFORT, MIB
from tests.vgpu.interposer.sanitized import Build, Container, Sanitized, build

SECONDS: Final = 60
"""An answer that takes longer does not come at all: all waits of the library end after some seconds."""
REFUSED: Final = "800"
NO_MEMORY: Final = "2"
OTHER_CARD: Final = "101"
"""The card of the limits is none of the machine's."""
few = settings(
    max_examples=40 * EFFORT,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
bits32 = st.one_of(st.sampled_from([0, 1, 2, 100, 101, 512, 513, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))
bits64 = st.one_of(st.sampled_from([0, 1, MIB, 1 << 62, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))


class Program:
    """A program that does what it is asked."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.process = subprocess.Popen(
            [str(container.programs["asked"])],
            env=container.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        container.started.append(self.process)
        assert self._line() == "ready"

    def ask(self, line: str) -> str:
        """Return the answer, "" if the program has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._line()

    def _line(self) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], SECONDS)[0], "no answer"
        return stdout.readline().strip()

    def end(self) -> int:
        self.process.kill()
        self.process.communicate()
        return self.process.returncode


@pytest.fixture(scope="module")
def address(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    assert built  # and with it the simulated driver
    return build("address", tmp_path_factory.mktemp("sanitized"))


@pytest.fixture
def site(address: Build, tmp_path: Path) -> Iterator[Sanitized]:
    made = Sanitized(tmp_path, address)
    yield made
    made.end()
    made.check()


@pytest.fixture
def plain(built: dict[str, Path], tmp_path: Path) -> Iterator[Sanitized]:
    made = Sanitized(tmp_path, Build("plain", BUILD / "libtessera_vgpu_trial.so", Path("/dev/null"), built))
    yield made
    made.end()


def begun(container: Container) -> Program:
    program = Program(container)
    assert program.ask("init") == "0"
    return program


def write(path: Path, content: bytes) -> None:
    """Write over what is there, so that whoever has it mapped sees it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


def seal(bank: LimitsBankBytes) -> None:
    bank.checksum = 0
    bank.checksum = zlib.crc32(bytes(bank))


@st.composite
def limits_changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """How a limits page is spoilt: its header, fields of a bank with the checksum right or not, any bytes, its length."""
    header = draw(st.dictionaries(st.sampled_from(["magic", "version", "size", "sequence"]), bits32, max_size=1))
    of_bank = st.sampled_from(["generation", "card_count", "priority_class", "mode", "most_processes"])
    of_card = st.sampled_from(["memory_limit_bytes", "context_bytes", "compute_request_centi", "compute_limit_centi", "weight"])
    bank = draw(st.dictionaries(of_bank, bits32, max_size=2))
    card = draw(st.dictionaries(of_card, st.one_of(bits32, bits64), max_size=2))
    name = draw(st.none() | st.binary(max_size=96))
    sealed, place = draw(st.booleans()), draw(st.integers(0, 1))
    strewn = draw(st.lists(st.tuples(st.integers(0, ctypes.sizeof(LimitsPageBytes) - 1), st.integers(0, 255)), max_size=3))
    length = draw(st.none() | st.integers(0, 2 * ctypes.sizeof(LimitsPageBytes)))

    def spoil(content: bytes) -> bytes:
        page = LimitsPageBytes.from_buffer_copy(content)
        for field, value in header.items():
            setattr(page, field, value)
        changed = page.bank[place]
        for field, value in bank.items():
            setattr(changed, field, value)
        for field, value in card.items():
            setattr(changed.cards[0], field, value)
        if name is not None:
            ctypes.memmove(ctypes.addressof(changed.cards[0]), name, len(name))
        if sealed:
            seal(changed)
        spoilt = bytearray(bytes(page))
        for at, value in strewn:
            spoilt[at] = value
        return bytes(spoilt) if length is None else bytes(spoilt).ljust(length, b"\0")[:length]

    return spoil


def is_taken(path: Path) -> bool:
    try:
        read_limits(path)
    except VgpuError:
        return False
    return True


def test_spoilt_limits_at_the_start_of_a_program(site: Sanitized) -> None:
    """What the agent's own reader takes is taken; all else is refused, or at least does no harm."""
    container = site.containers[0]
    path, programs = container.pages / "limits", [Program(container)]
    right = path.read_bytes()

    @few
    @given(limits_changes())
    def fuzz(spoil: Callable[[bytes], bytes]) -> None:
        content = spoil(right)
        path.unlink()
        path.write_bytes(content)
        got = programs[-1].ask("init")
        assert got in ("0", OTHER_CARD, REFUSED), (got, programs[-1].process.poll())
        if is_taken(path):
            assert got != REFUSED
        if content == right:
            assert got == "0"
        if got != REFUSED:
            programs[-1].end()
            programs.append(Program(container))

    fuzz()


def test_limits_that_are_spoilt_under_a_program(site: Sanitized) -> None:
    """It keeps the limits that it had, or has those that are right now."""
    container = site.containers[0]
    path = container.pages / "limits"
    path.chmod(0o644)
    right = path.read_bytes()
    programs, mib = [begun(container)], 512

    @few
    @given(limits_changes(), st.integers(1, 2000))
    def fuzz(spoil: Callable[[bytes], bytes], wanted: int) -> None:
        nonlocal mib, right
        write(path, spoil(right).ljust(len(right), b"\0")[: len(right)])
        page = LimitsPageBytes.from_buffer_copy(path.read_bytes())
        bank = page.bank[page.sequence & 1]
        checksum = bank.checksum
        seal(bank)
        # The library takes some values that the agent never writes.
        found = {mib, bank.cards[0].memory_limit_bytes // MIB} if bank.checksum == checksum else {mib}
        program = programs.pop()
        got = program.ask("info").split()
        assert len(got) == 2, (got, program.process.poll())
        assert int(got[1]) in found
        assert program.ask("launch") == "0"
        assert program.ask(f"alloc {wanted}") in ("0", NO_MEMORY)
        program.end()
        # The agent's own change, to a page that is right again.
        write(path, right)
        programs.append(begun(container))
        limits = read_limits(path)[1]
        change_limits(path, replace(limits, cards=(replace(limits.cards[0], memory_limit_bytes=wanted * MIB),)))
        assert programs[-1].ask("info").split()[1] == str(wanted)
        right, mib = path.read_bytes(), wanted

    fuzz()


def cut(path: Path, length: int) -> None:
    path.chmod(0o644)
    os.truncate(path, length)


@pytest.mark.parametrize("name", ["limits", "usage", "turns"])
def test_a_file_that_is_cut_short_under_a_program_ends_no_other(plain: Sanitized, name: str) -> None:
    container, other = plain.containers
    neighbour = begun(other)
    for length in (0, 64, 4096, 1 << 16):
        program = begun(container)
        content = (container.pages / name).read_bytes()
        cut(container.pages / name, min(length, len(content)))
        for line in ("info", "launch", "alloc 1", "free"):
            if not program.ask(line):
                break
        # Touching what is no longer there is answered by the system; nothing else may have ended it.
        time.sleep(0.01)
        assert program.process.poll() in (None, -signal.SIGBUS)
        # Without its turns a program is limited by itself; without the others it gets no card.
        assert Program(container).ask("init") == ("0" if name == "turns" or length >= len(content) else REFUSED)
        assert neighbour.ask("info") == "512 512"
        assert neighbour.ask("launch") == "0"
        for one in container.started:
            one.kill()
            one.wait()
        write(container.pages / name, content)


@st.composite
def usage_changes(draw: st.DrawFn) -> Callable[[UsagePageBytes], None]:
    """What a hostile process writes into its container's page."""
    header = draw(st.dictionaries(st.sampled_from(["magic", "version", "size", "limits_generation"]), bits32, max_size=1))
    # Rarely the mark of a writer: one that seems to live is waited for.
    writer = draw(st.none() | st.none() | bits64)
    sums = draw(st.dictionaries(st.integers(0, MOST_CARDS - 1), bits64, max_size=2))
    places = st.one_of(st.integers(0, 2), st.integers(0, MOST_PROCESSES - 1))
    fields = st.sampled_from(["generation", "pid", "pid_start_ticks", "pending_bytes", "contexts"])
    slots = draw(st.lists(st.tuples(places, fields, st.one_of(bits64, st.just(os.getpid()))), max_size=5))
    ledgers = draw(st.lists(st.tuples(places, st.integers(0, MOST_CARDS - 1), bits64), max_size=3))

    def spoil(page: UsagePageBytes) -> None:
        for field, value in header.items():
            setattr(page, field, value)
        if writer is not None:
            page.writer = writer
        for card, value in sums.items():
            page.cards[card].reserved_bytes = value
        for place, field, value in slots:
            setattr(page.slots[place], field, value)
        for place, card, value in ledgers:
            page.slots[place].ledger[card].bytes = value

    return spoil


def test_a_spoilt_usage_page(site: Sanitized) -> None:
    container, other = site.containers
    path = container.pages / "usage"
    neighbour, programs = begun(other), [begun(container), begun(container)]

    @few
    @given(usage_changes())
    def fuzz(spoil: Callable[[UsagePageBytes], None]) -> None:
        page = UsagePageBytes.from_buffer_copy(path.read_bytes())
        spoil(page)
        write(path, bytes(page))
        for line in ("alloc 1", "free", "launch"):
            for program in programs:
                got = program.ask(line)
                # 1: nothing there to free, where the allocation was refused.
                assert got in ("0", NO_MEMORY, "1"), (line, got, program.process.poll())
        for program in programs:
            assert len(program.ask("info").split()) == 2
        late = Program(container)
        assert late.ask("init") in ("0", REFUSED, NO_MEMORY)
        late.end()
        assert neighbour.ask("info") == "512 512"

    fuzz()


@st.composite
def turns_pages(draw: st.DrawFn) -> Callable[[], bytes]:
    """A turns page that is likely to be believed: seats that have the turn or want it, at times near to now."""
    offsets = st.one_of(st.sampled_from([0, 1, -1, 10**6, -(10**6), 10**9, -(10**9), 10**12]), st.integers(-(10**10), 10**10))
    seats = draw(
        st.lists(st.tuples(st.integers(0, MOST_SEATS - 1), st.lists(st.none() | offsets | bits64, min_size=4, max_size=4)))
    )
    card = draw(st.dictionaries(st.sampled_from(["virtual_ns", "refilled_ns", "seats_in_use"]), bits64, max_size=3))
    tokens = draw(st.integers(-(1 << 63), (1 << 63) - 1))
    magic = draw(st.sampled_from([TURNS_MAGIC, TURNS_MAGIC, TURNS_MAGIC, 0]))

    def made() -> bytes:
        now = time.monotonic_ns()
        page = TurnsPageBytes(magic=magic, version=VERSION, size=ctypes.sizeof(TurnsPageBytes))
        mine = page.cards[0]
        for place, moments in seats:
            seat = mine.seats[place]
            names = ("active_ns", "wanted_ns", "held_ns", "until_ns")
            for name, moment in zip(names, moments, strict=True):
                setattr(seat, name, 0 if moment is None else (now + moment) % (1 << 64))
            mine.seats_in_use |= 1 << place
        for name, value in card.items():
            setattr(mine, name, value)
        mine.tokens_ns = tokens
        return bytes(page)

    return made


def test_a_spoilt_turns_page(site: Sanitized) -> None:
    """The neighbour goes on, and the program whose page it is, too, be it late."""
    container, other = site.containers
    path = container.pages / "turns"
    neighbour, own = begun(other), begun(container)

    @few
    @given(turns_pages())
    def fuzz(made: Callable[[], bytes]) -> None:
        write(path, made())
        assert neighbour.ask("launch") == "0"
        write(path, made())
        assert own.ask("launch") == "0"

    fuzz()


@st.composite
def rosters(draw: st.DrawFn) -> bytes:
    roster = RosterBytes(magic=ROSTER_MAGIC, version=VERSION, size=ctypes.sizeof(RosterBytes))
    names = st.sampled_from([b"a", b"b", b"..", b"../a", b".", b"", b"roster-x", b"x" * 64]) | st.binary(max_size=64)
    for place, name in enumerate(draw(st.lists(names, max_size=6))):
        neighbour = roster.neighbours[place]
        ctypes.memmove(ctypes.addressof(neighbour), name, len(name))
        numbers: dict[str, Any] = draw(
            st.fixed_dictionaries(
                dict.fromkeys(("place", "compute_request_centi", "compute_limit_centi", "weight", "priority_class"), bits32)
            )
        )
        for field, value in numbers.items():
            setattr(neighbour, field, value)
        roster.count += 1
    roster.count = draw(st.sampled_from([roster.count, roster.count, 0, 128, 129, (1 << 32) - 1]))
    content = bytes(roster)
    return content[: draw(st.sampled_from([len(content), len(content), 0, 31, ctypes.sizeof(NeighbourBytes)]))]


def test_a_spoilt_roster(site: Sanitized) -> None:
    """It is the agent's file; programs look at what stands in it all the same."""
    (roster,) = (site.folder / "node").glob("roster-*")
    programs = [begun(container) for container in site.containers]

    @few
    @given(rosters())
    def fuzz(content: bytes) -> None:
        fresh = roster.with_name(".new")
        fresh.write_bytes(content)
        fresh.replace(roster)
        time.sleep(0.06)  # so often it is looked at
        for program in programs:
            assert program.ask("launch") == "0"

    fuzz()
