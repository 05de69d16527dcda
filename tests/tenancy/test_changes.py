"""What a person may see changes with the hub: within the cache time, in open streams too, and never back in time."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from traitlets import TraitError

from tessera_hub.service import TesseraService
from tests.hub_double import HubDouble
from tests.service import ServiceProcess, script_spec, upload

pytestmark = [pytest.mark.tenancy, pytest.mark.timeout(120)]

CACHE_SECONDS = 0.5
WITHIN = CACHE_SECONDS + 1.5
"""The cache time, and a second for the streams' own look and the machine."""
LATER = {"schedule": {"at": "2099-01-01T00:00:00Z"}}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    for name in ("red", "blue", "green", "black", "grey"):
        double.add_tenant(name)
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble) -> Iterator[ServiceProcess]:
    directory = Path(tempfile.mkdtemp(prefix="tessera-tenancy-"))
    process = ServiceProcess(directory, hub, background=False, hub_cache_seconds=CACHE_SECONDS)
    process.start()
    yield process
    process.stop()
    shutil.rmtree(directory)


def submit(api: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = api.post("/tasks", json=script_spec(*upload(api, b"print(1)", fields.get("tenant")), **{**LATER, **fields}))
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


class Stream:
    """An event stream that is read in the background."""

    def __init__(self, api: httpx.Client, path: str) -> None:
        self.text = ""
        self.status = 0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(api, path), daemon=True)
        self._thread.start()

    def _read(self, api: httpx.Client, path: str) -> None:
        try:
            with api.stream("GET", path, timeout=30) as answer:
                self.status = answer.status_code
                for piece in answer.iter_text():
                    self.text += piece
        except httpx.HTTPError:
            pass
        self.ended.set()

    def until(self, found: Callable[[str], bool], seconds: float = 10) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found(self.text):
                return True
            time.sleep(0.02)
        return False


def test_the_stream_of_all_tasks_holds_no_word_of_another_tenant(hub: HubDouble, service: ServiceProcess) -> None:
    ada, bob, eve = hub.add_user("ada", "red"), hub.add_user("bob", "red"), hub.add_user("eve", "blue")
    streams = {name: Stream(service.api(token), "/events") for name, token in (("ada", ada), ("bob", bob), ("eve", eve))}
    assert all(stream.until(lambda text: "hello" in text) for stream in streams.values())
    task = submit(service.api(ada), name="plan-of-ada")
    own = submit(service.api(eve), name="plan-of-eve")
    assert streams["ada"].until(lambda text: task["id"] in text and "hello.py" in text)
    assert streams["bob"].until(lambda text: task["id"] in text)
    assert "hello.py" not in streams["bob"].text, "a colleague sees the row, not what runs in it"
    assert streams["eve"].until(lambda text: own["id"] in text)
    assert task["id"] not in streams["eve"].text
    assert "plan-of-ada" not in streams["eve"].text
    assert own["id"] not in streams["ada"].text + streams["bob"].text


def test_a_recreated_user_of_the_same_name_sees_nothing_of_the_old_one(hub: HubDouble, service: ServiceProcess) -> None:
    old_token = hub.add_user("gil", "green")
    old = service.api(old_token)
    task = submit(old, name="of-the-old-gil")
    blob, _size = upload(old, b"of the old gil")
    follow = Stream(service.api(old_token), f"/tasks/{task['id']}/follow")
    assert follow.until(lambda text: task["id"] in text)
    del hub.tokens[old_token], hub.users["gil"]
    time.sleep(WITHIN)
    assert old.get("/tasks").status_code == 401
    assert follow.ended.wait(5), "a stream outlives the account"
    new = service.api(hub.add_user("gil", "black"))
    assert new.get("/me").json()["tenants"] == ["black"]
    for path in ("", "/events", "/logs/output", "/notebook", "/outputs", "/bill", "/decision", "/follow"):
        assert new.get(f"/tasks/{task['id']}{path}").status_code == 404, path
    assert new.post(f"/tasks/{task['id']}/cancel").status_code == 404
    assert new.get("/tasks").json()["items"] == []
    assert new.get("/costs", params={"by": "task"}).json()["rows"] == []
    assert new.get(f"/blobs/{blob}").status_code == 404
    # In the old one's tenant the new one is a colleague of nobody's: the rows are the tenant's, the tasks the old one's.
    hub.users["gil"]["groups"] = ["green"]
    time.sleep(WITHIN)
    assert new.get("/tasks", params={"mine": True}).json()["items"] == []
    assert new.get(f"/tasks/{task['id']}").status_code == 404


def test_a_user_made_again_at_once_is_another_and_ends_what_was_believed_of_the_old_one(
    hub: HubDouble, service: ServiceProcess
) -> None:
    old_token = hub.add_user("pat", "green")
    old = service.api(old_token)
    task = submit(old, name="of-the-old-pat")
    del hub.tokens[old_token], hub.users["pat"]
    new = service.api(hub.add_user("pat", "green"))
    assert new.get(f"/tasks/{task['id']}").status_code == 404
    assert new.get("/tasks", params={"mine": True}).json()["items"] == []
    assert old.get("/tasks").status_code == 401, "the hub's answer about the new account tells that the old one is gone"


