"""Environments for some groups only: form, deep link and REST offer and take the same, and who leaves the group gets none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tessera_hub.environments import EnvironmentRule, is_open
from tessera_hub.service import TesseraService
from tests.browser.running import until
from tests.service import script_spec, upload
from tests.spawner.handmade import HandmadeCentre, choices, workspace

RULES = {"closed": {"groups": ["staff", "guests"]}}


@pytest.fixture(scope="module")
def centre() -> Iterator[HandmadeCentre]:
    with HandmadeCentre(environment_rules=RULES) as made:
        made.join("ada", "staff")
        made.cluster("pods", environments=("default", "closed"))
        made.cluster("batch", environments=("default", "closed", "batch-only"), workspaces=False)
        yield made


def test_the_form_offers_what_a_workspace_of_this_person_may_have_and_nothing_else(centre: HandmadeCentre) -> None:
    offered = {name: choices(centre.page(token, "/workspaces/new").text, "environment") for name, token in people(centre)}
    assert offered == {"ada": ["default", "closed"], "bob": ["default"], "root": ["default"]}


def test_rest_lists_what_a_person_may_have(centre: HandmadeCentre) -> None:
    listed = {name: [e["name"] for e in centre.service.api(token).get("/environments").json()] for name, token in people(centre)}
    assert listed == {
        "ada": ["default", "batch-only", "closed"],
        "bob": ["default", "batch-only"],
        "root": ["default", "batch-only"],
    }


def people(centre: HandmadeCentre) -> list[tuple[str, str]]:
    return [("ada", centre.ada), ("bob", centre.bob), ("root", centre.root)]


def test_a_deep_link_to_a_closed_environment_shows_why_it_is_not_offered(centre: HandmadeCentre) -> None:
    page = centre.page(centre.bob, "/workspaces/new?opt-environment=closed").text
    assert "Environment closed is not open to your groups." in page
    assert 'id="environment-error"' in page
    assert "not open" not in centre.page(centre.ada, "/workspaces/new?opt-environment=closed").text


def test_form_and_rest_refuse_a_closed_environment_alike_and_take_it_from_a_member(centre: HandmadeCentre) -> None:
    form = {"environment": "closed", "compute": "cpu", "cpu": "0.2", "memory": "0.5", "server": "by-form"}
    assert "not open to your groups" in centre.page(centre.bob, "/workspaces/new/summary", form).text
    refused = centre.page(centre.bob, "/workspaces/new", form)
    assert (refused.status_code, "not open to your groups" in refused.text) == (403, True)
    for token in (centre.bob, centre.root):
        answer = centre.service.api(token).post("/workspaces", json=workspace(server="by-rest", environment="closed"))
        assert (answer.status_code, answer.json()["code"]) == (403, "environment.not_allowed")
        assert answer.json()["detail"] == {"environment": "closed", "environments": ["batch-only", "default"]}
    assert centre.page(centre.ada, "/workspaces/new", form).status_code == 303
    made = centre.service.api(centre.ada).post("/workspaces", json=workspace(server="by-rest", environment="closed"))
    assert made.status_code == 201


def test_an_unknown_environment_tells_nothing_of_closed_ones(centre: HandmadeCentre) -> None:
    answer = centre.service.api(centre.bob).post("/workspaces", json=workspace(environment="absent"))
    assert (answer.status_code, answer.json()["code"]) == (422, "environment.unknown")
    assert "closed" not in answer.text


def test_a_job_is_no_way_round(centre: HandmadeCentre) -> None:
    for token, status in ((centre.bob, 403), (centre.ada, 201)):
        api = centre.service.api(token)
        digest, size = upload(api, b"print(1)")
        answer = api.post("/tasks", json=script_spec(digest, size, environment="closed"))
        assert answer.status_code == status, answer.text


def test_who_leaves_the_group_before_the_start_gets_no_server(centre: HandmadeCentre) -> None:
    centre.join("bob", "guests")
    api = centre.service.api(centre.bob)
    task = until(lambda: accepted(api.post("/workspaces", json=workspace(server="late", environment="closed"))), 10)
    until(lambda: centre.granted("bob", "late")["state"] == "granted", 20)
    centre.leave("bob", "guests")
    until(lambda: centre.granted("bob", "late")["state"] == "none", 20)
    ended = until(lambda: (t := api.get(f"/tasks/{task['id']}").json())["phase"] == "CANCELLED" and t, 30)
    assert [reason["code"] for reason in ended["reasons"]] == ["environment.not_allowed"]


def accepted(answer: Any) -> Any:
    return answer.json() if answer.status_code == 201 else None


def test_a_schedule_of_somebody_who_left_the_group_fails_with_the_reason(centre: HandmadeCentre) -> None:
    centre.join("bob", "guests")
    api = centre.service.api(centre.bob)
    digest, size = upload(api, b"print(2)")
    spec = script_spec(digest, size, environment="closed", schedule={"cron": "0 5 1 1 *"})
    schedule = until(lambda: accepted(api.post("/schedules", json=spec)), 10)
    centre.leave("bob", "guests")
    until(lambda: "closed" not in centre.service.api(centre.bob).get("/environments").text, 10)
    with sqlite3.connect(centre.service.data_dir / "tessera.sqlite", timeout=20) as database:
        database.execute("UPDATE recurring_task SET next_at = '2026-01-01 05:00:00.000000'")

    def fired() -> Any:
        found = api.get(f"/schedules/{schedule['id']}").json()
        return found["last_task_id"] and api.get(f"/tasks/{found['last_task_id']}").json()

    task = until(fired, 30)
    assert (task["phase"], [reason["code"] for reason in task["reasons"]]) == ("FAILED", ["environment.not_allowed"])


def test_a_rule_without_groups_is_everybodys_and_a_misspelt_one_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    assert is_open({"e": EnvironmentRule()}, "e", ())
    assert not is_open({"e": EnvironmentRule(groups=["a"])}, "e", ["b"])
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "t")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("TESSERA_ENVIRONMENT_RULES", '{"e": {"groups": ["a"]}}')
    service = TesseraService(data_dir=str(tmp_path))
    service.initialize()
    assert service.settings().environment_rules == {"e": EnvironmentRule(groups=["a"])}
    mistakes: tuple[Any, ...] = ({"e": {"group": ["a"]}}, {"e": {"groups": []}})
    for wrong in mistakes:
        with pytest.raises(SystemExit, match="environment_rules"):
            TesseraService(data_dir=str(tmp_path), environment_rules=wrong).settings()
