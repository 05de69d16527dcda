"""Claims: however many runners start, one of them runs user code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

RACES = 50


def test_of_two_runners_exactly_one_runs_user_code(make_folder: Any, tmp_path: Path) -> None:
    for number in range(RACES):
        folder = make_folder(tmp_path / f"race{number}")
        folder.prepare(entry="once.sh", content="echo ran >> count")
        first, second = folder.start(), folder.start()
        assert sorted([first.wait(30), second.wait(30)]) == [0, 75]
        assert (folder.path / "work" / "count").read_text() == "ran\n"
        winner = first if first.returncode == 0 else second
        owner = json.loads((folder.path / "claim" / "owner.json").read_text())
        assert (owner["pid"], owner["lease_token"]) == (winner.pid, "lease-1")
        assert owner["start_time"] > 0
        assert folder.record["state"] == "succeeded"


def test_a_loser_writes_nothing(folder: Any) -> None:
    folder.prepare(entry="once.sh", content="echo ran")
    (folder.path / "claim").mkdir()
    before = sorted(folder.path.rglob("*"))
    assert folder.run() == 75
    assert sorted(folder.path.rglob("*")) == sorted([*before, folder.path / "log"])
    assert folder.log.startswith("[tessera] claimed.elsewhere: ")


class ClaimServer(ThreadingHTTPServer):
    """The service's side of a claim: the first claimant wins; ``failures`` answers are errors before that."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ClaimHandler)
        self.claimed_by: str | None = None
        self.failures = 0
        self.refusal = 0
        self.seen: list[tuple[dict[str, Any], str | None]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/runs/r/claim"


class ClaimHandler(BaseHTTPRequestHandler):
    server: ClaimServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((body, self.headers["Authorization"]))
            status = 200
            if self.server.refusal:
                status = self.server.refusal
            elif self.server.failures > 0:
                self.server.failures -= 1
                status = 503
            elif self.server.claimed_by not in (None, body["who"]):
                status = 409
            else:
                self.server.claimed_by = body["who"]
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_request(self, *_: Any) -> None:
        pass


@pytest.fixture
def claims() -> Iterator[ClaimServer]:
    server = ClaimServer()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_claim_over_http_lets_one_of_two_hosts_run(make_folder: Any, claims: ClaimServer) -> None:
    claim = {"kind": "http", "url": claims.url, "token": "secret"}
    folders = [make_folder(), make_folder()]
    for folder in folders:
        folder.prepare(entry="once.sh", content="touch ran", claim=claim)
    processes = [folder.start() for folder in folders]
    assert sorted(process.wait(30) for process in processes) == [0, 75]
    assert sum((folder.path / "work" / "ran").exists() for folder in folders) == 1
    body, authorization = claims.seen[0]
    assert (body["lease_token"], authorization) == ("lease-1", "Bearer secret")
    assert str(processes[0].pid) in body["who"] or str(processes[1].pid) in body["who"]


def test_a_claim_is_repeated_while_the_service_is_away(folder: Any, claims: ClaimServer) -> None:
    claims.failures = 2
    folder.prepare(entry="once.sh", content="true", claim={"kind": "http", "url": claims.url, "token": None})
    assert folder.run() == 0, folder.log
    assert len({body["who"] for body, _ in claims.seen}) == 1
    assert len(claims.seen) == 3


def test_a_refused_claim_runs_nothing(folder: Any, claims: ClaimServer) -> None:
    claims.refusal = 403
    folder.prepare(entry="once.sh", content="touch ran", claim={"kind": "http", "url": claims.url, "token": "old"})
    assert folder.run() == 77
    assert "claim.refused" in folder.log
    assert not (folder.path / "work" / "ran").exists()
    assert not (folder.path / "exit.json").exists()


def test_a_claim_that_cannot_be_made_ends_in_time(folder: Any) -> None:
    claim = {"kind": "http", "url": "http://127.0.0.1:9/claim", "token": "x", "timeout_seconds": 2}
    folder.prepare(entry="once.sh", content="touch ran", claim=claim)
    assert folder.run(20) == 77
    assert "claim.unreachable" in folder.log
    assert not (folder.path / "work" / "ran").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": 2}, "schema"),
        ({"run_id": ""}, "run_id"),
        ({"kind": "binary"}, "kind"),
        ({"entry": "../up.sh"}, "entry"),
        ({"entry": "/etc/passwd"}, "entry"),
        ({"checkpoint_dir": "../out"}, "checkpoint_dir"),
        ({"parameters": [1]}, "parameters"),
        ({"datasets": {"digits": "relative"}}, "datasets"),
        ({"datasets": {"../digits": "/srv"}}, "datasets"),
        ({"limits": {"max_seconds": -1}}, "max_seconds"),
        ({"limits": {"memory_mib": "1"}}, "memory_mib"),
        ({"claim": {"kind": "flock"}}, "claim.kind"),
        ({"claim": {"kind": "http", "url": "file:///x"}}, "claim.url"),
    ],
)
def test_a_wrong_specification_is_refused_before_the_claim(folder: Any, change: dict[str, Any], field: str) -> None:
    folder.prepare(entry="once.sh", content="touch ran")
    document = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(document | change))
    assert folder.run() == 78
    assert f"run.json: {field} " in folder.log
    assert not (folder.path / "claim").exists()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_no_specification_is_refused(folder: Any, content: str | None) -> None:
    if content is not None:
        (folder.path / "run.json").write_text(content)
    assert folder.run() == 78
    assert {path.name for path in folder.path.iterdir()} <= {"log", "run.json"}


def test_help_says_what_to_give() -> None:
    found = subprocess.run([sys.executable, "-m", "tessera_lab.runner", "--help"], capture_output=True, text=True, check=True)
    assert "RUN_DIR" in found.stdout.upper()
