"""Submitting, listing and cancelling through the API of the real service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from tessera_hub.store.tables import TaskRow
from tests.service import ServiceProcess, script_spec, upload


@pytest.fixture
def ada(service: ServiceProcess, people: SimpleNamespace) -> httpx.Client:
    return service.api(people.ada)


@pytest.fixture
def spec(ada: httpx.Client) -> dict[str, Any]:
    return script_spec(*upload(ada, b"print('hello')\n"))


def test_me_says_who_and_which_tenants(ada: httpx.Client) -> None:
    me = ada.get("/me").json()
    assert (me["name"], me["tenants"], me["default_tenant"], me["admin"]) == ("ada", ["red"], "red", False)


def test_a_submitted_task_waits_in_its_tenants_default_queue(ada: httpx.Client, spec: dict[str, Any]) -> None:
    answer = ada.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    task = answer.json()
    assert (task["phase"], task["queue"], task["owner"], task["resources"]) == (
        "QUEUED",
        "red/default",
        "ada",
        {"cpu": 100, "memory": 128},
    )
    shown = ada.get(f"/tasks/{task['id']}")
    assert shown.json()["spec"]["entry"] == "hello.py"
    again = ada.get(f"/tasks/{task['id']}", headers={"If-None-Match": shown.headers["ETag"]})
    assert again.status_code == 304
    events = ada.get(f"/tasks/{task['id']}/events").json()
    assert [(e["phase_from"], e["phase_to"], e["actor"]) for e in events] == [(None, "QUEUED", "user:ada")]


def test_a_task_that_no_version_can_read_is_listed_and_says_so_when_it_is_opened(
    service: ServiceProcess, ada: httpx.Client, spec: dict[str, Any]
) -> None:
    task = ada.post("/tasks", json=spec).json()["id"]
    engine = sa.create_engine(service.database_url)
    with engine.begin() as connection:
        connection.execute(sa.update(TaskRow).where(TaskRow.id == UUID(task)).values(spec={"kind": "of another world"}))
    engine.dispose()
    answer = ada.get(f"/tasks/{task}")
    assert (answer.status_code, answer.json()["code"]) == (409, "task.unreadable")
    assert task in {item["id"] for item in ada.get("/tasks").json()["items"]}
    assert ada.post(f"/tasks/{task}/cancel").json()["phase"] == "CANCELLED"


def test_the_same_key_makes_one_task_and_another_body_is_refused(ada: httpx.Client, spec: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first, second = (ada.post("/tasks", json=spec, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    other = ada.post("/tasks", json=spec | {"name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.mismatch")


def test_cancelling_a_waiting_task_ends_it_at_once_and_a_repeat_changes_nothing(ada: httpx.Client, spec: dict[str, Any]) -> None:
    task = ada.post("/tasks", json=spec).json()
    first = ada.post(f"/tasks/{task['id']}/cancel").json()
    second = ada.post(f"/tasks/{task['id']}/cancel").json()
    assert first["phase"] == second["phase"] == "CANCELLED"
    assert first["version"] == second["version"]
    retried = ada.post(f"/tasks/{task['id']}/retry").json()
    assert (retried["phase"], retried["attempts"]) == ("QUEUED", 2)


def test_pages_of_the_list_hold_every_task_once(ada: httpx.Client, spec: dict[str, Any]) -> None:
    made = [item["task"]["id"] for item in ada.post("/tasks/batch", json={"tasks": [spec] * 25}).json()]
    seen: list[str] = []
    cursor = None
    while True:
        page = ada.get("/tasks", params={"limit": 7, **({"cursor": cursor} if cursor else {})}).json()
        seen += [t["id"] for t in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert set(made) <= set(seen)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"queue": "nowhere"}, 422, "queue.unknown"),
        ({"tenant": "blue"}, 403, "tenant.unknown"),
        ({"kind": "service", "entry": None}, 422, "request.invalid"),
        ({"kind": "service", "roles": [{"replicas": 2}]}, 422, "request.invalid"),
        ({"kind": "service", "port": 80}, 422, "request.invalid"),
        ({"port": 8080}, 422, "request.invalid"),
        ({"kind": "training", "entry": None}, 422, "request.invalid"),
        ({"entry": "../../etc/passwd"}, 422, "request.invalid"),
        ({"entry": "missing.py"}, 422, "request.invalid"),
        ({"priority": 101}, 422, "request.invalid"),
        ({"parameters": {"not a name": 1}}, 422, "request.invalid"),
        ({"variables": {"LD_PRELOAD": "x"}}, 422, "request.invalid"),
        ({"surprise": 1}, 422, "request.invalid"),
        ({"name": "a\nb"}, 422, "request.invalid"),
        ({"clusters": ["moon"]}, 422, "cluster.unknown"),
        ({"kind": "workspace"}, 422, "kind.workspace"),
        ({"inputs": {"files": [{"path": "hello.py", "sha256": "0" * 64, "size": 3}]}}, 409, "inputs.not_uploaded"),
        ({"inputs": {"files": [{"path": "hello.py", "sha256": "0" * 64, "size": 2 << 30}]}}, 413, "inputs.too_large"),
    ],
)
def test_bad_specifications_are_refused_in_both_languages_and_leave_nothing(
    ada: httpx.Client, spec: dict[str, Any], change: dict[str, Any], status: int, code: str
) -> None:
    before = ada.get("/tasks", params={"limit": 1}).json()["items"]
    english = ada.post("/tasks", json=spec | change)
    chinese = ada.post("/tasks", json=spec | change, headers={"Accept-Language": "zh-CN"})
    assert (english.status_code, english.json()["code"]) == (status, code), english.text
    assert english.headers["Content-Type"].startswith("application/problem+json")
    assert english.json()["title"]
    assert any("\u4e00" <= c <= "\u9fff" for c in chinese.json()["title"]), chinese.json()
    assert ada.get("/tasks", params={"limit": 1}).json()["items"] == before


@pytest.mark.parametrize(
    ("change", "english", "chinese"),
    [
        ({"kind": "song"}, "kind: must be one of: 'notebook', 'script'", "kind: 必须是以下之一：'notebook', 'script'"),
        ({"priority": 101}, "priority: must be at most 100", "priority: 不得大于 100"),
        ({"priority": "high"}, "priority: must be a whole number", "priority: 必须是整数"),
        ({"name": ""}, "name: must have at least 1 characters", "name: 至少需要 1 个字符"),
        ({"surprise": 1}, "surprise: is not known here; check how it is written", "surprise: 不是已知字段，请检查拼写"),
        ({"entry": "missing.py"}, "entry: 'missing.py' is not among the files", "entry：'missing.py' 不在快照的文件中"),
        ({"roles": {}}, "roles: must be a list", "roles: 必须是列表"),
        ({"variables": []}, "variables: must be an object", "variables: 必须是带有字段名的对象"),
    ],
)
def test_what_is_wrong_in_a_field_is_told_in_both_languages(
    ada: httpx.Client, spec: dict[str, Any], change: dict[str, Any], english: str, chinese: str
) -> None:
    for language, words in (("en", english), ("zh-CN", chinese)):
        answer = ada.post("/tasks", json=spec | change, headers={"Accept-Language": language})
        assert words in answer.json()["hint"]
        assert words.partition(": ")[2] in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"name": "\xfc"}', b"{"])
def test_json_that_cannot_be_read_is_told_in_both_languages(ada: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Accept-Language": "zh-CN"}
    problem = ada.post("/tasks", content=body, headers=headers).json()
    assert problem["status"] in (400, 422)
    assert "JSON" in problem["hint"]
    assert any("\u4e00" <= c <= "\u9fff" for c in problem["hint"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"entry": "\ud800"}, "entry"),
        ({"parameters": {"words": ["fine", "\udfff"]}}, "parameters.words.1"),
        ({"parameters": {"words": "a\0b"}}, "parameters.words"),
        ({"variables": {"A\ud800": "1"}}, "variables"),
    ],
)
def test_characters_that_no_store_can_take_are_refused_and_spoil_nothing(
    ada: httpx.Client, spec: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    before = ada.get("/tasks", params={"limit": 1}).json()["items"]
    document = json.dumps(spec | change)
    for body in (document.encode(), document.encode("utf-16")):
        answer = ada.post("/tasks", content=body, headers={"Content-Type": "application/json", "Accept-Language": "zh-CN"})
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid"), answer.text
        assert answer.json()["hint"] == f"{field}: 含有不属于文本的字符"
    assert ada.get("/tasks", params={"limit": 1}).json()["items"] == before


def test_a_wrong_token_is_told_apart_from_none(service: ServiceProcess) -> None:
    assert service.api("wrong").get("/me").json()["code"] == "auth.invalid_token"
    assert service.api().get("/me").json()["code"] == "auth.required"


def test_a_dry_run_stores_nothing(ada: httpx.Client, spec: dict[str, Any]) -> None:
    before = ada.get("/tasks", params={"limit": 1}).json()["items"]
    answer = ada.post("/tasks", params={"dry_run": True}, json=spec)
    assert answer.status_code == 200, answer.text
    assert answer.json()["estimate"]["nano_per_hour"] > 0
    assert ada.get("/tasks", params={"limit": 1}).json()["items"] == before


def test_an_estimate_needs_no_files_and_says_cost_quota_and_verdict(ada: httpx.Client) -> None:
    draft = {"name": "draft", "kind": "notebook", "roles": [{"resources": {"cpu_millicores": 2000, "memory_mib": 1024}}]}
    answer = ada.post("/estimate", json=draft, params={"seconds": 3600})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    # Two cores at 0.10 and one GiB at 0.02 an hour, in nano- and micro-units.
    assert (found["nano_per_hour"], found["high_micro"], found["verdict"]) == (220_000_000, 220_000, "wait")
    assert {line["dimension"]: line["used"] for line in found["quota_after"]} == {"cpu": 2000, "memory": 1024}
    assert ada.post("/tasks", json=draft).json()["code"] == "request.invalid"


def test_the_log_tells_by_ids_what_became_of_a_task_and_which_request_asked(
    service: ServiceProcess, ada: httpx.Client, spec: dict[str, Any]
) -> None:
    made = ada.post("/tasks", json=spec, headers={"X-Request-ID": "submit-1"}).json()
    ada.post(f"/tasks/{made['id']}/cancel", headers={"X-Request-ID": "cancel-1"})
    told = [json.loads(line) for line in service.log_path.read_text().splitlines() if made["id"] in line]
    submitted, ended = told
    assert (submitted["event"], submitted["request_id"], submitted["by"]) == ("task_submitted", "submit-1", "user:ada")
    assert (ended["event"], ended["request_id"], ended["actor"]) == ("run_phase", "cancel-1", "user:ada")
    assert (ended["phase_from"], ended["phase"], ended["reason"]) == ("QUEUED", "CANCELLED", "policy.cancelled")
    assert submitted["run"] == ended["run"]


def test_a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not(service: ServiceProcess) -> None:
    token = service.hub.add_user("alice", "physics")

    def pieces() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(40):
            yield b"x" * (1 << 20)
        yield b'"}'

    with service.api(token) as api:
        headers = {"Content-Type": "application/json", "Accept-Language": "zh-CN"}
        for body in (pieces(), b"".join(pieces())):
            answer = api.post("/tasks", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "http.413")
            assert not answer.json()["title"].isascii()
        assert api.get("/tasks").json()["items"] == []


def test_a_file_comes_in_chunks_of_no_told_length_and_is_what_it_was_announced_to_be(ada: httpx.Client) -> None:
    data = b"some bytes that come one after the other"
    digest = hashlib.sha256(data).hexdigest()
    assert ada.put(f"/blobs/{digest}", content=iter([data[:10], data[10:]])).status_code == 201
    other = hashlib.sha256(b"other").hexdigest()
    assert ada.put(f"/blobs/{other}", content=iter([data])).json()["code"] == "blob.hash_mismatch"
    headers = {"Upload-Offset": "0", "Upload-Length": "3"}
    longer = ada.patch(f"/blobs/{other}", content=b"other", headers=headers)
    assert (longer.status_code, longer.json()["code"]) == (422, "blob.length")


@pytest.mark.parametrize("paths", [["a.py", "a.py/x"], ["a.py", "b/" + "n" * 256], ["a.py", "b/" + "é" * 128]])
def test_files_that_no_folder_can_hold_are_refused_at_the_submit(
    ada: httpx.Client, spec: dict[str, Any], paths: list[str]
) -> None:
    files = [{"path": path, "sha256": "0" * 64, "size": 0} for path in paths]
    refused = ada.post("/tasks", json=spec | {"kind": "script", "entry": "a.py", "inputs": {"files": files}})
    assert (refused.status_code, refused.json()["code"]) == (422, "request.invalid")


def test_what_lies_beyond_all_bounds_is_refused(ada: httpx.Client, spec: dict[str, Any]) -> None:
    for wrong in ({"output_folder": "../.."}, {"output_folder": "/etc"}, {"schedule": {"at": "9999-12-31T00:00:00Z"}}):
        assert ada.post("/tasks", json=spec | wrong).status_code == 422, wrong
    assert ada.post("/estimate", params={"seconds": 10**20}, json={"name": "x", "kind": "script"}).status_code == 422
