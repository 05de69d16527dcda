"""The simulated card's time: exact where the clock is virtual, and as the card's description says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tessera_vgpu.simulate import make_machine, read_cards, scaled
from tests.vgpu.simulator.conftest import REAL, Card

pytestmark = pytest.mark.skipif(REAL, reason="the real card's clock is its own")

MS = 1_000_000
MODEL = read_cards()["A100-80G"]
EVENT, GAP, SLICE, SWITCH = MODEL.event_device_ns, MODEL.launch_device_ns, MODEL.slice_ns, MODEL.switch_ns


def times(output: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@pytest.fixture
def exact(make_card: Callable[..., Card]) -> Card:
    return make_card(virtual_clock=True)


def test_a_kernel_alone_takes_its_time_and_the_costs_of_launch_and_event(exact: Card) -> None:
    seen = times(exact.run("timeline", "alone"))
    # The first record is over before the launch arrives, one event's cost for the thread later.
    assert seen["one"] == 5 * MS + GAP + EVENT + (MODEL.event_host_ns - EVENT)
    assert seen["two"] == 2 * (MS + GAP) + EVENT
    assert times(exact.run("timeline", "alone")) == seen


@pytest.mark.parametrize("model", ["A100-80G", "Small-20SM", "RTX-188SM-96G", "T4-16G"])
def test_blocks_that_do_not_fit_wait_for_the_next_wave(make_card: Callable[..., Card], model: str) -> None:
    seen = times(make_card(model, virtual_clock=True).run("timeline", "waves"))
    assert seen["one"] == MS + GAP + MODEL.event_host_ns
    assert seen["four"] == 4 * MS + GAP + EVENT


def test_contexts_take_turns_and_pay_for_each(exact: Card) -> None:
    seen = times(exact.run("timeline", "sliced"))
    # Ten milliseconds are five slices and a rest, so the first waits for five slices of the second with a switch to and fro.
    turn = SLICE + 2 * SWITCH
    # Milliseconds come as a float of 24 bits.
    assert seen["first"] == pytest.approx(10 * MS + 5 * turn + GAP + MODEL.event_host_ns, abs=2)
    # The second waits for four whole slices of the first, its rest, and five times two switches.
    rest = 10 * MS + GAP + 2 * EVENT + (MODEL.event_host_ns - EVENT) - 5 * SLICE
    assert seen["second"] == pytest.approx(10 * MS + 4 * turn + rest + 2 * SWITCH + GAP + EVENT, abs=2 * MODEL.launch_host_ns)


def test_half_and_double_costs_change_what_they_should(make_card: Callable[..., Card], exact: Card) -> None:
    assert exact.machine is not None
    whole = times(exact.run("timeline", "sliced"))["first"]
    for factor, turns in ((0.5, 10), (2.0, 2)):
        machine = make_machine(
            exact.machine.state.with_name(f"scaled-{factor}"),
            [scaled(MODEL, factor, 1.0)],
            virtual_clock=True,
            libraries=exact.machine.libraries,
        )
        sliced = times(Card(machine.environment(), exact.programs, machine).run("timeline", "sliced"))["first"]
        assert sliced != whole
        assert sliced == pytest.approx(10 * MS + turns * (SLICE * factor + 2 * SWITCH), abs=20_000)


def test_streams_share_the_card_and_the_important_one_goes_first(exact: Card) -> None:
    seen = times(exact.run("timeline", "streams"))
    assert seen["together"] < 1.02 * MS  # two halves at once
    assert seen["high"] < 2.02 * MS  # after one wave of the other
    assert 11 * MS < seen["low"] < 11.02 * MS


def test_slower_time_is_slower_everywhere_alike(make_card: Callable[..., Card]) -> None:
    slow = make_card(dilation=3.0)
    both = [float(text) for text in slow.go(*(slow.start("worker", "measure", 1, 5_000_000, 20) for _ in range(2)))]
    assert 170 < max(both) < 400


def test_eight_processes_get_equal_parts(make_card: Callable[..., Card]) -> None:
    card = make_card(dilation=2.0)
    seen = [float(text) for text in card.go(*(card.start("worker", "measure", 1, 2_000_000, 40) for _ in range(8)))]
    assert max(seen) > 80 * 6
    assert max(seen) < 80 * 13


def test_the_machine_tells_what_happened(make_card: Callable[..., Card]) -> None:
    card = make_card("2xA100-80G")
    assert card.machine is not None
    workers = [card.start("worker", "measure", 1, 5_000_000, 40) for _ in range(2)]
    before = card.machine.inspect()
    assert {process.pid for process in before.processes} == {worker.pid for worker in workers}
    assert before.cards[0].used_bytes == sum(process.cards[0].used_bytes for process in before.processes) > 600 << 20
    assert before.cards[1].used_bytes == before.cards[0].busy_ns == 0
    card.go(*workers)
    after = card.machine.inspect()
    assert after.processes == []
    assert after.cards[0].used_bytes == 0
    assert after.cards[0].busy_ns == 2 * 40 * 5 * MS
    assert after.cards[0].switching_ns % SWITCH == 0
    assert after.cards[0].switching_ns > 100 * SWITCH
