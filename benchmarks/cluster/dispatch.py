"""Tasks from ``POST /tasks/batch`` to jobs and pods, on the real API server with 1,000 simulated nodes.

The real service on PostgreSQL with its scheduler, the real Proxy with the Kubernetes driver and exactly the rights of its
manifest; the nodes are :mod:`benchmarks.cluster.simulated`. A task is dispatched when its run's lease is acknowledged, which the
Proxy does when the run's record and job were accepted by the API server. All times are the database's and the API server's own.

``TESSERA_BENCH_TASKS`` says how many tasks; the default keeps the whole group within ten minutes on two cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from tests.cluster.centre import ClusterProxy
from tests.hub_double import HubDouble
from tests.postgres import PostgresServer
from tests.proxy.by_hand import BOOTSTRAP
from tests.service import PREFIX, ServiceProcess

from benchmarks.cluster.nodes import NODES
from benchmarks.cluster.simulated import Simulated
from benchmarks.hub.api import BATCH, PEOPLE, bodies, percentile
from benchmarks.rows import Row
from tessera_hub.proxy.drivers.kubernetes.objects import PLAIN_JOBS, PODS
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from volcano_client import Collection

TASKS = int(os.environ.get("TESSERA_BENCH_TASKS", "1000"))
QUOTA = f'{{ pods = "{10 + TASKS}", "count/jobs.batch" = "{10 + TASKS}" }}'
"""Of each tenant, which is checked with each job and pod as by default, and holds all of them."""
PATIENCE_SECONDS = 180 + TASKS / 10
"""After which what was reached by then counts."""
TIMES = """SELECT run_id, min(recorded_at) FILTER (WHERE phase_to = 'QUEUED') queued,
 min(recorded_at) FILTER (WHERE phase_to = 'RESERVED') reserved,
 min(recorded_at) FILTER (WHERE phase_to NOT IN ('QUEUED', 'RESERVED')) acknowledged,
 min(recorded_at) FILTER (WHERE phase_to = 'RUNNING') running FROM task_event WHERE phase_to IS NOT NULL GROUP BY run_id"""


@contextmanager
def centre(cluster: Simulated, place: Path) -> Iterator[tuple[ServiceProcess, ClusterProxy, list[str]]]:
    """Start PostgreSQL, service and Proxy; yields them with people's tokens, and removes everything."""
    place.chmod(0o755)
    (place / "postgres").mkdir()
    hub, server = HubDouble(), PostgresServer(place / "postgres")
    hub.start()
    server.create()
    server.start()
    url = server.url(server.create_database())
    service = ServiceProcess(place / "service", hub, url, local_token=BOOTSTRAP)
    proxy = None
    try:
        service.start()
        tokens = [hub.add_user(name, tenant) for name, tenant in PEOPLE]
        proxy = ClusterProxy(cluster.machine, service, place / "proxy", service.api(tokens[0]), cluster.transport)
        url = f"http://{proxy.relay.host}:{proxy.relay.port}{PREFIX}"
        # Simulated nodes have no kubelets that could be asked.
        settings = f'namespace_prefix = "{proxy.prefix}"\nservice_url = "{url}"\ntenant_quota = {QUOTA}\n'
        (place / "proxy" / "settings.toml").write_text(settings)
        proxy.start()
        proxy.wait_for_session()
        proxy.wait_for_inventory()
        yield service, proxy, tokens
    finally:
        if proxy is not None:
            if proxy.process is not None:
                proxy.stop()
            if cluster.stays:
                cluster.remove_namespaces(f"{SITE}={proxy.prefix}")
                proxy.remove_everything()
            else:
                proxy.relay.close()
        service.stop()
        server.stop()
        hub.stop()


def memory_mib(proxy: ClusterProxy) -> float:
    """Return the resident memory of the Proxy."""
    assert proxy.process is not None
    return float(psutil.Process(proxy.process.pid).memory_info().rss) / (1 << 20)


