"""A Proxy played by hand: it speaks the protocol to the real service and runs nothing, so that a test decides what it says."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from tests.service import ServiceProcess

BOOTSTRAP = "bootstrap-of-the-test"
TOTAL = {"cpu": 8000, "memory": 16384}


def inventory(**more: Any) -> dict[str, Any]:
    """Return what a machine without cards tells."""
    shape = {"free_cpu": TOTAL["cpu"], "free_memory": TOTAL["memory"]}
    pool = {"name": "machine", "total": TOTAL, "free": TOTAL, "shapes": [shape]}
    return {"pools": [pool], "environments": {"default": {"kernels": ["python3"]}}} | more


class ProxyByHand:
    """One session of the local cluster's Proxy."""

    def __init__(self, service: ServiceProcess, *, inventory: dict[str, Any]) -> None:
        self.service = service
        self.inventory = inventory
        self.client = service.api()
        self.epoch = self.seq = 0
        self.runs: dict[str, dict[str, Any]] = {}

    def call(self, name: str, body: dict[str, Any], **params: Any) -> httpx.Response:
        """Call one of the Proxy's routes."""
        answer = self.client.post(f"/proxies/local/{name}", json=body, params=params)
        assert answer.is_success, answer.text
        return answer

    def begin(self, *capabilities: str) -> None:
        """Begin a session and show the inventory."""
        able = ["preempt", "suspend", *capabilities]
        body = {"agent_version": "0", "instance": uuid4().hex, "driver": "local", "capabilities": able}
        self.client.headers["Authorization"] = f"Bearer {BOOTSTRAP}"
        answer = self.call("sessions", body).json()
        self.client.headers["Authorization"] = f"Bearer {answer['session_token']}"
        self.epoch, self.seq = answer["epoch"], 0
        self.sync()

    def sync(self, wait: float = 0.0, queues_hash: str | None = None) -> dict[str, Any]:
        """Report all runs and return the answer."""
        self.seq += 1
        body = {
            "epoch": self.epoch,
            "seq": self.seq,
            "inventory_hash": "one",
            "inventory": self.inventory,
            "runs": list(self.runs.values()),
            "queues_hash": queues_hash,
        }
        answer: dict[str, Any] = self.call("sync", body, wait=wait).json()
        return answer

    def lease(self, task_id: str, seconds: float = 15.0) -> dict[str, Any]:
        """Return the lease of a task, waiting for it."""
        deadline = time.monotonic() + seconds
        while True:
            for lease in self.sync(wait=0.5)["leases"]:
                if lease["task_id"] == task_id:
                    found: dict[str, Any] = lease
                    return found
            assert time.monotonic() < deadline, "the task was not leased"

    def start(self, task_id: str) -> dict[str, Any]:
        """Take a task's lease, claim it, say that it runs, and return the lease."""
        lease = self.lease(task_id)
        body = {"lease_token": lease["lease_token"], "who": "hand"}
        assert self.run_call(lease, "POST", "claim", json=body).status_code == 200
        self.report(lease, "RUNNING")
        self.sync()
        return lease

    def report(self, lease: dict[str, Any], phase: str) -> None:
        """Show the run in this phase from now on."""
        self.runs[lease["run_id"]] = {
            "run_id": lease["run_id"],
            "lease_token": lease["lease_token"],
            "phase": phase,
            "at": datetime.now(UTC).isoformat(),
        }

    def event(self, lease: dict[str, Any], **fields: Any) -> str:
        """Tell an event of the run and return the service's verdict; a final phase is reported from then on."""
        event = {
            "event_id": str(uuid4()),
            "run_id": lease["run_id"],
            "lease_token": lease["lease_token"],
            "kind": "phase",
            "at": datetime.now(UTC).isoformat(),
        } | fields
        verdict = self.call("events", {"epoch": self.epoch, "events": [event]}).json()["results"][event["event_id"]]
        if fields.get("phase"):
            self.report(lease, fields["phase"])
        return str(verdict)

    def run_call(self, lease: dict[str, Any], method: str, path: str, **options: Any) -> httpx.Response:
        """Call one of the run's own routes with its token."""
        headers = {"Authorization": f"Bearer {lease['run_token']}"} | options.pop("headers", {})
        return self.client.request(method, f"/runs/{lease['run_id']}/{path}", headers=headers, **options)
