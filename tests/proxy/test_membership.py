"""Who has left a tenant is dispatched nothing any more, whenever it was submitted."""

from __future__ import annotations

import httpx
import pytest

from tessera_hub.proxy.drivers.base import UNSTARTED_MAX, room_for_more
from tessera_hub.schemas.tasks import Phase
from tests.hub_double import HubDouble
from tests.proxy.by_hand import ProxyByHand
from tests.service import ServiceProcess, script_spec, upload


@pytest.fixture
def task_id(ada: httpx.Client) -> str:
    """A task of ada that waits, since no Proxy has come."""
    answer = ada.post("/tasks", json=script_spec(*upload(ada, b"print('hello')\n")))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def first_reason(operator: httpx.Client, task_id: str) -> tuple[str, str]:
    answer = operator.get(f"/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    task = answer.json()
    return task["phase"], task["reasons"][0]["code"] if task["reasons"] else ""


def offered(proxy: ProxyByHand, task_id: str) -> bool:
    """Whether the task is leased within two seconds or so."""
    return any(lease["task_id"] == task_id for _ in range(4) for lease in proxy.sync(wait=0.5)["leases"])


def test_a_members_task_is_leased(proxy: ProxyByHand, task_id: str) -> None:
    proxy.begin()
    assert proxy.lease(task_id)["owner"] == "ada"


def test_who_left_the_group_after_the_submit_is_not_leased(
    proxy: ProxyByHand, hub: HubDouble, ada: httpx.Client, operator: httpx.Client, task_id: str
) -> None:
    hub.users["ada"]["groups"] = []
    proxy.begin()
    assert not offered(proxy, task_id)
    assert first_reason(operator, task_id) == ("FAILED", "policy.membership")
    hub.users["ada"]["groups"] = ["red"]
    retried = ada.post(f"/tasks/{task_id}/retry").json()
    assert retried["attempts"] == 2
    assert proxy.lease(task_id)["attempt"] == 2


def test_a_group_that_is_no_tenant_any_more_ends_its_tasks(
    proxy: ProxyByHand, hub: HubDouble, operator: httpx.Client, task_id: str
) -> None:
    hub.groups["red"]["properties"] = {}
    proxy.begin()
    assert not offered(proxy, task_id)
    assert first_reason(operator, task_id) == ("FAILED", "policy.membership")


def test_a_new_user_of_the_same_name_does_not_run_the_old_ones_task(
    proxy: ProxyByHand, hub: HubDouble, operator: httpx.Client, task_id: str
) -> None:
    hub.add_user("ada", "red")
    proxy.begin()
    assert not offered(proxy, task_id)
    assert first_reason(operator, task_id) == ("FAILED", "policy.membership")


def test_while_the_hub_is_silent_the_recorded_membership_counts(proxy: ProxyByHand, hub: HubDouble, task_id: str) -> None:
    hub.broken = True
    proxy.begin()
    assert proxy.lease(task_id)["owner"] == "ada"


def test_the_first_task_of_a_new_tenant_is_taken_at_once(
    proxy: ProxyByHand, service: ServiceProcess, hub: HubDouble, ada: httpx.Client
) -> None:
    proxy.begin()
    spec = script_spec(*upload(ada, b"print('hello')\n"))
    assert ada.post("/tasks", json=spec).status_code == 201  # the service has looked at all queues that there are
    zoe = service.api(hub.add_user("zoe", "green"))
    answer = zoe.post("/tasks", json=script_spec(*upload(zoe, b"print('hello')\n")))
    assert answer.status_code == 201, answer.text


def test_a_proxy_takes_more_however_many_run_and_stops_when_too_many_wait_to_start() -> None:
    assert room_for_more([Phase.RUNNING] * 5000 + [Phase.SUSPENDED, Phase.UNKNOWN, Phase.SUCCEEDED]) == UNSTARTED_MAX
    assert room_for_more([Phase.RUNNING] * 5000 + [Phase.PENDING] * 30 + [Phase.STARTING] * 10) == UNSTARTED_MAX - 40
    assert room_for_more([Phase.PENDING] * 1000) == 0
