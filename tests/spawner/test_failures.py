"""What goes wrong at a start leaves nothing behind: no process, nothing held, nothing billed, and a reason."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser.running import RunningHub, until
from tests.spawner.workspaces import ask, end_all, ended, nothing_is_held, processes_of, started

pytestmark = pytest.mark.timeout(240)

RESERVATION_SECONDS = 8
START_SECONDS = 12
EXTRA = """
import sys
sys.path.insert(0, {root!r})
c.JupyterHub.spawner_class = "tests.spawner.doubles.MisbehavingSpawner"
c.JupyterHub.authenticate_prometheus = False
c.JupyterHub.active_server_limit = 2
c.Spawner.start_timeout = {seconds}
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    folder = Path(tempfile.mkdtemp(prefix="tessera-failures-"))
    (folder / "jupyterhub_extra.py").write_text(EXTRA.format(root=str(Path(__file__).parents[2]), seconds=START_SECONDS))
    config = folder / "tessera_config.py"
    config.write_text(f"c.TesseraService.reservation_seconds = {RESERVATION_SECONDS}\n")
    running = RunningHub(data_dir=folder, environment={"TESSERA_CONFIG": str(config)})
    try:
        yield running.start()
    finally:
        running.remove()


@pytest.fixture(autouse=True)
def _tidy(hub: RunningHub) -> Iterator[None]:
    yield
    end_all(hub, None)


def spawns(hub: RunningHub) -> dict[tuple[str, str], int]:
    """Return how often the hub counted each (status, reason) of a start."""
    text = httpx.get(f"{hub.url}/hub/metrics", timeout=20).text
    pattern = r'^jupyterhub_server_spawn_duration_seconds_count\{reason="([^"]*)",status="([^"]*)"\} (\d+)'
    return {(status, reason): int(count) for reason, status, count in re.findall(pattern, text, re.MULTILINE)}


def start_directly(hub: RunningHub, server: str = "") -> httpx.Response:
    """Start a server past the form, as a person with a token may."""
    path = f"/hub/api/users/{hub.here.owner}/server{'s/' + server if server else ''}"
    return httpx.post(hub.url + path, headers={"Authorization": f"token {hub.server_token()}"}, timeout=30)


@pytest.mark.parametrize(
    ("server", "code", "seconds"),
    [("dies", "workspace.start_failed", 30), ("raises", "workspace.start_failed", 30), ("mute", "workspace.start_failed", 60)],
)
def test_a_server_that_does_not_come_up_fails_with_a_reason_and_holds_nothing(
    hub: RunningHub, server: str, code: str, seconds: float
) -> None:
    with hub.client() as client:
        handle = client.task(ask(client, server).json()["id"])
        task = ended(handle, seconds)
        assert (task.phase, [r.code for r in task.reasons]) == ("FAILED", [code])
        assert task.reasons[0].message != code
        assert handle.bill().amount_micro == 0
        until(lambda: nothing_is_held(client), 10)
        until(lambda: not processes_of(str(task.runs[-1].id)), 10)
        # The way is free for another one of that name.
        again = client.task(ask(client, server).json()["id"])
        assert again.id != handle.id


def test_a_slow_server_is_waited_for_and_can_be_stopped_meanwhile(hub: RunningHub) -> None:
    with hub.client() as client:
        handle = client.task(ask(client, "slow").json()["id"])
        until(lambda: handle.refresh().phase == "STARTING", 20)
        run = str(handle.refresh().runs[-1].id)
        until(lambda: processes_of(run), 20)
        handle.cancel()
        task = ended(handle)
        assert task.phase == "CANCELLED"
        until(lambda: not processes_of(run), 10)
        assert handle.bill().amount_micro == 0
        assert nothing_is_held(client)
        assert started(client, ask(client, "slow")).task.phase == "RUNNING"


def test_a_start_without_a_reservation_is_refused_with_the_way_and_counts_as_no_error(hub: RunningHub) -> None:
    before = spawns(hub)
    answer = start_directly(hub, "free")
    assert answer.status_code == 409
    assert "/services/tessera/workspaces/new?opt-server=free" in answer.json()["message"]
    after = spawns(hub)
    assert after.get(("failure", "reservation"), 0) == before.get(("failure", "reservation"), 0) + 1
    assert {k: v for k, v in after.items() if k[0] == "error"} == {k: v for k, v in before.items() if k[0] == "error"}


