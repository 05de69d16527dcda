"""The Lab server extension: a real Jupyter server before the real service."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.lab.conftest import JUPYTER_TOKEN, LabServer
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

NOTEBOOK: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "cells": [
        {
            "cell_type": "code",
            "id": "a",
            "metadata": {"tags": ["parameters"]},
            "source": "epochs = 3  # rounds",
            "outputs": [],
            "execution_count": None,
        },
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "print(epochs)", "outputs": [], "execution_count": None},
    ],
}


def write_notebook(root: Path, path: str = "work/train.ipynb") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(NOTEBOOK))


def tasks(alice: httpx.Client) -> list[str]:
    """What there is already, for tests that leave nothing behind."""
    return [item["id"] for item in alice.get("v1/tasks").json()["items"]]


def test_a_call_without_sign_in_is_refused_and_one_with_it_reaches_the_service(lab: LabServer) -> None:
    with lab.api(Authorization="") as stranger, lab.api() as alice:
        assert stranger.get("v1/me").status_code == 403
        assert stranger.post("local/submit", json={}).status_code == 403
        answer = alice.get("v1/me")
    assert answer.status_code == 200
    assert answer.json()["name"] == "alice"


@pytest.mark.parametrize("path", ["v1/../../../hub/api/users", "v1/..%2f..%2fhealthz", "v1//me", "v1/%2e%2e/healthz", "v1/a%5cb"])
def test_no_path_leads_out_of_the_api(lab: LabServer, path: str) -> None:
    with httpx.Client() as client:
        url = httpx.URL(lab.url).copy_with(raw_path=f"/user/alice/tessera/api/{path}".encode())
        answer = client.get(url, headers={"Authorization": "token jupyter-server-token"})
    assert answer.status_code == 404
    assert "tessera_http" not in answer.text


def test_the_parameters_of_a_notebook_have_types(lab: LabServer) -> None:
    write_notebook(lab.root)
    with lab.api() as alice:
        found = alice.get("local/parameters", params={"path": "work/train.ipynb"}).json()
    assert found["cells"] == 2
    assert found["kernel"] == "python3"
    assert [(p["name"], p["type"], p["default"], p["help"]) for p in found["parameters"]] == [("epochs", "int", 3, "rounds")]


@pytest.mark.parametrize("path", ["../secret.ipynb", "/etc/passwd", "link.ipynb", ".hidden/a.ipynb", "", "work"])
def test_files_outside_the_contents_root_do_not_exist(lab: LabServer, path: str) -> None:
    write_notebook(lab.root.parent, "secret.ipynb")
    write_notebook(lab.root, ".hidden/a.ipynb")
    write_notebook(lab.root)
    (lab.root / "link.ipynb").symlink_to(lab.root.parent / "secret.ipynb")
    with lab.api() as alice:
        before = tasks(alice)
        assert alice.get("local/parameters", params={"path": path}).status_code == 404
        body = {"path": path, "include": "notebook", "spec": {}}
        assert alice.post("local/snapshot-preview", json=body).status_code == 404
        assert alice.post("local/submit", json=body).status_code == 404
        assert tasks(alice) == before


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'{"path": "work/train.ipynb", "spec": {"name": "\\ud800"}}'])
def test_a_body_that_cannot_be_sent_on_is_refused_in_words(lab: LabServer, body: bytes) -> None:
    write_notebook(lab.root)
    with lab.api(**{"Accept-Language": "zh-CN"}) as alice:
        before = tasks(alice)
        for path in ("local/submit", "local/snapshot-preview"):
            answer = alice.post(path, content=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid"), answer.text
            assert answer.json()["title"] == "请求无效。"
        assert tasks(alice) == before


def test_a_preview_lists_the_files_and_says_why_a_snapshot_is_refused(lab: LabServer) -> None:
    write_notebook(lab.root)
    (lab.root / "work/data.csv").write_text("1,2")
    (lab.root / "work/train-runs/old").mkdir(parents=True)
    (lab.root / "work/train-runs/old/out.bin").write_text("x")
    with lab.api(**{"Accept-Language": "zh-CN"}) as alice:
        seen = alice.post("local/snapshot-preview", json={"path": "work/train.ipynb", "include": "folder"}).json()
        assert [file["path"] for file in seen["files"]] == ["data.csv", "train.ipynb"]
        (lab.root / "work/big.bin").write_bytes(b"\0" * (2 << 20))
        seen = alice.post("local/snapshot-preview", json={"path": "work/train.ipynb", "include": "folder"}).json()
    assert seen["refused"]["code"] == "snapshot.too_large"
    assert seen["limit_bytes"] == 1 << 20


def test_a_double_click_on_submit_is_one_task(lab: LabServer) -> None:
    write_notebook(lab.root)
    body = {
        "path": "work/train.ipynb",
        "include": "notebook",
        "spec": {"name": "train", "kind": "notebook", "parameters": {"epochs": 5}},
        "idempotency_key": "click",
    }
    with lab.api() as alice:
        first, second = alice.post("local/submit", json=body), alice.post("local/submit", json=body)
        assert first.status_code == 201, first.text
        assert first.json()["id"] == second.json()["id"]
        detail = alice.get(f"v1/tasks/{first.json()['id']}").json()
    assert detail["spec"]["labels"]["workspace-path"] == "work/train.ipynb"
    assert detail["spec"]["parameters"] == {"epochs": 5}


def test_a_recurring_job_is_checked_made_paused_and_removed(lab: LabServer) -> None:
    write_notebook(lab.root)
    spec = {"name": "nightly", "kind": "notebook", "schedule": {"cron": "0 3 * * *", "time_zone": "Asia/Shanghai"}}
    body = {"path": "work/train.ipynb", "include": "notebook", "spec": spec}
    with lab.api() as alice:
        before = tasks(alice)
        checked = alice.post("local/submit", json={**body, "dry_run": True}).json()
        assert checked["spec"]["schedule"]["cron"] == "0 3 * * *"
        assert checked["estimate"]["nano_per_hour"] > 0
        made = alice.post("local/submit", json=body)
        assert made.status_code == 201, made.text
        schedule = made.json()["id"]
        assert made.json()["spec"]["inputs"]["files"][0]["path"] == "train.ipynb"
        assert alice.patch(f"v1/schedules/{schedule}", json={"enabled": False}).json()["next_at"] is None
        never = {**body, "spec": {**spec, "schedule": {"cron": "0 3 31 2 *"}}}
        assert alice.post("local/submit", json=never).json()["code"] == "schedule.cron"
        assert alice.delete(f"v1/schedules/{schedule}").status_code == 204
        assert alice.get("v1/schedules").json() == []
        assert tasks(alice) == before


def test_the_use_of_the_workspace_is_measured(lab: LabServer) -> None:
    with lab.api() as alice:
        use = alice.get("local/usage").json()
    assert use["memory_mib"] > 10
    assert use["cpu_millicores"] >= 0
    assert (use["cpu_limit"], use["memory_limit"]) == (2000, 3072)


def test_a_parameter_of_a_wrong_type_and_a_broken_notebook_are_refused(lab: LabServer) -> None:
    write_notebook(lab.root)
    (lab.root / "broken.ipynb").write_text('{"cells": [')
    with lab.api() as alice:
        before = tasks(alice)
        wrong = {"path": "work/train.ipynb", "include": "notebook", "spec": {"parameters": {"epochs": "many"}}}
        answer = alice.post("local/submit", json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "parameter.type")
        answer = alice.post("local/submit", json={"path": "broken.ipynb", "include": "notebook", "spec": {}})
        assert answer.json()["code"] == "notebook.invalid"
        assert tasks(alice) == before


def test_events_arrive_while_the_stream_is_open(lab: LabServer) -> None:
    write_notebook(lab.root)
    body = {"path": "work/train.ipynb", "include": "notebook", "spec": {"name": "seen-live"}}
    with lab.api() as alice, alice.stream("GET", "v1/events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        with lab.api() as other:
            assert other.post("local/submit", json=body).status_code == 201
        assert any("seen-live" in line for line in lines)


async def socket_to(lab: LabServer, path: str, token: str = JUPYTER_TOKEN) -> WebSocketClientConnection:
    """Open a stream of the service as the front end does."""
    address = f"{lab.url.replace('http', 'ws', 1)}tessera/api/stream/{path}"
    return await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {token}"}))


async def test_events_arrive_over_a_websocket(lab: LabServer) -> None:
    write_notebook(lab.root)
    body = {"path": "work/train.ipynb", "include": "notebook", "spec": {"name": "seen-live"}}
    stream = await socket_to(lab, "events?language=en")
    assert await stream.read_message() == '{"status": 200}'
    with lab.api() as alice:
        assert alice.post("local/submit", json=body).status_code == 201
    while b"seen-live" not in (piece := await stream.read_message() or b""):
        assert piece, "the stream ended"
    stream.close()


async def test_a_refused_stream_says_why_in_the_language_asked_for(lab: LabServer) -> None:
    stream = await socket_to(lab, "tasks/00000000-0000-0000-0000-000000000000/follow?language=zh-CN&offset=0")
    refused = json.loads(str(await stream.read_message()))
    assert (refused["status"], refused["code"]) == (404, "task.not_found")
    assert not refused["title"].isascii()
    assert await stream.read_message() is None


async def test_a_stream_needs_the_servers_token_and_has_no_other_way(lab: LabServer) -> None:
    for path, token, status in (("events", "wrong", 403), ("tasks", JUPYTER_TOKEN, 404), ("../v1/events", JUPYTER_TOKEN, 404)):
        with pytest.raises(HTTPClientError) as refused:
            await socket_to(lab, path, token)
        assert refused.value.code == status, path


def test_a_body_that_is_too_large_is_refused(lab: LabServer) -> None:
    with lab.api() as alice:
        answer = alice.post("v1/tasks", content=b"x" * (9 << 20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_cookies_and_tokens_of_the_jupyter_server_stay_there(lab: LabServer, service_spy: SpyServer) -> None:
    with lab.api(Cookie="_xsrf=xsrf-of-lab; jupyterhub-session=session-of-lab", **{"X-XSRFToken": "xsrf-of-lab"}) as alice:
        alice.get("v1/spied", params={"token": "jupyter-server-token", "_xsrf": "xsrf-of-lab", "kept": "1"})
    # The extension says things of its own accord, too.
    [request] = [text for text in service_spy.seen if "/spied" in text]
    assert "jupyter-server-token" not in request
    assert "xsrf-of-lab" not in request
    assert "session-of-lab" not in request
    assert "kept=1" in request
    assert f"Authorization: token {lab.hub_token}" in request


class SpyServer:
    """What a server in the service's place is sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []


@pytest.fixture
def service_spy(lab: LabServer) -> Any:
    """A real HTTP server at the service's port, which writes down what it is sent."""
    import threading
    from http.server import ThreadingHTTPServer

    lab.service.stop()
    spy = SpyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            spy.seen.append(f"{self.path}\n{self.headers}".replace("authorization:", "Authorization:"))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Set-Cookie", "evil=1")
            self.end_headers()
            self.wfile.write(b"<script>1</script>")

        def log_message(self, *_args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", lab.service.port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield spy
    server.shutdown()
    server.server_close()


def test_an_answer_never_becomes_a_page_of_this_origin(lab: LabServer, service_spy: SpyServer) -> None:
    with lab.api() as alice:
        answer = alice.get("v1/anything")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "evil" not in answer.headers.get("Set-Cookie", "")
    assert service_spy.seen


def test_a_service_that_is_away_is_told_as_a_problem(lab: LabServer) -> None:
    lab.service.stop()
    with lab.api() as alice:
        answer = alice.get("v1/me")
        status = alice.get("local/status").json()
    assert answer.status_code == 503
    assert answer.json()["code"] == "service.unreachable"
    assert status["connected"] is False
    assert status["since"]
