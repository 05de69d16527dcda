"""What a person picked: one reading for form, REST and deep link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_hub.i18n import language
from tessera_hub.schemas.resources import CardMode
from tessera_hub.schemas.tasks import TaskKind
from tessera_spawner.options import OptionErrors, WorkspaceOptions, link_of


def test_an_empty_choice_is_always_possible() -> None:
    spec = WorkspaceOptions.parse({}).specification()
    assert spec.kind is TaskKind.WORKSPACE
    assert spec.roles[0].resources.cards is None


def test_form_rest_and_deep_link_read_the_same() -> None:
    form = {"compute": ["share"], "share": ["50"], "card_class": ["A100-80G"], "cpu": ["2"], "memory": ["4"], "hours": [""]}
    rest = {"compute": "share", "share": 50, "card_class": "A100-80G", "cpu": 2, "memory": 4, "hours": ""}
    link = {f"opt-{k}": str(v) for k, v in rest.items()}
    assert WorkspaceOptions.parse(form) == WorkspaceOptions.parse(rest) == WorkspaceOptions.parse(link)


def test_a_share_becomes_centi_cards_with_memory_in_proportion_unless_named() -> None:
    cards = WorkspaceOptions.parse({"compute": "share", "share": "35", "card_class": "A100-80G"}).cards()
    assert cards is not None
    assert (cards.mode, cards.centi_cards, cards.memory_mib, cards.model) == (CardMode.VCUDA, 35, None, "A100-80G")
    named = WorkspaceOptions.parse({"compute": "share", "share": "35", "card_memory": "20"}).cards()
    assert named is not None
    assert named.memory_mib == 20 * 1024


def test_a_partition_is_named_by_class_share_and_memory_in_one_field() -> None:
    # The other fields of the form come along and count for nothing.
    values = {"compute": "mig", "partition": "A100-80G:14:10240", "card_class": "T4-16G", "share": "33", "card_memory": "7"}
    cards = WorkspaceOptions.parse(values).cards()
    assert cards is not None
    assert (cards.model, cards.mode, cards.centi_cards, cards.memory_mib) == ("A100-80G", CardMode.MIG, 14, 10240)


def test_whole_cards_come_in_hundreds() -> None:
    cards = WorkspaceOptions.parse({"compute": "whole", "cards": "3"}).cards()
    assert cards is not None
    assert (cards.centi_cards, cards.mode) == (300, CardMode.WHOLE)


def test_data_sets_come_as_boxes_as_a_list_or_in_one_word_of_a_link() -> None:
    boxes = WorkspaceOptions.parse({"datasets": ["birds", "faces", "birds"]})
    assert boxes.datasets == ("birds", "faces")
    assert boxes == WorkspaceOptions.parse({"opt-datasets": "birds, faces,"})
    assert boxes.specification().datasets == ["birds", "faces"]
    assert WorkspaceOptions.parse({"datasets": ""}).specification().datasets == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", "33"),
        ("share", "0"),
        ("share", "105"),
        ("share", "half"),
        ("compute", "quantum"),
        ("cpu", "0"),
        ("cpu", "NaN"),
        ("cpu", "1e9"),
        ("memory", "-1"),
        ("hours", "9999"),
        ("cards", "1.5"),
        ("server", "Über"),
        ("datasets", "../etc"),
        ("datasets", ",".join(f"d{n}" for n in range(21))),
        ("server", "9lives"),
        ("server", "workspace"),
        ("server", "x" * 31),
        ("card_memory", "0"),
        ("partition", ""),
        ("partition", "1g.10gb"),
        ("partition", "A100-80G:0:10240"),
        ("partition", "A100-80G:101:10240"),
        ("partition", "A100-80G:14:0"),
        ("partition", "A100 80G:14:10240"),
        ("partition", "A100-80G:１４:10240"),
    ],
)
def test_a_wrong_field_is_named_in_the_persons_language(field: str, value: str) -> None:
    compute = {"share": "share", "card_memory": "share", "partition": "mig"}.get(field, "cpu")
    given_values = {"compute": compute, field: value}
    with language("zh_CN"), pytest.raises(OptionErrors) as chinese:
        WorkspaceOptions.parse(given_values)
    with pytest.raises(OptionErrors) as english:
        WorkspaceOptions.parse(given_values)
    assert set(english.value.errors) == {field}
    assert english.value.errors[field] != chinese.value.errors[field]


FIELDS = [
    "compute",
    "partition",
    "share",
    "cards",
    "cpu",
    "memory",
    "hours",
    "server",
    "card_class",
    "tenant",
    "queue",
    "environment",
    "datasets",
    "x",
]
TEXT = (
    st.text()
    | st.sampled_from(["share", "whole", "mig", "A100-80G:14:10240", "50", "1", "0.5"])
    | st.text(min_size=121, max_size=200)
)


@given(st.dictionaries(st.sampled_from(FIELDS), TEXT))
def test_anything_is_a_valid_specification_or_named_errors(values: dict[str, str]) -> None:
    problems: dict[str, str] = {}
    options = None
    try:
        options = WorkspaceOptions.parse(values)
    except OptionErrors as error:
        problems = error.errors
    assert problems or (options is not None and options.specification().kind is TaskKind.WORKSPACE)


@pytest.mark.parametrize(
    "values",
    [
        {"cpu": "1.5", "memory": "3", "hours": "2"},
        {"compute": "share", "share": "35", "card_class": "A100-80G", "card_memory": "20", "hours": ""},
        {"compute": "mig", "partition": "H100-80G:42:40960", "hours": "3", "datasets": "birds,faces"},
        {"compute": "whole", "cards": "2", "card_class": "H100-80G", "tenant": "team", "queue": "team/vision"},
    ],
)
def test_a_specification_becomes_the_link_that_asks_for_it_again(values: dict[str, str]) -> None:
    options = WorkspaceOptions.parse(values)
    assert WorkspaceOptions.parse(link_of(options.specification())) == options
