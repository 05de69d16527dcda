"""What a Proxy gives back is placed anew, once; what may have begun unseen is not."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from tessera_hub.schemas.reasons import MAY_HAVE_BEGUN
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store import Store
from tessera_hub.tasks.control import request_cancel
from tessera_hub.tasks.machine import transition
from tests.proxy.by_hand import ProxyByHand
from tests.service import script_spec, upload

GAVE_BACK: dict[str, Any] = {"tier": 5, "code": "cluster.gave_back", "detail": {}, "message": "node here is gone"}


@pytest.fixture
def task_id(proxy: ProxyByHand, ada: httpx.Client) -> str:
    """A task of ada at a cluster that is there."""
    proxy.begin()
    answer = ada.post("/tasks", json=script_spec(*upload(ada, b"print('hello')\n")))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def claim(proxy: ProxyByHand, lease: dict[str, Any], who: str) -> int:
    return proxy.run_call(lease, "POST", "claim", json={"lease_token": lease["lease_token"], "who": who}).status_code


@pytest.mark.parametrize("phase", ["PENDING", "STARTING"])
@pytest.mark.parametrize("claimed", [False, True], ids=["unclaimed", "claimed, surely not begun"])
def test_a_run_that_has_not_begun_is_placed_anew(proxy: ProxyByHand, task_id: str, phase: str, claimed: bool) -> None:
    first = proxy.lease(task_id)
    proxy.event(first, phase=phase)
    if claimed:
        assert claim(proxy, first, "first pod") == 200
    # Without a claim nothing has begun, whatever the cluster could see.
    reason = GAVE_BACK | {"detail": {} if claimed else {MAY_HAVE_BEGUN: True}}
    assert proxy.event(first, phase="QUEUED", reason=reason) == "accepted"
    proxy.runs.clear()
    second = proxy.lease(task_id)
    assert (second["run_id"], second["attempt"]) == (first["run_id"], 1)
    assert claim(proxy, first, "first pod") in (401, 403, 409), "the first pod begins nothing any more"
    assert claim(proxy, second, "second pod") == 200


def test_a_claimed_run_that_may_have_begun_unseen_is_lost(proxy: ProxyByHand, ada: httpx.Client, task_id: str) -> None:
    lease = proxy.lease(task_id)
    proxy.event(lease, phase="STARTING")
    assert claim(proxy, lease, "a pod") == 200
    assert proxy.event(lease, phase="QUEUED", reason=GAVE_BACK | {"detail": {MAY_HAVE_BEGUN: True}}) == "accepted"
    task = ada.get(f"/tasks/{task_id}").json()
    assert (task["phase"], task["reasons"][0]["code"], task["attempts"]) == ("FAILED", "cluster.lost", 1)
    assert "node here is gone" in task["reasons"][0]["message"]


def silence(proxy: ProxyByHand, lease: dict[str, Any]) -> None:
    """What the service does when it has not heard of the cluster for a while."""

    async def once() -> None:
        store = Store(proxy.service.database_url)
        async with store.write() as session:
            await transition(session, UUID(lease["run_id"]), Phase.UNKNOWN, actor="service")
        await store.close()

    asyncio.run(once())


@pytest.mark.parametrize("told_by", ["event", "sync"])
def test_a_run_that_is_given_back_after_a_silence_is_placed_anew(proxy: ProxyByHand, task_id: str, told_by: str) -> None:
    first = proxy.lease(task_id)
    proxy.event(first, phase="STARTING")
    assert claim(proxy, first, "first pod") == 200
    silence(proxy, first)
    if told_by == "event":
        assert proxy.event(first, phase="QUEUED", reason=GAVE_BACK) == "accepted"
    else:
        proxy.report(first, "QUEUED")
        assert proxy.sync()["forget"] == [first["run_id"]]
    proxy.runs.clear()
    second = proxy.lease(task_id)
    assert (second["run_id"], second["attempt"]) == (first["run_id"], 1)


def test_a_run_that_had_begun_before_a_silence_is_not_begun_again(proxy: ProxyByHand, ada: httpx.Client, task_id: str) -> None:
    lease = proxy.start(task_id)
    silence(proxy, lease)
    assert proxy.event(lease, phase="QUEUED", reason=GAVE_BACK) == "accepted"
    task = ada.get(f"/tasks/{task_id}").json()
    assert (task["phase"], task["reasons"][0]["code"], task["attempts"]) == ("FAILED", "cluster.lost", 1)


@pytest.mark.parametrize("why", ["cancel", "preempt"])
def test_an_order_that_a_run_does_not_live_to_see_is_carried_out(
    proxy: ProxyByHand, ada: httpx.Client, task_id: str, why: str
) -> None:
    lease = proxy.lease(task_id)
    proxy.event(lease, phase="STARTING")
    silence(proxy, lease)

    async def order() -> None:
        store = Store(proxy.service.database_url)
        async with store.write() as session:
            await request_cancel(session, UUID(task_id), actor="scheduler", why=why)
        await store.close()

    asyncio.run(order())
    assert proxy.event(lease, phase="QUEUED", reason=GAVE_BACK) == "accepted"
    proxy.runs.clear()
    if why == "cancel":
        task = ada.get(f"/tasks/{task_id}").json()
        assert (task["phase"], task["reasons"][0]["code"]) == ("CANCELLED", "policy.cancelled")
    else:
        assert proxy.lease(task_id)["run_id"] == lease["run_id"]
