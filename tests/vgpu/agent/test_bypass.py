"""Programs that go around the library are found, said, and ended if the operator wants; honest ones never are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tessera_vgpu.layout import TurnsCardBytes, TurnsPageBytes, UsagePageBytes
from tests.vgpu.agent.conftest import MIB, Container, Node, eventually
from tests.vgpu.interposer.conftest import answer, go, scribbling

pytestmark = pytest.mark.root
OPEN = 'exec 3<>"$0"; echo ready; read line'


def edit(path: Path, change: Callable[[UsagePageBytes], None]) -> None:
    """Change a page as its container can."""
    page = UsagePageBytes.from_buffer_copy(path.read_bytes())
    change(page)
    with path.open("r+b") as file:
        file.write(bytes(page))


def test_a_program_without_the_library_is_known_within_seconds(make_node: Callable[..., Node]) -> None:
    node = make_node("--look-s", "0.5")
    node.start()
    container = node.run("train", 30, "1024")
    thief = container.worker(library=False)
    assert answer(thief, "alloc 2000") == "0"
    seconds = eventually(lambda: {"hidden_memory", "no_library", "over_limit"} <= node.remarks(container), "the finding")
    assert seconds < 8  # two, by three looks of half a second, where the processors are not short
    assert node.metrics()["tessera_vgpu_bypasses_total", "hidden_memory"] == 1
    # The person sees it among the pod's events, the operator in the log.
    eventually(lambda: len(node.api.events) == 3, "the events")
    assert {event["involvedObject"]["uid"] for event in node.api.events} == {"uid-train"}
    assert "goes around the limits of its slice" in node.api.events[0]["message"]
    assert "main of lab/train goes around its limits" in node.log.read_text()
    # It is reported and nothing more, once and as long as it lasts.
    assert thief.poll() is None
    assert answer(thief, "free") == "0"
    eventually(lambda: "over_limit" not in node.remarks(container), "less memory")
    thief.kill()
    eventually(lambda: node.remarks(container) == set(), "its end")
    assert node.metrics()["tessera_vgpu_bypasses_total", "hidden_memory"] == 1


def test_a_program_with_a_card_open_and_no_library_is_found_before_it_has_memory(node: Node) -> None:
    container = node.run("train", 30, "1024")
    device = next(path for path in (container.folder / "dev").iterdir() if path.name in {"nvidia0", "nvidia1"})
    container.start(["sh", "-c", OPEN, str(device)], library=False)
    eventually(lambda: node.remarks(container) == {"no_library"}, "the finding")


def test_with_the_library_an_open_card_is_nothing_to_report(node: Node) -> None:
    container = node.run("train", 30, "1024")
    device = next(path for path in (container.folder / "dev").iterdir() if path.name in {"nvidia0", "nvidia1"})
    container.start(["sh", "-c", OPEN, str(device)])
    container.worker()
    begin = node.metrics()["tessera_vgpu_last_look_timestamp_seconds",]
    eventually(lambda: node.metrics()["tessera_vgpu_last_look_timestamp_seconds",] > begin + 4, "many looks")
    assert node.remarks(container) == set()


def test_a_book_that_is_written_over_hides_nothing(node: Node) -> None:
    container = node.run("train", 30, "4096")
    worker = container.worker()
    assert answer(worker, "alloc 2000") == "0"

    def empty(page: UsagePageBytes) -> None:
        page.cards[0].reserved_bytes = 0
        for slot in page.slots:
            slot.ledger[0].bytes = 0

    edit(container.folder / "usage", empty)
    eventually(lambda: node.remarks(container) == {"hidden_memory"}, "the finding")


def test_a_book_that_says_too_much_does_not_hide_what_is_beyond_the_limit(node: Node) -> None:
    container = node.run("train", 30, "1024")
    worker = container.worker()
    assert answer(worker, "alloc 1000") == "0"
    # The program gives the library wrong books to have room, and the agent books that would explain it.
    edit(container.folder / "usage", lambda page: setattr(page.cards[0], "reserved_bytes", 0))
    assert answer(worker, "alloc 1000") == "0"
    eventually(lambda: "over_limit" in node.remarks(container), "the finding")


def test_time_that_is_not_booked_is_found_and_booked_time_never(make_node: Callable[..., Node]) -> None:
    node = make_node("--look-s", "0.5")
    node.start()
    thief, honest = node.run("thief", 30, "1024"), node.run("honest", 30, "1024", limit="60")
    go(honest.start([str(node.programs["load"]), "async", "2000000", "600"]))
    thief.start([str(node.programs["driver_worker"]), "flood", "2000000"], library=False)
    eventually(lambda: {"hidden_time", "no_library"} <= node.remarks(thief), "the finding")
    eventually(lambda: node.uses("device_seconds_total", honest) > 3, "work of the honest one")
    assert node.remarks(honest) == set()


def always(container: Container, *fields: tuple[Any, int]) -> AbstractContextManager[None]:
    """Write numbers into the first card of a container's turns page, again and again."""

    def write(page: int) -> None:
        for place, value in fields:
            os.pwrite(page, value.to_bytes(8, "little"), TurnsPageBytes.cards.offset + place.offset)

    return scribbling(container.folder / "turns", write)