def submit_all(service: ServiceProcess, tokens: list[str]) -> None:
    """Submit all tasks in batches, one connection a person."""
    make = bodies(service, tokens)
    clients = [service.api(token) for token in tokens]
    for number in range(TASKS // BATCH):
        _headers, spec = make(number)
        some = [spec | {"name": f"sweep {number}.{i}"} for i in range(BATCH)]
        answer = clients[number % len(clients)].post("/tasks/batch", json={"tasks": some})
        assert answer.status_code == 200, answer.text


def times(service: ServiceProcess, column: str) -> tuple[int, list[dict[str, Any]]]:
    """Return how many runs have got as far as *column*, and the times of all."""
    engine = create_engine(service.database_url)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(TIMES)).mappings()]
    engine.dispose()
    return sum(row[column] is not None for row in found), found


def until_all(service: ServiceProcess, column: str) -> list[dict[str, Any]]:
    """Wait until every run has got as far as *column*, or patience ends, and return all times."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done, found = times(service, column)
        if done >= TASKS or time.monotonic() > deadline:
            return found
        time.sleep(2)


def rate(first: datetime, stamps: Iterable[datetime]) -> float:
    """Return how many there are per second from the first submit to the last of them."""
    known = list(stamps)
    return len(known) / (max(known) - first).total_seconds() if known else 0.0


def rows() -> Iterable[Row]:
    """Measure."""
    case = f"{TASKS} tasks, {NODES} nodes"
    with (
        Simulated() as cluster,
        tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory,
        centre(cluster, Path(directory)) as (service, proxy, tokens),
    ):
        time.sleep(5)
        idle = memory_mib(proxy)
        assert service.process is not None
        assert proxy.process is not None
        processes = {"service": psutil.Process(service.process.pid), "proxy": psutil.Process(proxy.process.pid)}
        before = {name: process.cpu_times() for name, process in processes.items()}
        submit_all(service, tokens)
        found = until_all(service, "running")
        spent = {
            name: process.cpu_times().user + process.cpu_times().system - before[name].user - before[name].system
            for name, process in processes.items()
        }
        live = memory_mib(proxy)
        jobs = [job["metadata"] for job in Collection(cluster.transport, PLAIN_JOBS).list(labels=f"{SITE}={proxy.prefix}")]
        pods = [pod["status"] for pod in Collection(cluster.transport, PODS).list(labels=f"{SITE}={proxy.prefix}")]
    first = min(row["queued"] for row in found)
    taken = [row for row in found if row["acknowledged"] is not None]
    waits = [(row["acknowledged"] - row["reserved"]).total_seconds() * 1000 for row in taken]
    accepted = [datetime.fromisoformat(job["creationTimestamp"]) for job in jobs]
    running = [datetime.fromisoformat(pod["startTime"]) for pod in pods if pod.get("phase") == "Running"]
    return [
        Row("dispatch", "all", "leases_per_s", rate(first, [row["acknowledged"] for row in taken]), "1/s"),
        Row("dispatch", case, "leases_acknowledged", len(taken), "leases"),
        Row("dispatch", case, "jobs_accepted_per_s", rate(first, accepted), "1/s"),
        Row("dispatch", case, "pods_running_per_s", rate(first, running), "1/s"),
        Row("dispatch", case, "seen_running_per_s", rate(first, [row["running"] for row in found if row["running"]]), "1/s"),
        Row("dispatch", case, "reserved_to_acknowledged_p50_ms", percentile(waits, 50), "ms"),
        Row("dispatch", case, "reserved_to_acknowledged_p95_ms", percentile(waits, 95), "ms"),
        Row("dispatch", case, "service_cpu_ms_per_task", spent["service"] * 1000 / len(taken), "ms"),
        Row("dispatch", case, "proxy_cpu_ms_per_task", spent["proxy"] * 1000 / len(taken), "ms"),
        Row("dispatch", f"{NODES} nodes", "proxy_memory_mib", idle, "MiB"),
        Row("dispatch", f"{NODES} nodes, {len(running)} live runs", "proxy_memory_mib", live, "MiB"),
    ]
