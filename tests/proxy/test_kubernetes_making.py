"""The Proxy makes a run's job once, and only where its volumes are; an API server's double keeps what is made."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from tessera_hub.proxy.drivers.datasets import ClaimDataset
from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tests.proxy.conftest import LeaseMaker
from volcano_client import Transport

DATASETS = {"birds": ClaimDataset(claim="birds", folder="v1")}
CLAIM = "/api/v1/namespaces/n/persistentvolumeclaims/birds"
JOB = "/apis/batch/v1/namespaces/n/jobs/tessera-x"


class Server(ThreadingHTTPServer):
    """An API server that keeps what it is given, by path."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        if self.command == "POST":
            path = f"{path}/{given['metadata']['name']}"
            given["metadata"]["uid"] = f"made-{len(self.server.objects)}"
            self.server.objects[path] = given
        found = {} if self.command == "PATCH" else self.server.objects.get(path)
        body = json.dumps({"code": 404, "reason": "NotFound"} if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815

    def log_message(self, *_args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as double:
        threading.Thread(target=double.serve_forever, daemon=True).start()
        yield double
        double.shutdown()


Adopt = Callable[..., Record]


@pytest.fixture
def adopt(server: Server, make_lease: LeaseMaker) -> Adopt:
    """Have a new Proxy take in the record of a run that reads a data set; return what it makes of it."""
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"

    def take_in(**options: Any) -> Record:
        lease, _source = make_lease("x", datasets=["birds"])
        transport = Transport(configuration)
        environments = {"default": "x:1"}
        driver = KubernetesDriver(KubernetesOptions(prefix="t", environments=environments, **options), transport)
        driver._namespaces[lease.tenant_id] = "n"
        name = f"tessera-{lease.run_id}"
        server.objects = {path.replace("tessera-x", name): found for path, found in server.objects.items()}
        record = Record(lease, "n", name, "secret", datetime.now(UTC))
        asyncio.run(driver._adopt(record))
        transport.close()
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