@pytest.mark.parametrize("forges_tokens", [False, True])
def test_turns_that_are_not_its_own_are_found_and_taken_away(make_node: Callable[..., Node], forges_tokens: bool) -> None:
    """A tenant whose page always says that it has had nothing yet gets every turn, and books what it uses."""
    node = make_node("--on-bypass", "end")
    node.start()
    thief, honest = node.run("thief", 10, "1024", limit="100"), node.run("honest", 80, "1024", limit="100")
    assert thief.limits().cards[0].uuid == honest.limits().cards[0].uuid
    loads = [one.start([str(node.programs["load"]), "async", "2000000", "600"]) for one in (thief, honest)]
    go(*loads)
    eventually(lambda: node.uses("device_seconds_total", honest) > 3, "work of the honest one")
    assert node.remarks(thief) == node.remarks(honest) == set()
    forged = [(TurnsCardBytes.virtual_ns, 0), *([(TurnsCardBytes.tokens_ns, 50_000_000)] if forges_tokens else [])]
    with always(thief, *forged):
        eventually(lambda: "taken_time" in node.remarks(thief), "the finding")
        # That rests on the honest one's word, so nobody is ended for it, but held to what is guaranteed.
        assert loads[0].poll() is None
        eventually(lambda: thief.limits().cards[0].compute_limit_centi == 10, "its request as its limit")
        if forges_tokens:
            eventually(lambda: loads[0].poll() is not None, "its end", 120)
        else:
            eventually(lambda: node.remarks(thief) == set(), "its rest")
    assert node.remarks(honest) == set()
    assert [load.poll() for load in loads] == [-9 if forges_tokens else None, None]
    assert honest.limits().cards[0].compute_limit_centi == 100


def test_who_writes_itself_time_beyond_its_limit_is_found_and_ended(make_node: Callable[..., Node]) -> None:
    node = make_node("--on-bypass", "end")
    node.start()
    thief, honest = node.run("thief", 20, "1024"), node.run("honest", 20, "1024")
    loads = [one.start([str(node.programs["load"]), "async", "2000000", "600"]) for one in (thief, honest)]
    go(*loads)
    eventually(lambda: node.uses("device_seconds_total", honest) > 3, "work of the honest one")
    assert node.remarks(thief) == node.remarks(honest) == set()
    with always(thief, (TurnsCardBytes.tokens_ns, 50_000_000)):
        eventually(lambda: "over_time_limit" in node.remarks(thief), "the finding")
        assert loads[0].poll() is None
        eventually(lambda: loads[0].poll() is not None, "its end", 120)
    assert loads[1].poll() is None


