"""Making room: the grace, the checkpoint that the next attempt finds, what a cancel in between means, and holding still."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tessera_hub.store import Store
from tessera_hub.tasks.control import request_cancel
from tests.proxy.by_hand import ProxyByHand
from tests.proxy.machine import LocalProxy
from tests.service import ServiceProcess, script_spec, upload

TRAINING = """
import os, pathlib, signal, sys, time

folder = pathlib.Path(os.environ["TESSERA_CHECKPOINT_DIR"])
(folder / "state").mkdir(exist_ok=True)
state = folder / "state" / "epoch"
begin = int(state.read_text()) if state.exists() else 0
print("begin at", begin, "attempt", os.environ["TESSERA_ATTEMPT"], flush=True)

def save(*_):
    state.write_text(str(epoch))
    sys.exit(0)

epoch = begin
signal.signal(signal.SIGTERM, save)
while epoch < 40:
    time.sleep(0.1)
    epoch += 1
    print("epoch", epoch, flush=True)
pathlib.Path("model.txt").write_text(f"{begin} {epoch}")
"""


def order(service: ServiceProcess, task_id: str, why: str) -> None:
    """What the scheduler does to make room (``preempt``), or a person (``cancel``)."""

    async def once() -> None:
        store = Store(service.database_url)
        async with store.write() as session:
            await request_cancel(session, UUID(task_id), actor="scheduler", why=why)
        await store.close()

    asyncio.run(once())


def test_a_preempted_training_goes_on_where_it_saved(machine: LocalProxy) -> None:
    task_id = machine.submit(TRAINING, lifecycle={"grace_seconds": 10})
    machine.wait_for_output(task_id, "epoch 3\n")
    order(machine.service, task_id, "preempt")
    machine.wait_for_output(task_id, "attempt 2", seconds=30)
    task = machine.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 2)
    detail = machine.task(task_id)
    assert [(run["attempt"], run["phase"]) for run in detail["runs"]] == [(1, "PREEMPTED"), (2, "SUCCEEDED")]
    begin = int(machine.output(task_id).split()[2])
    assert begin >= 3, "the second attempt found the checkpoint of the first"
    (model,) = machine.api.get(f"/tasks/{task_id}/outputs").json()
    assert model["path"] == "model.txt", "a checkpoint is no result"
    assert machine.api.get(f"/tasks/{task_id}/outputs/{model['sha256']}").text == f"{begin} 40"
    reasons = [e["reason"]["code"] for e in machine.api.get(f"/tasks/{task_id}/events").json() if e["reason"]]
    assert reasons == ["policy.preempted"]
    machine.wait_until_forgotten()


def test_a_failed_attempt_hands_its_checkpoint_on_and_a_later_one_keeps_it(machine: LocalProxy) -> None:
    text = (
        "import os, pathlib, sys\nfolder = pathlib.Path(os.environ['TESSERA_CHECKPOINT_DIR'])\n"
        "found = sorted(p.name for p in folder.iterdir())\nprint('found', found)\n"
        "attempt = os.environ['TESSERA_ATTEMPT']\n(folder / attempt).write_text('x')\nsys.exit(0 if attempt == '3' else 1)"
    )
    task_id = machine.submit(text, lifecycle={"retries": 5})
    task = machine.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 3)
    assert "found ['1', '2']" in machine.output(task_id)


@pytest.fixture
def task_id(ada: httpx.Client) -> str:
    """A waiting task with a grace of 7 seconds."""
    answer = ada.post("/tasks", json=script_spec(*upload(ada, b"pass"), lifecycle={"grace_seconds": 7}))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def cancels(proxy: ProxyByHand) -> list[tuple[str, int]]:
    """The orders to end runs, waiting a moment for them."""
    for _ in range(20):
        if found := proxy.sync(wait=0.5)["cancels"]:
            return [(cancel["why"], cancel["grace_seconds"]) for cancel in found]
    return []


def state(ada: httpx.Client, task_id: str) -> tuple[str, int]:
    task: dict[str, Any] = ada.get(f"/tasks/{task_id}").json()
    return task["phase"], task["attempts"]


def test_the_order_names_the_cause_and_the_grace(
    proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client, task_id: str
) -> None:
    proxy.begin()
    lease = proxy.start(task_id)
    order(service, task_id, "preempt")
    assert cancels(proxy) == [("preempt", 7)]
    assert proxy.event(lease, phase="PREEMPTED") == "accepted"
    assert state(ada, task_id)[1] == 2
    assert proxy.lease(task_id)["attempt"] == 2


def test_a_cancel_during_a_preemption_wins(proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client, task_id: str) -> None:
    proxy.begin()
    lease = proxy.start(task_id)
    order(service, task_id, "preempt")
    assert ada.post(f"/tasks/{task_id}/cancel").status_code == 202
    assert cancels(proxy) == [("cancel", 7)]
    assert proxy.event(lease, phase="PREEMPTED") == "accepted"
    assert state(ada, task_id) == ("CANCELLED", 1)


def test_a_task_that_must_not_be_repeated_ends_preempted(proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client) -> None:
    spec = script_spec(*upload(ada, b"pass"), lifecycle={"on_preemption": "fail"})
    task_id = ada.post("/tasks", json=spec).json()["id"]
    proxy.begin()
    lease = proxy.start(task_id)
    order(service, task_id, "preempt")
    assert proxy.event(lease, phase="PREEMPTED") == "accepted"
    assert state(ada, task_id) == ("PREEMPTED", 1)


def test_preempting_a_task_that_waits_changes_nothing(service: ServiceProcess, ada: httpx.Client) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    task_id = ada.post("/tasks", json=script_spec(*upload(ada, b"pass"), schedule={"at": tomorrow})).json()["id"]
    order(service, task_id, "preempt")
    task = ada.get(f"/tasks/{task_id}").json()
    assert (task["phase"], task["cancel_requested"]) == ("QUEUED", False)


def test_a_task_that_was_claimed_before_anything_was_heard_of_it_is_ended_by_its_cluster(
    proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client, task_id: str
) -> None:
    proxy.begin()
    lease = proxy.lease(task_id)
    assert proxy.run_call(lease, "POST", "claim", json={"lease_token": lease["lease_token"], "who": "hand"}).status_code == 200
    order(service, task_id, "preempt")
    assert state(ada, task_id) == ("RESERVED", 1), "it may have begun, and is not placed anew beside that"
    proxy.report(lease, "STARTING")
    assert cancels(proxy) == [("preempt", 7)]


COUNTER = "import time\nfor n in range(60):\n    print('step', n, flush=True)\n    time.sleep(0.1)"


def test_a_suspended_task_holds_still_and_goes_on(machine: LocalProxy) -> None:
    task_id = machine.submit(COUNTER)
    machine.wait_for_output(task_id, "step 3")
    for _ in range(2):
        assert machine.api.post(f"/tasks/{task_id}/suspend").status_code == 202
    machine.wait(task_id, "SUSPENDED")
    time.sleep(1.0)
    before = machine.output(task_id)
    time.sleep(2.0)
    assert machine.output(task_id) == before
    assert machine.api.post(f"/tasks/{task_id}/resume").status_code == 202
    task = machine.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert machine.output(task_id).count("step") == 60
    lines = {line["dimension"]: line["unit_seconds"] for line in machine.api.get(f"/tasks/{task_id}/bill").json()["lines"]}
    assert lines["cpu"] / 100 <= lines["memory"] / 128 - 2, "while it stood still only its memory was billed"
    phases = [e["phase_to"] for e in machine.api.get(f"/tasks/{task_id}/events").json() if e["phase_to"]]
    assert phases[-3:] == ["SUSPENDED", "RUNNING", "SUCCEEDED"]


def test_a_suspended_task_can_be_cancelled(machine: LocalProxy) -> None:
    task_id = machine.submit(COUNTER, lifecycle={"grace_seconds": 1})
    machine.wait_for_output(task_id, "step 3")
    machine.api.post(f"/tasks/{task_id}/suspend")
    machine.wait(task_id, "SUSPENDED")
    machine.api.post(f"/tasks/{task_id}/cancel")
    assert machine.wait(task_id)["phase"] == "CANCELLED"


def test_what_does_not_run_cannot_be_suspended(ada: httpx.Client) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    task_id = ada.post("/tasks", json=script_spec(*upload(ada, b"pass"), schedule={"at": tomorrow})).json()["id"]
    answer = ada.post(f"/tasks/{task_id}/suspend")
    assert (answer.status_code, answer.json()["code"]) == (409, "task.not_suspendable")
