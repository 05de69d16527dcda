"""Partitions of cards: the plan as a pure function, and the driver brought there on simulated cards, killed on the way."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_vgpu.cards import Piece, new_card, piece_fits
from tessera_vgpu.catalogue import Placements, load
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.partitions import Action, Instance, arrange, as_many_as_fit, plan
from tests.vgpu.simulator.conftest import Card, libraries, make_card, programs
from tests.vgpu.simulator.test_management import simulated

__all__ = ["libraries", "make_card", "programs"]

MODELS = load().cards
BEGIN = """
import json, sys
import pynvml
from tessera_vgpu.cards import Piece
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.partitions import PartitionedCard
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
card = PartitionedCard(pynvml.nvmlDeviceGetUUID(device))

def told(do, *arguments, **named):
    try:
        return do(*arguments, **named)
    except VgpuError as error:
        return error.code

def seen():
    return [[i.piece.name, i.piece.start, i.uuid is not None, i.used] for i in card.instances()]
"""
SMALL, LARGE = Piece("1g.10gb", 0), Piece("3g.40gb", 4)


def cut_of(model: str) -> Placements:
    cut = MODELS[model].placements
    assert cut is not None
    return cut


def ask(card: Card, source: str, **variables: str) -> Any:
    return json.loads(card.python(BEGIN + source, **variables))


# Sources of the counts: MIG user guide, "Supported MIG profiles".
@pytest.mark.parametrize(
    ("model", "profile", "times"),
    [
        ("A100-80G", "1g.10gb", 7),
        ("A100-80G", "1g.20gb", 4),
        ("A100-80G", "2g.20gb", 3),
        ("A100-80G", "3g.40gb", 2),
        ("A100-80G", "4g.40gb", 1),
        ("A100-80G", "7g.80gb", 1),
        ("A100-80G", "1g.10gb.me", 1),
        ("A30-24G", "1g.6gb", 4),
        ("A30-24G", "2g.12gb", 2),
    ],
)
def test_one_profile_goes_as_often_as_the_card_has_it(model: str, profile: str, times: int) -> None:
    pieces = as_many_as_fit(cut_of(model), profile)
    assert [piece.name for piece in pieces] == [profile] * times
    assert len({piece.start for piece in pieces}) == times


def test_mixed_profiles_get_places_beside_each_other_or_a_reason() -> None:
    cut = cut_of("A100-80G")
    pieces = arrange(cut, ["1g.10gb", "2g.20gb", "4g.40gb"])
    assert sorted(piece.name for piece in pieces) == ["1g.10gb", "2g.20gb", "4g.40gb"]
    for index, piece in enumerate(pieces):
        others = tuple(pieces[:index] + pieces[index + 1 :])
        assert piece_fits(replace(EMPTY, taken=others), piece)
    for wrong in (["3g.40gb", "3g.40gb", "1g.10gb"], ["7g.80gb", "1g.10gb"], ["5g.50gb"]):
        with pytest.raises(VgpuError) as refusal:
            arrange(cut, wrong)
        assert refusal.value.code == "mig.layout"


EMPTY = new_card("a", "A100-80G", 80 * 1024, cut_of("A100-80G"))
PIECES = st.sampled_from([Piece(name, start) for name, p in cut_of("A100-80G").profiles.items() for start in p.starts])


@st.composite
def layouts(draw: st.DrawFn) -> list[Piece]:
    """Pieces that fit beside each other."""
    card = EMPTY
    for piece in draw(st.lists(PIECES, max_size=8)):
        if piece_fits(card, piece):
            card = replace(card, taken=(*card.taken, piece))
    return list(card.taken)


@given(layouts(), layouts(), st.data())
def test_a_plan_leads_from_any_layout_to_any_other_and_never_through_an_overlap(
    before: list[Piece], reserved: list[Piece], data: st.DataObject
) -> None:
    there = {
        number: Instance(number, piece, data.draw(st.sampled_from([None, f"MIG-{number}"])), used=False)
        for number, piece in enumerate(before)
    }
    for step in plan(there.values(), reserved):
        if step.action is Action.REMOVE:
            assert step.number is not None
            there.pop(step.number)
        elif step.action is Action.COMPLETE:
            assert step.number is not None
            assert there[step.number].uuid is None
            there[step.number] = Instance(step.number, step.piece, "MIG-completed")
        else:
            taken = tuple(instance.piece for instance in there.values())
            assert piece_fits(replace(EMPTY, taken=taken), step.piece)
            there[100 + len(there)] = Instance(100 + len(there), step.piece, "MIG-made")
    assert sorted(instance.piece for instance in there.values()) == sorted(reserved)
    assert all(instance.uuid for instance in there.values())
    assert plan(there.values(), reserved) == [], "nothing is left to do"


def test_what_has_processes_and_no_reservation_is_never_removed() -> None:
    used = Instance(1, SMALL, "MIG-1", used=True)
    assert plan([used], [SMALL]) == []
    with pytest.raises(VgpuError) as refusal:
        plan([used], [])
    assert refusal.value.code == "mig.in_use"


@simulated
def test_a_card_is_partitioned_used_and_merged_when_idle(make_card: Callable[..., Card]) -> None:
    card = make_card("H100-80G")
    off = "print(json.dumps([told(card.reconcile, {'a': Piece('1g.10gb', 0)}), told(card.switch, on=True), card.mode()]))"
    assert ask(card, off) == ["mig.refused", None, [True, True]]
    source = "print(json.dumps([told(card.reconcile, {%s}), seen()]))"
    two = source % "'a': Piece('1g.10gb', 0), 'b': Piece('3g.40gb', 4)"
    uuids, layout = ask(card, two)
    assert set(uuids) == {"a", "b"}
    assert [row[:3] for row in layout] == [["1g.10gb", 0, True], ["3g.40gb", 4, True]]
    assert ask(card, two)[0] == uuids, "another process takes up what is there"
    holder = card.start("worker", "hold", 100, CUDA_VISIBLE_DEVICES=uuids["b"])
    told, layout = ask(card, source % "'a': Piece('7g.80gb', 0)")
    assert told == "mig.in_use"
    assert [row[0] for row in layout] == ["1g.10gb", "3g.40gb"], "nothing was half done"
    assert ask(card, "print(json.dumps([told(card.switch, on=False)]))") == ["mig.in_use"]
    holder.kill()
    holder.wait()
    merged, layout = ask(card, source % "'a': Piece('7g.80gb', 0)")
    assert [row[:3] for row in layout] == [["7g.80gb", 0, True]]
    assert merged["a"] not in uuids.values()
    assert ask(card, "print(json.dumps([told(card.reconcile, {}), told(card.switch, on=False), card.mode()]))") == [
        {},
        None,
        [False, False],
    ]


@simulated
def test_an_instance_without_its_compute_instance_is_completed(make_card: Callable[..., Card]) -> None:
    card = make_card("A30-24G")
    ask(card, "print(json.dumps([told(card.switch, on=True)])); pynvml.nvmlDeviceRemoveGpu(pynvml.nvmlDeviceGetPciInfo(device))")
    half = """
