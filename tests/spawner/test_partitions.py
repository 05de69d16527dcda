"""Partitions of cards (MIG): offered by the form as the cluster has them, taken only as they are, charged for what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tessera_hub.portal.presentation import per_hour
from tessera_hub.proxy.drivers.kubernetes.inventory import pools_of
from tessera_hub.schemas.workspaces import Reservation
from tessera_spawner.pods import cards_of
from tests.browser.running import until
from tests.spawner.handmade import HandmadeCentre, choices, workspace

SMALL, LARGE = "A100-80G:14:10240", "A100-80G:42:40960"


def node(name: str, product: str, **resources: str) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "81920"}
    allocatable = {"cpu": "64", "memory": "256Gi", "pods": "110", **resources}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status}


NODES = [
    node("parts", "NVIDIA-A100-SXM4-80GB", **{"nvidia.com/mig-1g.10gb": "2", "nvidia.com/mig-3g.40gb": "1"}),
    node("whole", "NVIDIA-H100-80GB-HBM3", **{"nvidia.com/gpu": "2"}),
]


@pytest.fixture
def centre() -> Iterator[HandmadeCentre]:
    with HandmadeCentre() as made:
        # As the Proxy of a real cluster with these nodes would report it.
        made.cluster("pods", *(pool.model_dump(mode="json") for pool in pools_of(NODES, [])))
        yield made


def cards(centi_cards: int, memory_mib: int | None, **more: Any) -> dict[str, Any]:
    wanted = {"model": "A100-80G", "mode": "mig", "centi_cards": centi_cards, "memory_mib": memory_mib}
    return {"resources": {"cards": wanted | more}}


def form(partition: str, server: str) -> dict[str, str]:
    return {"compute": "mig", "partition": partition, "cpu": "0.2", "memory": "0.5", "server": server}


def test_the_form_offers_each_size_with_memory_price_and_what_is_free(centre: HandmadeCentre) -> None:
    page = centre.page(centre.ada, "/workspaces/new?opt-compute=mig").text
    assert choices(page, "partition") == [SMALL, LARGE]
    assert choices(page, "compute") == ["cpu", "share", "mig", "whole", "multi"]
    # A partition is no card to take whole, nor to share.
    assert choices(page, "card_class") == ["H100-80G"]
    assert re.search(r'id="compute-share" value="share"\s+disabled', page)
    tile = re.search(rf'value="{SMALL}".*?</label>', page, re.DOTALL)
    assert tile is not None
    bare = workspace()["spec"]
    prices = [
        centre.service.api(centre.ada).post("/estimate", json=spec).raise_for_status().json()["nano_per_hour"]
        for spec in (workspace(**cards(14, 10240))["spec"], bare)
    ]
    for words in ("1g.10gb", "14 % of a card, 10 GiB", "2 of 2 free", f"{per_hour(prices[0] - prices[1], 'CNY')} per hour"):
        assert words in tile[0], words


def test_form_and_rest_take_a_partition_as_it_is_and_nothing_like_it(centre: HandmadeCentre) -> None:
    api = centre.service.api(centre.ada)
    assert centre.page(centre.ada, "/workspaces/new", form(SMALL, "by-form")).status_code == 303
    assert api.post("/workspaces", json=workspace(server="by-rest", **cards(42, 40960))).status_code == 201
    for wrong in ("A100-80G:14:20480", "A100-80G:10:10240", "H100-80G:14:10240"):
        refused = centre.page(centre.ada, "/workspaces/new", form(wrong, "wrong"))
        assert (refused.status_code, 'role="alert"' in refused.text) == (422, True), wrong
    for asked in (cards(14, None), cards(10, 10240), cards(14, 9000), cards(84, 81920, max_cards=2), cards(28, 20480)):
        answer = api.post("/workspaces", json=workspace(server="wrong", **asked))
        assert (answer.status_code, answer.json()["code"]) == (422, "never.no_partition"), (asked, answer.text)
    answer = api.post("/workspaces", json=workspace(server="wrong", **cards(14, 10240, model="H100-80G")))
    assert (answer.status_code, answer.json()["code"]) == (422, "never.no_card_mode")


def granted_to(centre: HandmadeCentre, server: str) -> dict[str, Any]:
    found: dict[str, Any] = until(lambda: (g := centre.granted("ada", server))["state"] == "granted" and g, 30)
    return found


def test_a_partition_is_held_of_the_quota_like_any_share_and_waits_when_all_are_taken(centre: HandmadeCentre) -> None:
    api = centre.service.api(centre.ada)
    for server in ("one", "two", "three"):
        api.post("/workspaces", json=workspace(server=server, **cards(14, 10240))).raise_for_status()
    for server in ("one", "two"):
        granted = granted_to(centre, server)
        limits = cards_of(Reservation.model_validate(granted), NODES).limits
        assert limits == {"nvidia.com/mig-1g.10gb": "1"}
    root = next(q for q in api.get("/queues").json() if q["path"] == "red")
    used = {line["dimension"]: line["used"] for line in root["quota"] if line["dimension"].startswith("card")}
    assert used == {"cards/A100-80G": 28, "card_memory/A100-80G": 20480}
    # The larger one is free, but is not what was asked for.
    third = next(t for t in api.get("/tasks").json()["items"] if t["name"] == "three")
    until(lambda: api.get(f"/tasks/{third['id']}").json()["reasons"], 20)
    waiting = api.get(f"/tasks/{third['id']}").json()
    assert (waiting["phase"], waiting["reasons"][0]["code"]) == ("QUEUED", "capacity.no_free_cards")
    page = centre.page(centre.ada, "/workspaces/new").text
    assert re.search(rf'value="{SMALL}".*?0 of 2 free.*?value="{LARGE}".*?1 of 1 free', page, re.DOTALL)


def test_more_than_the_quota_is_refused_by_form_and_rest(centre: HandmadeCentre) -> None:
    api, operator = centre.service.api(centre.ada), centre.service.api(centre.root)
    until(lambda: api.get("/queues").json(), 10)
    root = next(q for q in api.get("/queues").json() if q["path"] == "red")
    limit = {"quota": {"cards/A100-80G": {"limit": 20}}}
    operator.put(f"/queues/{root['id']}", json=limit).raise_for_status()
    until(lambda: api.post("/workspaces", json=workspace(server="x", **cards(42, 40960))).status_code == 422, 10)
    refused = api.post("/workspaces", json=workspace(server="x", **cards(42, 40960)))
    assert refused.json()["code"] == "never.exceeds_limit"
    assert centre.page(centre.ada, "/workspaces/new", form(LARGE, "y")).status_code == 422
    assert centre.page(centre.ada, "/workspaces/new", form(SMALL, "z")).status_code == 303
