"""Submitting through the real API: the service as a process, PostgreSQL, several connections that keep alive.

Every task has a file in its tenant's store, an idempotency key and a request that a connected cluster could hold, so that each
check of the way in is done; the scheduler runs in the same process, as on one machine. The cluster takes no runs meanwhile:
they stay in the queue. The baseline is :mod:`benchmarks.hub.onerow`, in the same run on the same PostgreSQL.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, insert
from tests.hub_double import HubDouble
from tests.postgres import PostgresServer
from tests.service import PREFIX, ServiceProcess, free_port, script_spec, upload

from benchmarks.rows import Row
from tessera_hub.schemas.protocol import Inventory, NodeShape, Pool
from tessera_hub.store.tables import Cluster

CONNECTIONS, SINGLES, BATCHES, BATCH = 8, 1600, 40, 100
WARM_UP = 16
PEOPLE = (("ada", "red"), ("bob", "red"), ("cyd", "blue"), ("dan", "blue"))
TIMERS = {"suspect": 3600.0, "unreachable": 7200.0, "lost": 10_800.0}

Call = tuple[str, bytes, dict[str, str]]
"""Path, body and headers of a POST."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each call, of all together, and processor seconds of the service (without PostgreSQL) meanwhile."""

    each: list[float]
    together: float
    processor: float


def connect_cluster(url: str) -> None:
    """Store a cluster of a hundred nodes that has room in principle and takes nothing now."""
    shape = NodeShape(count=100, free_cpu=64_000, free_memory=512_000)
    total = {"cpu": 6_400_000, "memory": 51_200_000}
    inventory = Inventory(pools=[Pool(name="cpu", total=total, free=total, shapes=[shape])], environments={"default": {}})
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            insert(Cluster).values(
                name="centre",
                driver="kubernetes",
                bootstrap_hash="",
                state="ok",
                first_contact=False,
                accept_max=0,
                last_contact_at=datetime.now(UTC),
                capabilities=[],
                inventory=inventory.model_dump(mode="json"),
                inventory_hash="1",
                created_at=datetime.now(UTC),
            )
        )
    engine.dispose()


def post_all(port: int, calls: list[Call], *, expect: int) -> tuple[list[float], float]:
    """Post *calls* over :data:`CONNECTIONS` connections; return the seconds of each and of all together."""

    def connection(mine: list[Call]) -> list[float]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        seconds = []
        for path, body, headers in mine:
            began = time.perf_counter()
            client.request("POST", path, body, headers)
            answer = client.getresponse()
            text = answer.read()
            seconds.append(time.perf_counter() - began)
            if answer.status != expect or b'"problem":{' in text:
                raise RuntimeError(f"{answer.status}: {text[:500]!r}")
        client.close()
        return seconds

    parts = [part for i in range(CONNECTIONS) if (part := calls[i::CONNECTIONS])]
    began = time.perf_counter()
    with ThreadPoolExecutor(len(parts)) as pool:
        found = [s for some in pool.map(connection, parts) for s in some]
    return found, time.perf_counter() - began


def bodies(service: ServiceProcess, tokens: list[str]) -> Callable[[int], tuple[dict[str, str], dict[str, Any]]]:
    """Upload each person's script once and return a maker of (headers, specification) by number."""
    files = []
    for token in tokens:
        with service.api(token) as api:
            files.append(upload(api, b"print('hello')\n"))

    def make(number: int) -> tuple[dict[str, str], dict[str, Any]]:
        who = number % len(tokens)
        headers = {"Authorization": f"Bearer {tokens[who]}", "Content-Type": "application/json"}
        return headers, script_spec(*files[who], name=f"sweep {number}", parameters={"seed": number, "rate": 0.1})

    return make


def measure(service: ServiceProcess, tokens: list[str]) -> tuple[Timing, Timing]:
    """Return how the single submits and how the batches went."""
    make = bodies(service, tokens)

    def single(number: int) -> Call:
        headers, spec = make(number)
        return f"{PREFIX}/api/v1/tasks", json.dumps(spec).encode(), headers | {"Idempotency-Key": str(uuid.uuid4())}

    def batch(number: int) -> Call:
        headers, spec = make(number)
        some = [spec | {"name": f"sweep {number}.{i}", "parameters": {"seed": i, "rate": 0.1}} for i in range(BATCH)]
        body = {"tasks": some, "idempotency_keys": [str(uuid.uuid4()) for _ in some]}
        return f"{PREFIX}/api/v1/tasks/batch", json.dumps(body).encode(), headers

    def timed(calls: list[Call], expect: int) -> Timing:
        before = process.cpu_times()
        seconds, together = post_all(service.port, calls, expect=expect)
        after = process.cpu_times()
        return Timing(seconds, together, after.user + after.system - before.user - before.system)

    assert service.process is not None
    process = psutil.Process(service.process.pid)
    timed([single(n) for n in range(WARM_UP)], 201)
    return timed([single(n) for n in range(SINGLES)], 201), timed([batch(n) for n in range(BATCHES)], 200)


def baseline(url: str) -> float:
    """Return submits per second of the simple way."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.hub.onerow", url, str(port)])
    try:
        body = json.dumps(script_spec("0" * 64, 15, parameters={"seed": 1, "rate": 0.1})).encode()
        calls: list[Call] = [("/jobs", body, {"Content-Type": "application/json"})] * SINGLES
        deadline = time.monotonic() + 30
        while True:
            try:
                post_all(port, calls[:WARM_UP], expect=200)
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        return SINGLES / post_all(port, calls, expect=200)[1]
    finally:
        process.terminate()
        process.wait(10)


def percentile(values: list[float], percent: int) -> float:
    """Return the percentile of *values* (linear between neighbours)."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def rows() -> Iterable[Row]:
    """Start PostgreSQL, the hub's double and the service, measure, stop them."""
    hub = HubDouble()
    hub.start()
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "postgres").mkdir()
        server = PostgresServer(place / "postgres")
        server.create()
        server.start()
        service = ServiceProcess(place / "service", hub, server.url(server.create_database()), timers=TIMERS)
        try:
            service.start()
            connect_cluster(service.database_url)
            time.sleep(3)  # the service's view of the clusters is two seconds old at most
            tokens = [hub.add_user(name, tenant) for name, tenant in PEOPLE]
            single, batch = measure(service, tokens)
            service.stop()
            simple = baseline(server.url(server.create_database()))
        finally:
            service.stop()
            server.stop()
            hub.stop()
    found = [
        Row("api", "all", "submit_batched_per_s", BATCHES * BATCH / batch.together, "1/s", ">= 500", simple),
        Row("api", "all", "submit_single_per_s", SINGLES / single.together, "1/s", ">= 100", simple),
    ]
    for case, timing, tasks in (("single", single, SINGLES), (f"batch of {BATCH}", batch, BATCHES * BATCH)):
        found += [
            Row("api", case, "p50_ms", percentile(timing.each, 50) * 1000, "ms"),
            Row("api", case, "p95_ms", percentile(timing.each, 95) * 1000, "ms"),
            Row("api", case, "service_cpu_ms_per_task", timing.processor * 1000 / tasks, "ms"),
        ]
    return found
