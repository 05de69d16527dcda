"""What the tests of workspaces do: ask for one by REST, look at the hub, find its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import psutil

from tessera_hub.client import TesseraClient
from tests.browser.running import RunningHub, until


def ask(client: TesseraClient, server: str = "", datasets: Sequence[str] = (), **lifecycle: Any) -> httpx.Response:
    """Ask the service for a small workspace."""
    spec = {"name": server or "workspace", "kind": "workspace", "lifecycle": lifecycle, "datasets": list(datasets)}
    spec["roles"] = [{"resources": {"cpu_millicores": 200, "memory_mib": 512}}]
    return call(client, "POST", "workspaces", {"server_name": server, "spec": spec})


def call(client: TesseraClient, method: str, path: str, body: Any = None) -> httpx.Response:
    """Call the service's API as a program does."""
    headers = {"Authorization": f"token {client.connection.token}"}
    return httpx.request(method, f"{client.connection.api}/{path}", json=body, headers=headers, timeout=20)


def started(client: TesseraClient, answer: httpx.Response) -> Any:
    """Return the handle of a workspace that runs by now."""
    assert answer.status_code == 201, answer.text
    handle = client.task(answer.json()["id"])
    until(lambda: handle.refresh().phase == "RUNNING", 60)
    return handle


def ended(handle: Any, seconds: float = 60) -> Any:
    """Return the task once it has ended."""
    return until(lambda: (task := handle.refresh()).phase.final and task, seconds)


def nothing_is_held(client: TesseraClient) -> bool:
    """Whether no queue of the person has anything in use."""
    return all(line.used == 0 for queue in client.queues() for line in queue.quota)


def processes_of(run_id: str) -> list[psutil.Process]:
    """Return the processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TESSERA_RUN_ID") == run_id:
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_all(hub: RunningHub, *people: str | None) -> None:
    """End the workspaces of *people*."""
    for name in people:
        with hub.client(name) as client:
            for handle in client.tasks(kind="workspace", mine=True):
                if not handle.task.phase.final:
                    handle.cancel()
                    ended(handle)
