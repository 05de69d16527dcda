"""The chooser: exact, deterministic, one card first, the fewest cards else, and never more than a card has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_vgpu.cards import Card, Mode, Part, Piece, new_card, piece_fits, take
from tessera_vgpu.catalogue import Placements, load
from tessera_vgpu.choosing import Placement, Request, choose
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.fragmentation import CARD, TYPICAL, Typical, Workload
from tessera_vgpu.splitting import Topology, in_proportion

CATALOGUE = load()
A100 = CATALOGUE.cards["A100-80G"]
SHARE = A100.continuous
MIG = A100.placements
GIB80 = 81920


def card(uuid: str, free: int = 100, memory: int | None = None, model: str = "A100-80G", numa: int | None = None) -> Card:
    whole = CATALOGUE.cards[model].memory_mib
    return Card(uuid, model, whole, free, whole * free // 100 if memory is None else memory, SHARE, numa)


def after(cards: list[Card], placement: Placement) -> list[Card]:
    """Take a placement, which fails if a part is larger than what is free."""
    parts = {part.uuid: part for part in placement.parts}
    assert len(parts) == len(placement.parts)
    return [take(c, parts[c.uuid]) if c.uuid in parts else c for c in cards]


def shares(placement: Placement) -> list[tuple[str, int, int]]:
    return [(p.uuid, p.centi_cards, p.memory_mib) for p in placement.parts]


def refusal(cards: list[Card], request: Request) -> str:
    with pytest.raises(VgpuError) as caught:
        choose(cards, request)
    assert caught.value.hint
    return caught.value.code


nodes = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.sampled_from([None, 0, 1])), min_size=1, max_size=8).map(
    lambda found: [card(f"c{i}", free, GIB80 * memory // 100, numa=numa) for i, (free, memory, numa) in enumerate(found)]
)
requests = st.builds(
    Request,
    centi_cards=st.integers(1, 400),
    memory_mib=st.none() | st.integers(1, 3 * GIB80),
    max_cards=st.integers(1, 8),
    exclusive=st.booleans(),
    numa=st.sampled_from([None, 0, 1]),
)


def attempt(cards: list[Card], request: Request) -> Placement | None:
    try:
        return choose(cards, request)
    except VgpuError as refused:
        assert refused.code in ("placement.no_room", "placement.never")  # noqa: PT017
        return None


@given(nodes, requests, st.randoms())
def test_a_placement_is_exact_fits_and_does_not_depend_on_the_order(cards: list[Card], request: Request, random) -> None:
    found = attempt(cards, request)
    mixed = list(cards)
    random.shuffle(mixed)
    assert attempt(mixed, request) == found
    if found is None:
        return
    after(cards, found)
    assert 1 <= len(found.parts) <= request.max_cards
    assert sum(p.centi_cards for p in found.parts) == request.centi_cards
    assert all(p.centi_cards >= 1 and p.memory_mib >= 1 for p in found.parts) or request.memory_mib is None
    if request.memory_mib is not None:
        assert sum(p.memory_mib for p in found.parts) == request.memory_mib
        for part in found.parts:
            exact = request.memory_mib * part.centi_cards / request.centi_cards
            assert abs(part.memory_mib - exact) < 1


@given(nodes, requests, st.integers(0, 7), st.integers(0, 100), st.integers(0, 100))
def test_more_room_never_turns_a_yes_into_a_no(cards: list[Card], request: Request, which: int, more: int, memory: int) -> None:
    found = attempt(cards, request)
    if found is None:
        return
    assert attempt([*cards, card("new", more, GIB80 * memory // 100)], request) is not None
    assert attempt(cards, replace(request, max_cards=request.max_cards + 1)) is not None
    index = which % len(cards)
    grown = list(cards)
    grown[index] = replace(
        grown[index],
        free_centi_cards=min(grown[index].free_centi_cards + more, 100),
        free_memory_mib=min(grown[index].free_memory_mib + GIB80 * memory // 100, GIB80),
    )
    if not request.exclusive or grown[index].idle:
        assert attempt(grown, request) is not None


@given(nodes, requests)
def test_one_card_comes_first_and_then_the_fewest(cards: list[Card], request: Request) -> None:
    found = attempt(cards, request)
    if found is None:
        return
    if len(found.parts) > 1:
        assert attempt(cards, replace(request, max_cards=len(found.parts) - 1)) is None


@given(st.lists(requests, max_size=40))
def test_a_node_filled_by_many_is_never_overcommitted(asked: list[Request]) -> None:
    cards = [card(f"c{i}", numa=i // 2) for i in range(4)]
    given_out: list[Part] = []
    for request in asked:
        found = attempt(cards, request)
        if found is not None:
            cards = after(cards, found)
            given_out += found.parts
    for one in cards:
        mine = [part for part in given_out if part.uuid == one.uuid]
        assert sum(part.centi_cards for part in mine) <= 100
        assert sum(part.memory_mib for part in mine) <= GIB80
        assert len(mine) == 1 or not any(part.exclusive for part in mine)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=16).filter(any))
def test_parts_in_proportion_sum_exactly_and_are_off_by_less_than_one(total: int, weights: list[int]) -> None:
    parts = in_proportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - total * weight) < sum(weights)


def test_a_remnant_is_used_up_before_an_idle_card_is_broken() -> None:
    found = choose([card("a"), card("b", 30), card("c", 60)], Request(30))
    assert shares(found) == [("b", 30, GIB80 * 30 // 100)]
    assert found.score < 0


def test_sixty_is_split_in_halves_where_no_card_has_it() -> None:
    assert shares(choose([card("a", 35), card("b", 31)], Request(60, 49152, max_cards=2))) == [("a", 30, 24576), ("b", 30, 24576)]


def test_unequal_parts_where_equal_ones_do_not_fit() -> None:
    found = choose([card("a", 45), card("b", 20)], Request(60, 30_001, max_cards=2))
    assert shares(found) in ([("a", 40, 20_001), ("b", 20, 10_000)], [("a", 45, 22_501), ("b", 15, 7_500)])
    assert refusal([card("a", 45), card("b", 10)], Request(60, max_cards=2)) == "placement.no_room"


def test_a_split_does_not_mix_models() -> None:
    mixed = [card("a", 40), card("b", 40, model="H100-80G"), card("c", 30)]
    assert [p.uuid for p in choose(mixed, Request(60, max_cards=2)).parts] == ["a", "c"]
    assert refusal(mixed[:2], Request(60, max_cards=2)) == "placement.no_room"


def test_near_cards_are_split_over_first() -> None:
    cards = [card(name, 30) for name in "abcd"]
    linked = Topology({frozenset("bd"): 0, frozenset("ab"): 3, frozenset("ac"): 3, frozenset("bc"): 3})
    assert [p.uuid for p in choose(cards, Request(60, max_cards=2), linked).parts] == ["b", "d"]
    near = [card("a", 30, numa=0), card("b", 30, numa=1), card("c", 30, numa=1)]
    assert [p.uuid for p in choose(near, Request(60, max_cards=2)).parts] == ["b", "c"]


def test_the_processors_numa_node_is_preferred() -> None:
    cards = [card("a", numa=0), card("b", numa=1)]
    assert choose(cards, Request(50, numa=1)).parts[0].uuid == "b"


def test_exclusive_means_that_nobody_else_gets_the_rest() -> None:
    cards = [card("a"), card("b", 50)]
    found = choose(cards, Request(20, 1000, exclusive=True))
    assert shares(found) == [("a", 20, 1000)]
    cards = after(cards, found)
    assert choose(cards, Request(20)).parts[0].uuid == "b"
    assert refusal(cards, Request(60)) == "placement.no_room"
    assert refusal(cards, Request(20, exclusive=True)) == "placement.no_room"


def test_exclusive_after_a_share_gets_another_card() -> None:
    cards = after([card("a"), card("b")], choose([card("a"), card("b")], Request(20)))
    assert choose(cards, Request(20, exclusive=True)).parts[0].uuid == "b"


def test_whole_cards_are_idle_near_and_of_one_model() -> None:
    cards = [card("a", numa=0), card("b", numa=1), card("c", 99), card("d", numa=1), card("e", model="H100-80G")]
    assert [p.uuid for p in choose(cards, Request(200, mode=Mode.WHOLE)).parts] == ["b", "d"]
    assert refusal(cards, Request(400, mode=Mode.WHOLE)) == "placement.no_room"
    assert refusal(cards, Request(500, mode=Mode.WHOLE)) == "placement.never"


def test_refusals_say_whether_waiting_helps() -> None:
    full = [card("a", 0), card("b", 0)]
    assert refusal(full, Request(10, model="H100-80G")) == "placement.no_model"
    assert refusal(full, Request(14, mode=Mode.PARTITION)) == "placement.no_mode"
    assert refusal(full, Request(150)) == "placement.never"
    assert refusal(full, Request(150, max_cards=2)) == "placement.no_room"
    # The sum over the node would be enough, but a card is not.
    assert refusal([card("a"), card("b")], Request(10, 100_000)) == "placement.never"


@pytest.mark.parametrize(
    "bad", [{"centi_cards": 0}, {"centi_cards": 10, "memory_mib": 0}, {"centi_cards": 150, "mode": Mode.WHOLE}]
)
def test_an_impossible_request_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(VgpuError, match="cannot be given") as caught:
        Request(**bad)
    assert caught.value.code == "request.amount"


def test_a_vendors_steps_are_rounded_up_on_one_card() -> None:
    smlu = CATALOGUE.cards["MLU370-24G"].continuous
    cards = [new_card("m0", "MLU370-24G", 24576, smlu), new_card("m1", "MLU370-24G", 24576, smlu)]
    assert shares(choose(cards, Request(10, 1000))) == [("m0", 10, 1024)]
    assert refusal(cards, Request(150, max_cards=2)) == "placement.never"


def ascend(uuid: str, chip: str = "910B3") -> Card:
    model = CATALOGUE.cards["Ascend910B-64G"]
    return new_card(uuid, model.name, model.memory_mib, model.templates(chip))


@pytest.mark.parametrize(
    ("centi", "memory", "template", "got"),
    [(10, 1000, "vir05_1c_16g", (25, 16384)), (26, None, "vir10_3c_32g", (50, 32768)), (20, 16385, "vir10_3c_32g", (50, 32768))],
)
def test_a_template_is_the_smallest_that_is_large_enough(
    centi: int, memory: int | None, template: str, got: tuple[int, int]
) -> None:
    (part,) = choose([ascend("n0")], Request(centi, memory)).parts
    assert part.piece == Piece(template)
    assert (part.centi_cards, part.memory_mib) == got


def test_more_than_the_largest_template_is_the_whole_card() -> None:
    cards = [ascend("n0"), ascend("n1")]
    cards = after(cards, choose(cards, Request(10)))
    found = choose(cards, Request(60))
    assert [(p.uuid, p.centi_cards, p.exclusive, p.piece) for p in found.parts] == [("n1", 100, True, None)]
    assert refusal(after(cards, found), Request(60)) == "placement.no_room"


def test_templates_fill_a_card_to_its_cores_and_not_beyond() -> None:
    model = CATALOGUE.cards["Ascend910A-32G"]
    cards = [new_card("n0", model.name, model.memory_mib, model.templates("910A"))]
    count = 0
    while (found := attempt(cards, Request(6))) is not None:
        cards = after(cards, found)
        count += 1
    assert count == 15


def mig(uuid: str, *pieces: Piece) -> Card:
    assert MIG is not None
    found = new_card(uuid, "A100-80G", GIB80, MIG)
    for piece in pieces:
        found = take(found, Part(uuid, MIG.centi_cards(piece.name), MIG.memory_mib(piece.name), piece=piece))
    return found


def test_a_partition_is_the_smallest_at_the_place_that_harms_least() -> None:
    (part,) = choose([mig("m0")], Request(14, 9000, mode=Mode.PARTITION)).parts
    assert part.piece == Piece("1g.10gb", 6)
    (part,) = choose([mig("m0")], Request(14, 15_000, mode=Mode.PARTITION)).parts
    assert part.piece == Piece("1g.20gb", 6)
    # A card that is broken already comes first, and the free half stays whole.
    (part,) = choose([mig("m0"), mig("m1", Piece("1g.10gb", 6))], Request(14, mode=Mode.PARTITION)).parts
    assert (part.uuid, part.piece) == ("m1", Piece("1g.10gb", 4))


def test_a_partition_by_name_and_one_with_media_only_once() -> None:
    cards = [mig("m0")]
    found = choose(cards, Request(14, mode=Mode.PARTITION, profile="1g.10gb.me"))
    cards = after(cards, found)
    assert refusal(cards, Request(14, mode=Mode.PARTITION, profile="1g.10gb.me")) == "placement.no_room"
    assert refusal(cards, Request(14, mode=Mode.PARTITION, profile="9g.1gb")) == "placement.never"
    assert refusal(cards, Request(14)) == "placement.no_mode"


@given(st.lists(st.sampled_from(sorted(MIG.profiles if MIG else ())), max_size=12))
def test_partitions_never_overlap_and_a_refusal_is_true(wanted: list[str]) -> None:
    assert isinstance(MIG, Placements)
    cards = [mig("m0"), mig("m1")]
    for profile in wanted:
        found = attempt(cards, Request(1, mode=Mode.PARTITION, profile=profile))
        if found is None:
            assert not any(piece_fits(c, Piece(profile, start)) for c in cards for start in MIG.profiles[profile].starts)
            continue
        cards = after(cards, found)
    for one in cards:
        slices = [s for p in one.taken for s in range(p.start, p.start + MIG.profiles[p.name].size)]
        assert len(slices) == len(set(slices))
        assert sum(MIG.compute_of(p.name) for p in one.taken) <= 7


def test_taking_more_than_is_there_is_refused() -> None:
    for part in (Part("a", 51, 1), Part("a", 1, GIB80), Part("a", 1, 1, exclusive=True), Part("a", -1, 0)):
        with pytest.raises(VgpuError, match="Card a has not that much left"):
            take(card("a", 50), part)


def test_stranded_counts_what_typical_requests_cannot_use() -> None:
    halves = Workload([Typical(50, 100)])
    assert halves.stranded(100, GIB80, GIB80) == 0
    assert halves.stranded(40, GIB80, GIB80) == (4000 + 10_000) * 100
    assert halves.stranded(100, GIB80 // 4, GIB80) == (10_000 + 2500) * 100
    assert Workload([Typical(100, 100, GIB80 + 1)]).stranded(100, GIB80, GIB80) == CARD
    assert TYPICAL.stranded(0, 0, GIB80) == 0
    with pytest.raises(VgpuError, match="sum to 90"):
        Workload([Typical(50, 90)])


def test_a_model_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(VgpuError, match=r"no card A100\. Here there are: A100-80G, T4-16G\."):
        choose([card("a"), card("b", model="T4-16G"), card("c")], Request(10, model="A100"))


def test_memory_that_nobody_can_have_is_named_alone() -> None:
    with pytest.raises(VgpuError, match=r"^0 MiB cannot be given\. Ask for at least 1 MiB\.$"):
        Request(10, 0)
    with pytest.raises(VgpuError, match=r"^0 hundredths of a card on at most 1 cards cannot be given\."):
        Request(0)
