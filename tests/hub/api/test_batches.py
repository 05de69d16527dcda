"""Batches: each item on its own, and idempotency keys that hold whatever is repeated, also inside one batch and at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.hub_double import HubDouble
from tests.postgres import PostgresServer
from tests.service import ServiceProcess, script_spec, upload


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The real service on each kind of database, without the background loops."""
    url = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url(server.create_database())
    process = ServiceProcess(tmp_path_factory.mktemp("service"), hub, url, background=False)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def ada(service: ServiceProcess, people: SimpleNamespace) -> Iterator[httpx.Client]:
    with service.api(people.ada) as api:
        yield api


@pytest.fixture(scope="module")
def spec(ada: httpx.Client) -> dict[str, Any]:
    return script_spec(*upload(ada, b"print('batch')\n"))


def submit(api: httpx.Client, specs: list[dict[str, Any]], keys: list[str] | None = None) -> list[dict[str, Any]]:
    answer = api.post("/tasks/batch", json={"tasks": specs} | ({"idempotency_keys": keys} if keys else {}))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def count(api: httpx.Client, name: str) -> int:
    return len(api.get("/tasks", params={"q": name, "limit": 200}).json()["items"])


def test_each_item_is_accepted_or_refused_on_its_own_in_order(ada: httpx.Client, spec: dict[str, Any]) -> None:
    name = f"mixed {uuid.uuid4()}"
    missing = spec | {"name": name, "inputs": {"files": [{"path": "hello.py", "sha256": "0" * 64, "size": 3}]}}
    answers = submit(ada, [spec | {"name": f"{name} 0"}, missing, spec | {"queue": "nowhere"}, spec | {"name": f"{name} 3"}])
    assert [(a["task"] or {}).get("name") for a in answers] == [f"{name} 0", None, None, f"{name} 3"]
    assert [(a["problem"] or {}).get("code") for a in answers] == [None, "inputs.not_uploaded", "queue.unknown", None]
    assert count(ada, name) == 2
    shown = ada.get(f"/tasks/{answers[0]['task']['id']}").json()
    fields = set(answers[0]["task"]) - {"position", "reasons"}
    assert {field: shown[field] for field in fields} == {field: answers[0]["task"][field] for field in fields}
    events = ada.get(f"/tasks/{shown['id']}/events").json()
    assert [(e["phase_to"], e["actor"], e["run_id"]) for e in events] == [("QUEUED", "user:ada", shown["run_id"])]


def test_a_key_makes_one_task_within_a_batch_and_over_batches(ada: httpx.Client, spec: dict[str, Any]) -> None:
    name = f"keyed {uuid.uuid4()}"
    items = [spec | {"name": name}, spec | {"name": name}, spec | {"name": f"{name} other"}, spec | {"name": name}]
    keys = [f"{name}/1", f"{name}/1", f"{name}/1", f"{name}/2"]
    first = submit(ada, items, keys)
    assert first[0]["task"]["id"] == first[1]["task"]["id"] != first[3]["task"]["id"]
    assert first[2]["problem"]["code"] == "idempotency.mismatch"
    second = submit(ada, items, keys)
    assert [(a["task"] or {}).get("id") for a in second] == [(a["task"] or {}).get("id") for a in first]
    alone = ada.post("/tasks", json=items[0], headers={"Idempotency-Key": keys[0]})
    assert (alone.status_code, alone.json()["id"]) == (200, first[0]["task"]["id"])
    assert count(ada, name) == 2


def test_a_repeat_is_answered_although_its_queue_takes_nothing_new(
    ada: httpx.Client, service: ServiceProcess, people: SimpleNamespace, spec: dict[str, Any]
) -> None:
    """What a key has made stays its answer: the checks of a first submit are not repeated."""
    key = str(uuid.uuid4())
    made = submit(ada, [spec], [key])
    with service.api(people.root) as root:
        queue = next(q for q in root.get("/queues").json() if q["path"] == "red/default")
        try:
            assert root.put(f"/queues/{queue['id']}", json={"state": "closed"}).status_code == 200
            repeat, new = submit(ada, [spec, spec], [key, str(uuid.uuid4())])
        finally:
            assert root.put(f"/queues/{queue['id']}", json={"state": "open"}).status_code == 200
    assert repeat["task"]["id"] == made[0]["task"]["id"]
    assert new["problem"]["code"] == "policy.queue_closed"


def test_the_same_batch_sent_twice_at_once_makes_each_task_once(ada: httpx.Client, spec: dict[str, Any]) -> None:
    name = f"twice {uuid.uuid4()}"
    items = [spec | {"name": f"{name} {i}"} for i in range(20)]
    keys = [f"{name}/{i}" for i in range(20)]

    def send(backwards: bool) -> dict[str, str]:
        step = -1 if backwards else 1
        with httpx.Client(base_url=ada.base_url, headers=ada.headers, timeout=60) as api:
            answers = submit(api, items[::step], keys[::step])
        return {a["task"]["name"]: a["task"]["id"] for a in answers}

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(send, [False, True] * 3))
    assert all(ids == found[0] for ids in found)
    assert len(set(found[0].values())) == 20
    assert count(ada, name) == 20