def test_a_key_used_by_the_old_user_is_free_for_the_new_one(hub: HubDouble, service: ServiceProcess) -> None:
    old_token = hub.add_user("kim", "green")
    old = service.api(old_token)
    spec = script_spec(*upload(old, b"print(1)"), **LATER)
    first = old.post("/tasks", json=spec, headers={"Idempotency-Key": "same"}).json()
    del hub.tokens[old_token], hub.users["kim"]
    time.sleep(WITHIN)
    new = service.api(hub.add_user("kim", "green"))
    second = new.post("/tasks", json=spec, headers={"Idempotency-Key": "same"})
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


def test_a_removed_member_is_out_within_the_cache_time(hub: HubDouble, service: ServiceProcess) -> None:
    token, colleague = hub.add_user("lea", "red", "blue"), hub.add_user("max", "red")
    lea, theirs = service.api(token), submit(service.api(colleague))
    own = submit(lea, tenant="red")
    upload(lea, b"of the tenant", tenant="red")
    follow, everything = Stream(service.api(token), f"/tasks/{own['id']}/follow"), Stream(service.api(token), "/events")
    assert follow.until(lambda text: own["id"] in text)
    assert everything.until(lambda text: "hello" in text)
    hub.users["lea"]["groups"] = ["blue"]
    time.sleep(WITHIN)
    assert lea.get("/me").json()["tenants"] == ["blue"]
    assert follow.ended.wait(5), "a stream outlives the membership"
    listed = {task["id"] for task in lea.get("/tasks", params={"limit": 200}).json()["items"]}
    assert listed & {own["id"], theirs["id"]} == set()
    assert lea.get(f"/tasks/{own['id']}").status_code == 404
    assert lea.get("/bills/red/2026-11").status_code == 404
    assert lea.get("/costs", params={"tenant": "red", "mine": False}).status_code == 404
    assert {queue["tenant"] for queue in lea.get("/queues").json()} == {"blue"}
    spec = script_spec("0" * 64, 1, tenant="red")
    assert lea.post("/tasks", json=spec).json()["code"] == "tenant.unknown"
    assert lea.post("/blobs/missing", params={"tenant": "red"}, json={"sha256": []}).status_code == 403
    news = submit(service.api(colleague), name="after-she-left")
    mine = submit(lea, name="in-the-other-tenant")
    assert everything.until(lambda text: mine["id"] in text), "what she may still see goes on"
    assert news["id"] not in everything.text
    hub.users["lea"]["groups"] = ["blue", "red"]
    time.sleep(WITHIN)
    assert lea.get(f"/tasks/{own['id']}").status_code == 200, "back in the tenant, back at her tasks"


def test_a_group_that_is_no_tenant_any_more_gives_nothing(hub: HubDouble, service: ServiceProcess) -> None:
    api = service.api(hub.add_user("ned", "grey"))
    task = submit(api)
    hub.groups["grey"]["properties"] = {}
    time.sleep(WITHIN)
    assert api.get("/me").json()["tenants"] == []
    assert api.get(f"/tasks/{task['id']}").status_code == 404
    assert api.post("/tasks", json=script_spec("0" * 64, 1)).json()["code"] == "tenant.none"


def test_a_revoked_token_is_out_within_the_cache_time(hub: HubDouble, service: ServiceProcess) -> None:
    token = hub.add_user("ora", "red")
    api = service.api(token)
    assert api.get("/me").status_code == 200
    stream = Stream(service.api(token), "/events")
    assert stream.until(lambda text: "hello" in text)
    del hub.tokens[token]
    time.sleep(WITHIN)
    assert api.get("/me").status_code == 401
    submit(service.api(hub.add_user("pia", "red")), name="after-the-token")
    assert stream.ended.wait(20)
    assert "after-the-token" not in stream.text


def test_while_the_hub_is_silent_nobody_is_believed_longer_than_the_cache_time(hub: HubDouble, service: ServiceProcess) -> None:
    api = service.api(hub.add_user("quy", "red"))
    task = submit(api)
    stream = Stream(service.api(hub.add_user("ria", "red")), "/events")
    assert stream.until(lambda text: "hello" in text)
    hub.broken = True
    try:
        time.sleep(WITHIN)
        answer = api.get(f"/tasks/{task['id']}")
        assert (answer.status_code, answer.json()["code"]) == (503, "hub.unavailable")
        assert not stream.ended.is_set(), "a restart of the hub breaks no open page"
    finally:
        hub.broken = False
    assert api.get(f"/tasks/{task['id']}").status_code == 200
    news = submit(api, name="after-the-silence")
    assert stream.until(lambda text: news["id"] in text)


def test_the_cache_time_can_be_shorter_but_not_longer_than_half_a_minute() -> None:
    assert TesseraService().hub_cache_seconds == 30
    assert TesseraService(hub_cache_seconds=5.0).hub_cache_seconds == 5
    with pytest.raises(TraitError):
        TesseraService(hub_cache_seconds=31.0)
