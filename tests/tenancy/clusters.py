"""Proxies of tests: the real one as a process, and one led by hand whose session and runs a test holds itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.service import ServiceProcess


class LocalProxy:
    """The real Proxy of cluster ``local`` as a process."""

    def __init__(self, directory: Path, service: ServiceProcess, token: str) -> None:
        self.directory = directory
        token_file = directory / "proxy-token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        options = ["--cluster", "local", "--url", service.url, "--bootstrap-token-file", str(token_file)]
        argv = [sys.executable, "-m", "tessera_hub.cli", "proxy", *options, "--data-dir", str(directory / "local")]
        with (directory / "proxy.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log_tail(self) -> str:
        """Return the end of its output."""
        return (self.directory / "proxy.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Stop it, then end what it started: its shims outlive it by design."""
        self.process.terminate()
        self.process.wait(20)
        for record in self.directory.glob("local/runs/*/shim.pid.json"):
            pid = json.loads(record.read_text())["pid"]
            (record.parent / "cancel.json").write_text('{"why": "stale", "grace_seconds": 0}')
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)


class HandProxy:
    """A cluster whose Proxy is the test: it holds the session, gets real leases and with them real run tokens."""

    def __init__(self, service: ServiceProcess, operator: str, name: str, *, tenants: list[str] | None = None) -> None:
        self.name = name
        self.api = service.api()
        answer = service.api(operator).post("/clusters", json={"name": name, "tenants": tenants})
        assert answer.status_code == 201, answer.text
        self.bootstrap = answer.json()["bootstrap_token"]
        self.seq = 0
        self.session, self.epoch = "", 0
        self.leases: dict[str, dict[str, Any]] = {}

    def begin(self) -> HandProxy:
        """Begin a session and show what the cluster has."""
        answer = self.api.post(f"/proxies/{self.name}/sessions", json=self.introduction(), headers=bearer(self.bootstrap))
        assert answer.status_code == 200, answer.text
        self.session, self.epoch = answer.json()["session_token"], answer.json()["epoch"]
        self.sync(inventory=True)
        return self

    def introduction(self) -> dict[str, Any]:
        """Return the body that begins a new session."""
        return {"agent_version": "0", "instance": uuid4().hex, "driver": "local", "capabilities": ["logs", "suspend"]}

    def report(self, *, inventory: bool = False) -> dict[str, Any]:
        """Return the body of the next sync."""
        self.seq += 1
        runs = [
            {"run_id": run_id, "lease_token": lease["lease_token"], "phase": "PENDING", "at": now()}
            for run_id, lease in self.leases.items()
        ]
        room = {"cpu": 64_000, "memory": 262_144}
        shapes = [{"count": 1, "free_cpu": 64_000, "free_memory": 262_144}]
        has = {
            "pools": [{"name": "cpu", "total": room, "free": room, "shapes": shapes}],
            "environments": {"default": {"kernels": ["python3"]}, f"{self.name}-only": {"kernels": ["python3"]}},
            "datasets": {f"{self.name}-data": {}, "crimson-data-only": {"tenants": ["crimson"]}},
        }
        body = {"epoch": self.epoch, "seq": self.seq, "inventory_hash": "1", "runs": runs}
        return body | ({"inventory": has} if inventory else {})

    def sync(self, wait: float = 0.0, *, inventory: bool = False) -> list[dict[str, Any]]:
        """Report and return the new leases."""
        body = self.report(inventory=inventory)
        answer = self.api.post(f"/proxies/{self.name}/sync", params={"wait": wait}, json=body, headers=bearer(self.session))
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = [lease for lease in answer.json()["leases"] if lease["run_id"] not in self.leases]
        self.leases.update({lease["run_id"]: lease for lease in found})
        return found

    def place(self, owner: httpx.Client, spec: dict[str, Any]) -> dict[str, Any]:
        """Submit a task for this cluster and return its lease."""
        task = owner.post("/tasks", json=spec | {"clusters": [self.name]})
        assert task.status_code == 201, task.text
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for lease in self.sync(wait=2.0):
                if lease["task_id"] == task.json()["id"]:
                    return lease
        raise AssertionError(f"the task was not placed: {owner.get('/tasks/' + task.json()['id']).json()}")


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries *token*."""
    return {"Authorization": f"Bearer {token}"}


def now() -> str:
    """Return the present time as the API reads it."""
    return datetime.now(UTC).isoformat()