def test_who_takes_more_than_its_limit_now_and_then_is_found(node: Node) -> None:
    thief = node.run("thief", 20, "1024")
    load = thief.start([str(node.programs["load"]), "async", "2000000", "600"])
    go(load)
    eventually(lambda: node.uses("device_seconds_total", thief) > 1, "work within its limit")
    assert node.remarks(thief) == set()

    def takes_and_pauses() -> bool:
        with always(thief, (TurnsCardBytes.tokens_ns, 50_000_000)):
            time.sleep(2)
        load.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # so long that the driver says so
        load.send_signal(signal.SIGCONT)
        return "over_time_limit" in node.remarks(thief)

    eventually(takes_and_pauses, "the finding", 120)


def test_what_goes_around_is_ended_if_the_operator_wants_and_nothing_else(make_node: Callable[..., Node]) -> None:
    node = make_node("--on-bypass", "end")
    node.start()
    container, other = node.run("train", 30, "1024"), node.run("other", 30, "1024")
    honest, neighbour, thief = container.worker(), other.worker(), container.worker(library=False)
    assert [answer(one, "alloc 500") for one in (honest, neighbour, thief)] == ["0", "0", "0"]
    eventually(lambda: thief.poll() is not None, "its end")
    assert thief.returncode == -9
    assert [answer(one, "alloc 100") for one in (honest, neighbour)] == ["0", "0"]
    assert node.remarks(other) == set()


def test_honest_programs_that_allocate_and_free_all_the_time_are_never_found(make_node: Callable[..., Node]) -> None:
    # A tolerance of nothing and looks without a pause: what is found between two readings would show here.
    node = make_node("--tolerance-mib", "0", "--look-s", "0.01")
    node.start()
    container = node.run("train", 60, "4096")
    programs = [container.start([str(node.programs["worker"]), "torture", str(i), "2", "0", "1024", "1"]) for i in range(2)]
    begin = time.monotonic()
    while time.monotonic() < begin + 8:
        assert sum(v for k, v in node.metrics().items() if k[0] == "tessera_vgpu_bypasses_total") == 0, node.log.read_text()
    assert [program.poll() for program in programs] == [None, None]
    assert node.uses("memory_driver_bytes", container) > 318 * MIB


def test_less_memory_than_is_in_use_is_no_bypass_and_nobody_elses_before_it_is_given_back(node: Node) -> None:
    container = node.run("train", 50, "60000")
    worker = container.worker()
    assert answer(worker, "alloc 50000") == "0"
    assert node.resize("train", memory_mib=10_000).status_code == 200
    assert answer(worker, "alloc 1") == "2"
    (slice_,) = node.slices()
    assert (slice_["cards"][0]["memory_mib"], slice_["cards"][0]["still_held_mib"]) == (10_000, 60_000)
    card = container.limits().cards[0].uuid
    eventually(lambda: node.metrics()["tessera_vgpu_card_given_memory_bytes", card, "A100-80G"] == 60_000 * MIB, "the books")
    begin = node.metrics()["tessera_vgpu_last_look_timestamp_seconds",]
    eventually(lambda: node.metrics()["tessera_vgpu_last_look_timestamp_seconds",] > begin + 2, "some looks")
    assert node.remarks(container) == set()
    assert answer(worker, "free") == "0"
    eventually(lambda: node.slices()[0]["cards"][0]["still_held_mib"] == 0, "the room")
    eventually(lambda: node.metrics()["tessera_vgpu_card_given_memory_bytes", card, "A100-80G"] == 10_000 * MIB, "the books")
    assert answer(worker, "alloc 9000") == "0"


def test_honest_programs_with_kernels_of_seconds_are_never_found(make_node: Callable[..., Node]) -> None:
    """The first of them was never measured; the others are booked at their launch."""
    node = make_node("--on-bypass", "end")
    node.start()
    container = node.run("train", 20, "1024")
    load = container.start([str(node.programs["load"]), "sync", "2500000000", "600"])
    go(load)
    begin = time.monotonic()
    while time.monotonic() < begin + 18:
        assert node.remarks(container) == set()
        assert load.poll() is None
        time.sleep(0.2)
    assert node.uses("device_seconds_total", container) > 2