from ctypes import byref
info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(device, pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE)
place = pynvml.c_nvmlGpuInstancePlacement_t(start=2, size=2)
pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(device, info.id, byref(place))
print(json.dumps(seen()))
"""
    assert ask(card, half) == [["2g.12gb", 2, False, False]]
    uuids, layout = ask(card, "print(json.dumps([card.reconcile({'a': Piece('2g.12gb', 2)}), seen()]))")
    assert uuids["a"].startswith("MIG-")
    assert layout == [["2g.12gb", 2, True, False]]


@simulated
def test_an_ampere_card_says_that_it_needs_a_reset(make_card: Callable[..., Card]) -> None:
    card = make_card("A100-80G")
    assert ask(card, "print(json.dumps([told(card.switch, on=True), card.mode()]))") == ["mig.needs_reset", [False, True]]


@simulated
def test_killed_at_any_moment_the_next_reconcile_brings_it_right(make_card: Callable[..., Card], tmp_path: Path) -> None:
    card = make_card("H100-80G")
    ask(card, "print(json.dumps([told(card.switch, on=True)]))")
    loop = (
        BEGIN
        + """
layouts = [{'a': Piece('1g.10gb', 0), 'b': Piece('3g.40gb', 4)}, {'a': Piece('4g.40gb', 0), 'b': Piece('2g.20gb', 4)}, {}]
open(sys.argv[1], 'w').close()
while True:
    for layout in layouts:
        card.reconcile(layout)
"""
    )
    chance = random.Random(7)
    for kill in range(12):
        started = tmp_path / f"started-{kill}"
        worker = subprocess.Popen([sys.executable, "-c", loop, str(started)], env=card.environment)
        deadline = time.monotonic() + 30
        while not started.exists():
            assert time.monotonic() < deadline
            assert worker.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        worker.kill()
        worker.wait()
        uuids, layout = ask(
            card, "print(json.dumps([card.reconcile({'a': Piece('1g.10gb', 6), 'b': Piece('4g.40gb', 0)}), seen()]))"
        )
        assert sorted(row[:3] for row in layout) == [["1g.10gb", 6, True], ["4g.40gb", 0, True]]
        assert len(set(uuids.values())) == 2


@simulated
def test_an_operator_lays_a_card_out_by_command(make_card: Callable[..., Card]) -> None:
    card = make_card("H100-80G,T4-16G")

    def tessera(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tessera_hub.cli", "vgpu", "partition", *arguments]
        return subprocess.run(
            command, env=card.environment | {"LANG": "C"}, capture_output=True, text=True, check=False, timeout=60
        )

    assert "no partitions" in tessera("0").stdout
    filled = json.loads(tessera("0", "1g.20gb", "--fill", "--json").stdout)
    assert [(row["profile"], row["start"]) for row in filled] == [("1g.20gb", start) for start in (0, 2, 4, 6)]
    holder = card.start("worker", "hold", 100, CUDA_VISIBLE_DEVICES=filled[0]["uuid"])
    busy = tessera("0", "7g.80gb")
    assert (busy.returncode, "in use" in busy.stderr) == (2, True)
    assert json.loads(tessera("0", "--json").stdout)[1:] == filled[1:], "nothing was changed"
    holder.kill()
    holder.wait()
    mixed = json.loads(tessera("0", "1g.10gb", "2g.20gb", "3g.40gb", "--json").stdout)
    assert sorted(row["profile"] for row in mixed) == ["1g.10gb", "2g.20gb", "3g.40gb"]
    assert tessera("0", "--off").returncode == 0
    for wrong in (
        ("0", "9g.90gb"),
        ("0", "7g.80gb", "1g.10gb"),
        ("7",),
        ("1", "1g.10gb"),
        ("0", "--fill"),
        ("0", "1g.10gb", "--off"),
    ):
        told = tessera(*wrong)
        assert (told.returncode, "Traceback" in told.stderr) == (2, False), (wrong, told.stderr)
