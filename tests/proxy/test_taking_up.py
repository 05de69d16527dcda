"""Leases are taken up beside the reports, and what many runs do is told in one of them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client

from tessera_hub.proxy.agent import Agent
from tessera_hub.proxy.connection import Connection
from tessera_hub.proxy.drivers.base import InputSource
from tessera_hub.proxy.drivers.kubernetes.driver import LEASES_MAX, KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.launching import LocalOptions
from tessera_hub.proxy.drivers.local import LocalDriver
from tessera_hub.schemas.protocol import Lease
from tests.proxy.by_hand import BOOTSTRAP, ProxyByHand
from tests.service import ServiceProcess, script_spec, upload
from volcano_client import Transport

PATIENCE_SECONDS = 60


def submit(ada: httpx.Client, count: int = 1) -> list[str]:
    spec = script_spec(*upload(ada, b"print('hello')\n"))
    answers = [ada.post("/tasks", json=spec | {"name": f"part {number}"}) for number in range(count)]
    return [answer.raise_for_status().json()["id"] for answer in answers]


def events_of(ada: httpx.Client, task: str) -> list[str]:
    return [event["phase_to"] for event in ada.get(f"/tasks/{task}/events").json() if event["phase_to"]]


def test_a_new_report_ends_the_wait_of_the_one_before(proxy: ProxyByHand) -> None:
    proxy.begin()
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(proxy.sync, wait=100.0)
        while proxy.seq < 2:
            time.sleep(0.01)
        second = ProxyByHand(proxy.service, inventory=proxy.inventory)
        second.client.headers = proxy.client.headers
        second.epoch, second.seq = proxy.epoch, 9
        assert second.sync()["ack_seq"] == 10
        assert before.result(PATIENCE_SECONDS)["ack_seq"] == 10, "whoever waits for it still is told that it is over"


def test_a_lease_that_is_being_taken_up_is_not_given_again(proxy: ProxyByHand, ada: httpx.Client) -> None:
    proxy.begin()
    (task,) = submit(ada)
    lease = proxy.lease(task)
    assert [again["run_id"] for again in proxy.sync()["leases"]] == [lease["run_id"]], "the answer may have been lost"
    proxy.report(lease, "RESERVED")
    assert proxy.sync()["leases"] == []
    assert ada.get(f"/tasks/{task}").json()["phase"] == "RESERVED"
    proxy.runs.clear()
    assert [again["lease_token"] for again in proxy.sync()["leases"]] == [lease["lease_token"]], "it was not taken up after all"


def test_phases_of_many_runs_are_told_by_one_report_and_counted_once(proxy: ProxyByHand, ada: httpx.Client) -> None:
    proxy.begin()
    tasks = submit(ada, 4)
    leases = [proxy.lease(task) for task in tasks]
    for phase in ("DISPATCHED", "PENDING", "RUNNING", "RUNNING", "STARTING"):
        for lease in leases:
            proxy.report(lease, phase)
        proxy.runs[leases[3]["run_id"]]["lease_token"] = "another"
        proxy.sync()
    for task in tasks[:3]:
        assert events_of(ada, task)[-3:] == ["DISPATCHED", "PENDING", "RUNNING"]
        assert ada.get(f"/tasks/{task}").json()["phase"] == "RUNNING", "no way leads back from there"
    assert ada.get(f"/tasks/{tasks[3]}").json()["phase"] == "RESERVED", "by a lease that is not its own nothing is told"


class Slow(LocalDriver):
    """The local driver, whose disk is slow until it is told otherwise."""

    def __init__(self, options: LocalOptions) -> None:
        super().__init__(options)
        self.asked: list[str] = []
        self.fast = asyncio.Event()

    async def submit(self, lease: Lease, source: InputSource) -> None:
        self.asked.append(str(lease.task_id))
        await self.fast.wait()
        await super().submit(lease, source)


async def until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.05)


async def test_reports_go_on_while_a_lease_is_taken_up(service: ServiceProcess, ada: httpx.Client, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    driver = Slow(LocalOptions(tmp_path / "data"))
    agent = Agent(Connection(service.url, "local"), driver, BOOTSTRAP)
    running = asyncio.create_task(agent.run())
    try:
        (task,) = await asyncio.to_thread(submit, ada)
        await until(lambda: driver.asked == [task])
        (other,) = await asyncio.to_thread(submit, ada)
        await until(lambda: other in [str(lease.task_id) for lease in agent._taking.values()])
        assert driver.asked == [task], "what is being taken up is not begun once more, and the local driver takes one at a time"
        driver.fast.set()
        for each in (task, other):
            await until(lambda each=each: ada.get(f"/tasks/{each}").json()["phase"] == "SUCCEEDED")
        assert sorted(driver.asked) == sorted([task, other])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(("nodes", "most"), [(0, 0), (1, 110), (40, LEASES_MAX)])
def test_a_cluster_takes_as_many_runs_as_its_nodes_take_pods(nodes: int, most: int) -> None:
    driver = KubernetesDriver(KubernetesOptions(prefix="t"), Transport(client.Configuration()))
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    status = {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    for number in range(nodes):
        metadata = {"name": f"node-{number}", "uid": str(number), "resourceVersion": "1"}
        driver.picture._nodes.put({"metadata": metadata, "spec": {}, "status": status})
    assert driver.room([]) == most
