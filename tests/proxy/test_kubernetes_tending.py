"""What the Proxy asks an API server for when it looks at a run; a double keeps the requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from tessera_hub.proxy.drivers.kubernetes import ranks
from tessera_hub.proxy.drivers.kubernetes.options import RECORD, RUN, SITE, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.picture import Picture
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.kubernetes.tending import Entry, Tender
from tests.answering import Answering
from tests.proxy.conftest import LeaseMaker
from volcano_client import Transport
from volcano_client.watching import Change

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
UNSTARTABLE = {"exitCode": 128, "reason": "StartError", "message": 'exec: "python3": not found', "finishedAt": NOW.isoformat()}
RUNNING = {"running": {"startedAt": NOW.isoformat()}}


class Server(ThreadingHTTPServer):
    """An API server that takes everything and has nothing."""

    def __init__(self) -> None:
        asked = self.asked = list[tuple[str, str]]()

        class Handler(Answering):
            def answer(self) -> None:
                self.body()
                asked.append((self.command, self.path.partition("?")[0]))
                self.say(200, {"metadata": {}, "items": []})

            do_GET = do_PATCH = do_DELETE = answer  # noqa: N815

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as double:
        threading.Thread(target=double.serve_forever, daemon=True).start()
        yield double
        double.shutdown()


@pytest.fixture
def record(make_lease: LeaseMaker) -> Record:
    """A run of two pods."""
    lease, _source = make_lease("x", kind="training", roles=[{"replicas": 2}])
    return Record(lease, "n", "tessera-x", "secret", NOW, job_uid="job")


def pod(record: Record, rank: int, state: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {SITE: "t", RUN: str(record.lease.run_id)}
    common = {"namespace": "n", "labels": labels, "creationTimestamp": NOW.isoformat(), "finalizers": [RECORD]}
    common["ownerReferences"] = [{"uid": "job"}]
    return {
        "metadata": {"name": f"p-{rank}", "uid": f"u{rank}", "annotations": {ranks.INDEX: str(rank)}, **common, **metadata},
        "spec": {"nodeName": "here"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "main", "state": state}]},
    }


@pytest.fixture
def looking(server: Server) -> Iterator[tuple[Tender, Picture]]:
    """Who looks at runs at that API server; what is there is told by the test, in the place of watches."""
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    transport = Transport(configuration)
    picture = Picture(transport, KubernetesOptions(prefix="t"), lambda: None)
    yield Tender(transport, picture, 300, 300), picture
    transport.close()


def test_a_part_that_cannot_be_started_ends_those_that_wait_for_it(
    record: Record, server: Server, looking: tuple[Tender, Picture]
) -> None:
    (tender, picture), gate = looking, asyncio.Semaphore()

    def show(rank: int, state: dict[str, Any], **metadata: Any) -> None:
        picture._take_pod(Change("SET", pod(record, rank, state, **metadata)))

    show(0, RUNNING)
    show(1, {"waiting": {"reason": "PodInitializing"}})
    entry = Entry(record, ranks.living(record, tender.seen(record)))
    asyncio.run(tender.tend(entry, gate))
    assert all(method != "DELETE" for method, _path in server.asked), "it waits"

    show(1, {"terminated": UNSTARTABLE})
    asyncio.run(tender.tend(entry, gate))
    assert {path for method, path in server.asked if method == "DELETE"} == {
        f"/api/v1/namespaces/n/pods/p-{rank}" for rank in (0, 1)
    }

    stopped = {"terminated": {"exitCode": 143, "startedAt": NOW.isoformat(), "finishedAt": NOW.isoformat()}}
    for rank, state in ((0, stopped), (1, {"terminated": UNSTARTABLE})):
        gone = pod(record, rank, state, deletionTimestamp=NOW.isoformat())
        gone["status"]["phase"] = "Failed"
        picture._take_pod(Change("SET", gone))
    asyncio.run(tender.tend(entry, gate))
    run = entry.shown
    assert entry.record.end is not None
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "cluster.start_failed", ())
    assert run.reason is not None
    assert run.reason.message == 'exec: "python3": not found'


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('secret "secret-nowhere" not found', "secret.unknown"),
        ('failed to create subPath directory for volumeMount "dataset-0" of container "main"', "dataset.missing"),
        ("the runtime has a bad day", None),
    ],
)
def test_what_waits_in_vain_fails_after_a_while_and_says_so(
    record: Record, server: Server, looking: tuple[Tender, Picture], message: str, code: str | None
) -> None:
    (tender, picture), gate = looking, asyncio.Semaphore()
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}

    def show(since: datetime, **metadata: Any) -> None:
        for rank in (0, 1):
            found = pod(record, rank, RUNNING if rank == 0 and code else waiting, **metadata)
            prepared = {"terminated": {"exitCode": 0, "finishedAt": since.isoformat()}}
            found["status"]["initContainerStatuses"] = [{"name": "prepare", "state": prepared}]
            found["status"] |= {"phase": "Failed"} if metadata else {}
            picture._take_pod(Change("SET", found))

    def deleted() -> set[str]:
        return {path for method, path in server.asked if method == "DELETE"}

    show(datetime.now(UTC))
    entry = Entry(record, ranks.living(record, tender.seen(record)))
    asyncio.run(tender.tend(entry, gate))
    assert deleted() == set(), "it may come yet"
    show(datetime.now(UTC) - timedelta(seconds=301))
    asyncio.run(tender.tend(entry, gate))
    if code is None:
        assert deleted() == set(), "that may pass"
        return
    assert deleted() == {f"/api/v1/namespaces/n/pods/p-{rank}" for rank in (0, 1)}
    assert entry.record.gave_up is not None
    show(datetime.now(UTC), deletionTimestamp=NOW.isoformat())
    asyncio.run(tender.tend(entry, gate))
    run = entry.shown
    assert run.reason is not None
    assert (run.phase, run.reason.code, run.reason.message, run.meter) == ("FAILED", code, message, ())
