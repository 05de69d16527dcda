"""The catalogue says the same as the hub's, recognises what drivers report, and explains what is wrong with a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tessera_hub.cards import CATALOGUE as OF_HUB
from tessera_hub.proxy.drivers.kubernetes import cards as kubernetes
from tessera_vgpu.catalogue import BUILT_IN, Catalogue, Placements, Templates, load
from tessera_vgpu.errors import VgpuError

CATALOGUE = load()
GOOD = """
vendor: acme
cards:
  - name: Acme1-16G
    pattern: Acme 1
    driver_names: [Acme 1 PCIe]
    generation: first
    memory_mib: 16384
    processors: 10
    resource: acme.com/card
"""


def read(folder: Path, text: str, *more: Path) -> Catalogue:
    (folder / "acme.yaml").write_text(text)
    return load((*more, folder))


@pytest.mark.parametrize("name", sorted(OF_HUB))
def test_the_hub_and_the_node_agent_know_the_same_card(name: str) -> None:
    hub, own = OF_HUB[name], CATALOGUE.cards[name]
    assert CATALOGUE.vendors[name] == hub.vendor
    assert (own.memory_mib, own.generation, own.pattern) == (hub.memory_mib, hub.generation, hub.pattern)
    assert own.modes == {mode.value for mode in hub.modes}


@pytest.mark.parametrize("name", sorted(CATALOGUE.cards))
def test_a_drivers_name_means_one_card_here_and_no_other_one_at_the_hub(name: str) -> None:
    for driver_name in CATALOGUE.cards[name].driver_names:
        found = CATALOGUE.recognise(driver_name)
        assert found is not None
        assert found.name == name
        at_hub = next((c.name for c in OF_HUB.values() if re.search(c.pattern, driver_name)), name)
        assert at_hub == name


@pytest.mark.parametrize("name", sorted(OF_HUB))
def test_the_proxy_knows_the_resource_of_whole_cards(name: str) -> None:
    assert kubernetes.maker_of(CATALOGUE.cards[name].resource) == CATALOGUE.vendors[name]


def test_shares_are_asked_by_the_names_that_the_proxy_writes() -> None:
    shapes = [card.continuous for card in CATALOGUE.of_vendor("nvidia")]
    assert {(s.compute_resource, s.memory_resource) for s in shapes if s} == {(kubernetes.VGPU, kubernetes.VGPU_MEMORY)}


def partitions() -> list[tuple[str, Placements, str]]:
    return [(c.name, c.placements, p) for c in CATALOGUE.cards.values() if c.placements for p in c.placements.profiles]


@pytest.mark.parametrize(("card", "shape", "profile"), partitions(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_proxy_reads_a_partition_with_the_same_memory(card: str, shape: Placements, profile: str) -> None:
    resource = shape.resource.replace("{profile}", profile)
    (device,) = kubernetes.devices_of({kubernetes.CLASS_LABEL: card}, {resource: 1})
    assert device.mode.value == "mig"
    assert device.memory_mib == shape.memory_mib(profile)


@pytest.mark.parametrize("name", sorted(n for n, c in CATALOGUE.cards.items() if c.placements))
def test_partitions_fill_a_card_as_often_as_the_vendor_says(name: str) -> None:
    shape = CATALOGUE.cards[name].placements
    assert shape is not None
    smallest = min((p for p in shape.profiles if not p.endswith(".me")), key=lambda p: (shape.profiles[p].size, p))
    assert len(shape.profiles[smallest].starts) == shape.compute_slices
    largest = max(shape.profiles, key=lambda p: shape.profiles[p].size)
    assert shape.profiles[largest].size == shape.memory_slices
    assert shape.centi_cards(largest) == 100


def test_templates_depend_on_the_chip() -> None:
    card = CATALOGUE.cards["Ascend910B-64G"]
    names = {chip: [t.name for t in found.templates] for chip in card.driver_names if (found := card.templates(chip))}
    assert names == {
        "910B2": ["vir03_1c_8g", "vir06_1c_16g", "vir12_3c_32g"],
        "910B3": ["vir05_1c_16g", "vir10_3c_32g"],
    }
    third = card.templates("910B3")
    assert isinstance(third, Templates)
    assert [third.centi_cards(t) for t in third.templates] == [25, 50]


def test_an_operator_adds_a_vendor(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD, BUILT_IN)
    assert found.vendors["Acme1-16G"] == "acme"
    assert found.cards["Acme1-16G"].modes == {"whole"}
    assert len(found.cards) == len(CATALOGUE.cards) + 1


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("memory_mib: 16384", "memory_mib: -1", "catalogue.field", "line 8, cards.Acme1-16G.memory_mib: Input should be"),
        (
            "memory_mib: 16384",
            "memory_mib: 16GB",
            "catalogue.field",
            "line 8, cards.Acme1-16G.memory_mib: Input should be",
        ),
        ("    memory_mib: 16384\n", "", "catalogue.field", "cards.Acme1-16G.memory_mib: this key is missing"),
        ("processors:", "procesors:", "catalogue.field", "line 9, cards.Acme1-16G.procesors: there is no such key"),
        ("generation:", "generaton:", "catalogue.field", "line 7, cards.Acme1-16G.generaton: there is no such key"),
        ("pattern: Acme 1", "pattern: Acme (1", "catalogue.field", "line 5, cards.Acme1-16G.pattern: not a regular expression"),
        ("pattern: Acme 1", "pattern: Bcme", "catalogue.field", "does not match the driver name 'Acme 1 PCIe'"),
        ("pattern: Acme 1", "pattern: A\n    pattern: B", "catalogue.field", "line 5, pattern: this key occurs twice"),
        ("vendor: acme", "vendor: acme\n  cards: [", "catalogue.syntax", "line 3: not valid YAML: mapping values"),
        (GOOD, "", "catalogue.field", "line 1, the file: Input should be a valid dictionary"),
        ("acme.com/card", "card", "catalogue.field", "line 10, cards.Acme1-16G.resource: String should match"),
        ("Acme1-16G", "A100-80G", "catalogue.duplicate", "acme.yaml: card A100-80G is in the catalogue already"),
        (
            "[Acme 1 PCIe]",
            "[Acme 1 H200]",
            "catalogue.ambiguous",
            "of card Acme1-16G matches the pattern of H200-141G",
        ),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path: Path, old: str, new: str, code: str, said: str) -> None:
    with pytest.raises(VgpuError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1), BUILT_IN)
    assert caught.value.code == code
    assert said in caught.value.message
    assert caught.value.hint
    if code != "catalogue.ambiguous":
        assert str(tmp_path / "acme.yaml") in caught.value.message


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        ("3g.40gb: {size: 4, starts: [6]}", "profile 3g.40gb reaches beyond slice 7"),
        ("3g.40gb: {size: 4, starts: [4, 0]}", "the starts of profile 3g.40gb must ascend"),
        ("8g.80gb: {size: 8, starts: [0]}", "more compute slices than the card (7)"),
        ("large: {size: 8, starts: [0]}", "profile large is not named like 3g.40gb"),
    ],
)
def test_impossible_placements_are_refused(tmp_path: Path, profiles: str, said: str) -> None:
    shape = (
        "    shapes:\n      - kind: placements\n        memory_slices: 8\n        compute_slices: 7\n"
        f"        resource: acme.com/part-{{profile}}\n        profiles:\n          {profiles}\n"
    )
    with pytest.raises(VgpuError, match=r"acme\.yaml, line 12, cards\.Acme1-16G\.shapes\.0: ") as caught:
        read(tmp_path, GOOD + shape)
    assert said in caught.value.message


def test_only_what_tessera_can_cut_says_so(tmp_path: Path) -> None:
    shape = "    shapes:\n      - {kind: continuous, enforced_by: %s, compute_resource: a.b/c, memory_resource: a.b/m}\n"
    with pytest.raises(VgpuError, match="Acme1-16G: Tessera cuts cards of nvidia only; write enforced_by: vendor"):
        read(tmp_path, GOOD + shape % "tessera")
    assert read(tmp_path, GOOD + shape % "vendor").cards["Acme1-16G"].modes == {"whole"}


def test_a_file_whose_name_keeps_it_from_being_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "other.yml").write_text(GOOD)
    assert not load((tmp_path,)).cards
    assert "other.yml is not read" in caplog.text


def test_a_missing_folder_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(VgpuError, match="nowhere cannot be read: not a folder"):
        load((tmp_path / "nowhere",))
    (tmp_path / "acme.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(VgpuError, match=r"acme\.yaml cannot be read"):
        load((tmp_path,))


SIMULATED = Path(__file__).parents[2] / "vgpu" / "simulator" / "cards"


@pytest.mark.parametrize("path", sorted(SIMULATED.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_simulated_card_is_the_one_of_the_catalogue(path: Path) -> None:
    simulated = yaml.safe_load(path.read_text("utf-8"))
    card = CATALOGUE.cards.get(simulated["name"])
    if card is None:
        # Made up to vary the number of multiprocessors; then its name must mean no real card.
        assert CATALOGUE.recognise(simulated["product"]) is None
        return
    assert card.name == getattr(CATALOGUE.recognise(simulated["product"]), "name", None)
    assert card.processors == simulated["multiprocessors"]
    # The catalogue has what the name says, the simulator what the driver tells.
    assert card.memory_mib * 93 // 100 <= simulated["memory_mib"] <= card.memory_mib
    mig = simulated.get("mig")
    assert (card.placements is None) == (mig is None)
    if card.placements is not None:
        assert card.placements.memory_slices == mig["memory_slices"]
        theirs = {p["name"].replace("+", "."): (p["size"], tuple(p["starts"])) for p in mig["profiles"]}
        assert {name: (p.size, p.starts) for name, p in card.placements.profiles.items()} == theirs
        once = {p["name"].replace("+", ".") for p in mig["profiles"] if p["name"].endswith("+me")}
        assert {name for name, p in card.placements.profiles.items() if p.most == 1} == once
        assert all(card.placements.memory_mib(p["name"].replace("+", ".")) >= p["memory_mib"] for p in mig["profiles"])
