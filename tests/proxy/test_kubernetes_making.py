"""The Proxy makes a run's job once, and only where its volumes are; an API server's double keeps what is made."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import ClaimDataset
from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.objects import lease_secret
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.schemas.protocol import Lease
from tests.answering import Answering
from tests.proxy.conftest import LeaseMaker
from volcano_client import Transport

DATASETS = {"birds": ClaimDataset(claim="birds", folder="v1")}
CLAIM = "/api/v1/namespaces/n/persistentvolumeclaims/birds"
JOB = "/apis/batch/v1/namespaces/n/jobs/tessera-x"


class Server(ThreadingHTTPServer):
    """An API server that keeps what it is given, by path."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.refusals: list[tuple[str, int, str]] = []
        """Words of a path, status and message: each refuses one call."""
        self.posts: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(Answering):
    server: Server

    def answer(self) -> None:
        given = json.loads(self.body() or b"{}")
        path = self.path.partition("?")[0]
        refusal = next((one for one in self.server.refusals if one[0] in f"{self.command} {path}"), None)
        if refusal is not None:
            self.server.refusals.remove(refusal)
            reason = "AlreadyExists" if refusal[1] == 409 else "Refused"
            return self.say(refusal[1], {"code": refusal[1], "reason": reason, "message": refusal[2]})
        if self.command == "DELETE":
            found = self.server.objects.pop(path, None)
            return self.say(200 if found else 404, found or {"code": 404, "reason": "NotFound"})
        if self.command == "POST":
            self.server.posts.append(path)
        if self.command == "POST":
            path = f"{path}/{given['metadata']['name']}"
            given["metadata"] |= {"uid": f"made-{len(self.server.objects)}", "creationTimestamp": "2026-11-28T00:00:00Z"}
            self.server.objects[path] = given
        found = {} if self.command == "PATCH" else self.server.objects.get(path)
        return self.say(404 if found is None else 200, {"code": 404, "reason": "NotFound"} if found is None else found)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as double:
        threading.Thread(target=double.serve_forever, daemon=True).start()
        yield double
        double.shutdown()


def driver_of(server: Server, lease: Lease, **options: Any) -> KubernetesDriver:
    """Return a driver that believes the namespace of the lease's tenant to be made."""
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    configuration.retries = False
    driver = KubernetesDriver(KubernetesOptions(prefix="t", environments={"default": "x:1"}, **options), Transport(configuration))
    driver._namespaces[lease.tenant_id] = "n"
    return driver


Adopt = Callable[..., Record]


@pytest.fixture
def adopt(server: Server, make_lease: LeaseMaker) -> Adopt:
    """Have a new Proxy take in the record of a run that reads a data set; return what it makes of it."""

    def take_in(**options: Any) -> Record:
        lease, _source = make_lease("x", datasets=["birds"])
        driver = driver_of(server, lease, **options)
        name = f"tessera-{lease.run_id}"
        server.objects = {path.replace("tessera-x", name): found for path, found in server.objects.items()}
        record = Record(lease, "n", name, "secret", datetime.now(UTC))

        async def look() -> None:
            await driver._make_good(driver._adopt(record), asyncio.Semaphore(1))

        asyncio.run(look())
        driver.transport.close()
        return driver._entries[lease.run_id].record

    return take_in


def test_what_is_taken_out_of_the_settings_ends_no_run_whose_job_is_there(server: Server, adopt: Adopt) -> None:
    server.objects[JOB] = {"metadata": {"name": "x", "namespace": "n", "uid": "there"}, "spec": {}, "status": {}}
    record = adopt(datasets={})
    assert (record.end, record.job_uid) == (None, "there")


def test_a_job_is_made_where_the_volume_is(server: Server, adopt: Adopt) -> None:
    server.objects[CLAIM] = {"metadata": {"name": "birds"}}
    record = adopt(datasets=DATASETS)
    assert record.end is None
    assert record.job_uid == "made-1"


def test_a_run_is_told_that_its_volume_is_not_there(server: Server, adopt: Adopt) -> None:
    record = adopt(datasets=DATASETS)
    assert record.end is not None
    run = record.end.run
    assert run.reason is not None
    assert (run.phase, run.reason.code, run.reason.detail["dataset"]) == ("FAILED", "dataset.missing", "birds")
    assert server.objects == {}, "no job is made that would wait for ever"


def test_a_run_whose_job_the_api_server_did_not_answer_for_is_made_later_and_once(server: Server, make_lease: LeaseMaker) -> None:
    lease, source = make_lease("x")
    server.refusals = [("POST /apis/batch", 503, "starting"), ("PATCH /api/v1", 503, "starting")]
    driver = driver_of(server, lease)

    async def go() -> None:
        await driver.submit(lease, source)
        entry = driver._entries[lease.run_id]
        assert entry.lacks_job
        assert [run.phase for run in await driver.list_runs()] == ["DISPATCHED"]
        gate = asyncio.Semaphore(1)
        await driver._make_good(entry, gate)  # the job is made, and that cannot be written down
        assert entry.lacks_job
        await driver._make_good(entry, gate)
        assert not entry.lacks_job

    asyncio.run(go())
    driver.transport.close()
    assert [path for path in server.posts if "jobs" in path] == ["/apis/batch/v1/namespaces/n/jobs"]


def test_a_run_beyond_the_namespaces_quota_waits_at_the_service_and_leaves_nothing(
    server: Server, make_lease: LeaseMaker
) -> None:
    lease, source = make_lease("x")
    words = 'jobs.batch "x" is forbidden: exceeded quota: tessera, requested: count/jobs.batch=1, used: 5, limited: 5'
    server.refusals = [("POST /apis/batch", 403, words)]
    driver = driver_of(server, lease)
    with pytest.raises(DriverError) as told:
        asyncio.run(driver.submit(lease, source))
    driver.transport.close()
    assert (told.value.code, told.value.give_back) == ("quota.native", True)
    assert server.objects == {}
    assert asyncio.run(driver.list_runs()) == []


def test_the_record_of_an_older_lease_that_nobody_heard_of_gives_way(server: Server, make_lease: LeaseMaker) -> None:
    old, source = make_lease("x")
    new = old.model_copy(update={"lease_token": "another"})
    driver = driver_of(server, new)
    document = lease_secret(old, driver.options, "n")
    document["metadata"] |= {"uid": "old", "creationTimestamp": "2026-11-28T00:00:00Z"}
    server.objects[f"/api/v1/namespaces/n/secrets/{document['metadata']['name']}"] = document
    server.refusals = [("POST /api/v1/namespaces/n/secrets", 409, "there")]

    async def go() -> None:
        with pytest.raises(DriverError) as told:
            await driver.submit(new, source)
        assert (told.value.code, told.value.give_back) == ("cluster.back_pressure", True)
        assert server.objects == {}
        await driver.submit(new, source)
        assert driver._entries[new.run_id].record.lease.lease_token == "another"

    asyncio.run(go())
    driver.transport.close()
