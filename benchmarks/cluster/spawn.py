"""How long a workspace's start takes with our spawner and with the stock KubeSpawner, side by side on the real API server.

Both make one container's pod in the same namespace, in turns, with no volume, and are measured until the API server has accepted
it: what comes then is the cluster's time, and the same for both. Ours has a granted reservation of the real service, reports to
it, and asks for the same amounts. How long the service takes to grant a reservation is a row of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from tests.spawner.handmade import HandmadeCentre

from benchmarks.cluster.simulated import Simulated
from benchmarks.rows import Row
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES
from volcano_client import Collection

SPAWNS = 15
IMAGE = "tessera.test/notebook:1"
CPU, MEMORY_MIB = 1000, 1024
TIMERS = {"suspect": 3600.0, "unreachable": 7200.0, "lost": 10_800.0, "lease_ack": 3600.0}


def rows() -> Iterable[Row]:
    """Measure."""
    namespace = f"spawns-{uuid4().hex[:8]}"
    with Simulated(0) as cluster, HandmadeCentre(timers=TIMERS) as centre:
        centre.cluster("pods")
        metadata = {"name": namespace, "labels": {"bench": namespace}}
        Collection(cluster.transport, NAMESPACES).create_or_get({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        settings = {"namespace": namespace, "url": centre.service.url, "ada": centre.ada, "spawner": centre.spawner}
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.cluster.spawn", json.dumps(settings)],
            env={**os.environ, "KUBECONFIG": str(cluster.machine.kubeconfig)},
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=True,
        )
        if cluster.stays:
            cluster.remove_namespaces(f"bench={namespace}")
    medians = {
        who: {step: statistics.median(times[step] for times in spawns) * 1000 for step in spawns[0]}
        for who, spawns in json.loads(found.stdout).items()
    }
    ours, stock, case = medians["tessera"], medians["stock"], f"{SPAWNS} spawns each"
    yield Row("spawn", "all", "accepted_ratio_to_stock", ours["accepted"] / stock["accepted"], "")
    yield Row("spawn", case, "start_to_accepted_p50_ms", ours["accepted"], "ms", baseline=stock["accepted"])
    yield Row("spawn", case, "ask_to_granted_p50_ms", ours["granted"], "ms")


# --- the hub's side, a process of its own: the Kubernetes client reads where it is when it is imported ------------------


async def measure(settings: dict[str, str]) -> dict[str, list[dict[str, float]]]:
    """Spawn in turns and return the seconds of each step of each spawn."""
    import httpx
    from kubespawner import KubeSpawner

    from tessera_spawner.kubernetes import TesseraKubeSpawner
    from tessera_spawner.reservation import ReservationClient

    class Timed:
        accepted: asyncio.Future[float]

        async def _make_create_pod_request(self, pod: Any, request_timeout: float) -> Any:
            done = await super()._make_create_pod_request(pod, request_timeout)  # type: ignore[misc]
            self.accepted.set_result(time.perf_counter())
            return done

    class Stock(Timed, KubeSpawner):  # type: ignore[misc]
        pass

    class Ours(Timed, TesseraKubeSpawner):
        of = ""

        @property
        def name(self) -> str:
            return self.of

    class Person:
        name, escaped_name, id, url = "ada", "ada", 1, "/user/ada/"

    common: dict[str, Any] = {"namespace": settings["namespace"], "storage_pvc_ensure": False, "_mock": True}
    client = ReservationClient(settings["url"], settings["spawner"])
    headers = {"Authorization": f"Bearer {settings['ada']}"}
    asking = httpx.AsyncClient(base_url=f"{settings['url']}/api/v1", headers=headers)

    async def granted(server: str) -> float:
        resources = {"cpu_millicores": CPU, "memory_mib": MEMORY_MIB}
        spec = {"name": server, "kind": "workspace", "roles": [{"resources": resources}]}
        began = time.perf_counter()
        answer = await asking.post("/workspaces", json={"server_name": server, "spec": spec})
        answer.raise_for_status()
        while (await client.find("ada", server)).state != "granted":
            await asyncio.sleep(0.01)
        return time.perf_counter() - began

    async def timed(spawner: Any) -> dict[str, float]:
        spawner.accepted = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        start = asyncio.ensure_future(spawner.start())
        await asyncio.wait({start, spawner.accepted}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await spawner.stop(now=True)
        return {"accepted": spawner.accepted.result() - began}

    found: dict[str, list[dict[str, float]]] = {"stock": [], "tessera": []}
    for number in range(SPAWNS + 1):
        stock = Stock(user=Person(), image=IMAGE, cpu_guarantee=CPU / 1000, mem_guarantee=f"{MEMORY_MIB}M", **common)
        stock.pod_name = f"stock-{number}"
        found["stock"].append(await timed(stock))
        server = f"s{number}"
        waited = await granted(server)
        ours = Ours(
            user=Person(),
            environments={"default": IMAGE},
            service_url=settings["url"],
            public_service_url=settings["url"],
            service_token=settings["spawner"],
            **common,
        )
        ours.of = server
        found["tessera"].append({**await timed(ours), "granted": waited})
    return {who: spawns[1:] for who, spawns in found.items()}  # the first ones start the watches


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.loads(sys.argv[1])))))