def test_a_start_while_it_waits_is_refused_with_the_way_to_the_wait(hub: RunningHub) -> None:
    with hub.client() as client:
        total = max(c.total.get("cpu", 0) for c in client.capacity())
        spec = {"name": "big", "kind": "workspace", "roles": [{"resources": {"cpu_millicores": total, "memory_mib": 256}}]}
        started(client, ask(client, "slow"))
        headers = {"Authorization": f"token {client.connection.token}"}
        body = {"server_name": "big", "spec": spec}
        waiting = httpx.post(f"{client.connection.api}/workspaces", json=body, headers=headers, timeout=20).json()["id"]
        answer = start_directly(hub, "big")
        assert answer.status_code == 409
        assert f"/services/tessera/workspaces/{waiting}" in answer.json()["message"]
        assert client.task(waiting).refresh().phase == "QUEUED"


def test_a_reservation_that_is_not_taken_up_runs_out_and_gives_back_what_it_held(hub: RunningHub) -> None:
    with hub.client() as client:
        for server in ("slow", "other"):
            started(client, ask(client, server))
        # The hub has no room for a third server, so it refuses to start what the service has granted.
        handle = client.task(ask(client, "third").json()["id"])
        until(lambda: handle.refresh().phase == "RESERVED", 20)
        begun = time.monotonic()
        task = ended(handle, RESERVATION_SECONDS + 20)
        assert (task.phase, [r.code for r in task.reasons]) == ("CANCELLED", ["workspace.expired"])
        assert time.monotonic() - begun >= RESERVATION_SECONDS - 2
        held = {line.dimension: line.used for queue in client.queues() if queue.parent is None for line in queue.quota}
        assert held == {"cpu": 2 * 200, "memory": 2 * 512}


def test_a_service_that_is_away_refuses_the_start_and_counts_as_no_error(hub: RunningHub) -> None:
    token = hub.server_token()
    before = spawns(hub)
    service = hub.child("cli service")
    service.suspend()
    try:
        path = f"/hub/api/users/{hub.here.owner}/servers/away"
        answer = httpx.post(hub.url + path, headers={"Authorization": f"token {token}"}, timeout=START_SECONDS + 30)
    finally:
        service.resume()
    if answer.status_code == 202:  # on a slow machine the hub stops waiting before the spawner does
        until(lambda: spawns(hub) != before, 20)
    else:
        assert (answer.status_code, "cannot be asked" in answer.json()["message"]) == (503, True), answer.text
    after = spawns(hub)
    assert after.get(("failure", "service"), 0) == before.get(("failure", "service"), 0) + 1
    assert {k: v for k, v in after.items() if k[0] == "error"} == {k: v for k, v in before.items() if k[0] == "error"}


def test_a_workspace_outlives_the_hub_and_is_stopped_by_the_next_one(hub: RunningHub) -> None:
    with hub.client() as client:
        handle = started(client, ask(client, "slow"))
        run = str(handle.refresh().runs[-1].id)
        [process] = processes_of(run)
        killed = hub.child("jupyterhub")
        killed.kill()
        until(lambda: answers(hub) and hub.child("jupyterhub").pid != killed.pid, 60)
        time.sleep(3)
        assert process.is_running()
        assert handle.refresh().phase == "RUNNING"
        handle.cancel()
        task = ended(handle)
        assert (task.phase, [r.code for r in task.reasons]) == ("SUCCEEDED", ["workspace.stopped"])
        assert not process.is_running()
        assert task.started_at is not None
        assert task.finished_at is not None
        assert abs(handle.bill().seconds - (task.finished_at - task.started_at).total_seconds()) <= 1


def test_a_hub_that_dies_during_a_start_leaves_no_process_that_nobody_accounts_for(hub: RunningHub) -> None:
    with hub.client() as client:
        handle = client.task(ask(client, "slow").json()["id"])
        run = str(until(lambda: (t := handle.refresh()).phase == "STARTING" and t, 20).runs[-1].id)
        until(lambda: processes_of(run), 20)
        killed = hub.child("jupyterhub")
        killed.kill()
        until(lambda: answers(hub) and hub.child("jupyterhub").pid != killed.pid, 60)
        settled = until(lambda: (t := handle.refresh()).phase != "STARTING" and t, 90)
        if settled.phase.final:
            until(lambda: not processes_of(run), 20)
            assert nothing_is_held(client)
            assert handle.bill().amount_micro == 0
        else:
            assert settled.phase == "RUNNING"
            assert len(processes_of(run)) == 1


def answers(hub: RunningHub) -> bool:
    try:
        return httpx.get(f"{hub.url}/hub/login", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
