"""Data sets in workspaces: form, deep link and REST offer and take the same, and the spawner gets what was granted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.browser.running import until
from tests.service import script_spec, upload
from tests.spawner.handmade import HandmadeCentre, boxes, workspace


@pytest.fixture(scope="module")
def centre() -> Iterator[HandmadeCentre]:
    with HandmadeCentre() as made:
        made.hub.add_user("eve", "blue")
        has = {
            "birds": {"workspaces": True},
            "red-only": {"description": "Red <b>things</b>", "tenants": ["red"], "workspaces": True},
            "blue-only": {"tenants": ["blue"], "workspaces": True},
            "jobs-only": {},
        }
        made.cluster("pods", datasets=has, capabilities=("services",))
        made.cluster("batch", datasets={"batch-only": {"workspaces": True}, "birds": {"description": "Songs"}}, workspaces=False)
        yield made


def test_it_is_listed_where_who_may_read_each_and_how(centre: HandmadeCentre) -> None:
    found = {d["name"]: d for d in centre.service.api(centre.ada).get("/datasets").json()}
    assert sorted(found) == ["batch-only", "birds", "jobs-only", "red-only"]
    assert (found["birds"]["description"], found["birds"]["clusters"]) == ("Songs", ["batch", "pods"])
    assert found["birds"]["places"] == [
        {"cluster": "batch", "tenants": ["red"], "workspaces": False},
        {"cluster": "pods", "tenants": ["red"], "workspaces": True},
    ]
    assert not found["batch-only"]["places"][0]["workspaces"], "there are no workspaces at all"
    seen = {d["name"]: d["places"] for d in centre.service.api(centre.root).get("/datasets").json()}
    assert seen["blue-only"] == [{"cluster": "pods", "tenants": [], "workspaces": True}], (
        "an operator sees it and may not read it"
    )
    capacity = {c["name"]: c["services"] for c in centre.service.api(centre.ada).get("/capacity").json()}
    assert capacity == {"batch": False, "pods": True}


def test_the_form_offers_what_a_workspace_can_have_and_says_why_not_of_the_rest(centre: HandmadeCentre) -> None:
    page = centre.page(centre.ada, "/workspaces/new").text
    assert boxes(page, "datasets") == ["birds", "red-only"]
    assert "blue-only" not in page
    assert page.count("Only jobs have it, no workspace.") == 2
    assert "Red &lt;b&gt;things&lt;/b&gt;" in page
    assert boxes(centre.page(centre.root, "/workspaces/new").text, "datasets") == ["birds", "red-only"]


def test_a_deep_link_presets_them_and_shows_why_one_is_not_to_be_had(centre: HandmadeCentre) -> None:
    page = centre.page(centre.ada, "/workspaces/new?opt-datasets=birds,blue-only&opt-datasets=red-only").text
    assert re.findall(r'value="([a-z-]+)" checked', page)[-3:] == ["birds", "red-only", "blue-only"]
    assert "It is not offered to you." in page
    assert "There is no data set blue-only that tenant red may read." in page
    assert 'id="datasets-error"' in page


@pytest.mark.parametrize("name", ["blue-only", "jobs-only", "batch-only", "nowhere"])
def test_form_and_rest_refuse_alike_what_the_workspace_cannot_have(centre: HandmadeCentre, name: str) -> None:
    form = {"compute": "cpu", "cpu": "0.2", "memory": "0.5", "server": "refused", "datasets": name}
    refused = centre.page(centre.ada, "/workspaces/new", form)
    assert (refused.status_code, f"There is no data set {name} that tenant red may read." in refused.text) == (422, True)
    answer = centre.service.api(centre.ada).post("/workspaces", json=workspace(server="refused", datasets=["birds", name]))
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset.unknown")
    assert answer.json()["detail"]["datasets"] == ["birds", "red-only"], "what is named instead is what can be had"


def test_what_is_chosen_is_in_the_grant_and_on_the_page(centre: HandmadeCentre) -> None:
    form = {"compute": "cpu", "cpu": "0.2", "memory": "0.5", "server": "by-form", "datasets": ["birds", "red-only"]}
    made = centre.page(centre.ada, "/workspaces/new", form)
    assert made.status_code == 303, made.text
    page = centre.page(centre.ada, made.headers["Location"].partition("?")[0].removeprefix("/services/tessera")).text
    assert "<dd>birds, red-only</dd>" in page
    assert "opt-datasets=birds%2Cred-only" in page, "asking for it again asks for them again"
    api = centre.service.api(centre.bob)
    assert api.post("/workspaces", json=workspace(server="by-rest", datasets=["red-only"])).status_code == 201
    for who, server, names in (("ada", "by-form", ["birds", "red-only"]), ("bob", "by-rest", ["red-only"])):
        granted = until(partial(grant, centre, who, server), 60)
        assert (granted["cluster"], granted["spec"]["datasets"]) == ("pods", names)


def grant(centre: HandmadeCentre, who: str, server: str) -> Any:
    found = centre.granted(who, server)
    return found if found["state"] == "granted" else None


def test_a_job_reads_what_no_workspace_has(centre: HandmadeCentre) -> None:
    api = centre.service.api(centre.ada)
    digest, size = upload(api, b"print(1)")
    assert api.post("/tasks", json=script_spec(digest, size, datasets=["jobs-only"])).status_code == 201
