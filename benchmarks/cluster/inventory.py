"""What a Proxy tells the service of a cluster of 1,000 nodes with 10,000 pods at a sync: how long it computes, how many bytes.

The objects are made here, as the API server gives them; no cluster is asked. The baseline of the bytes is the list of nodes.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Iterable

from benchmarks.cluster.nodes import NODES, nodes, pods
from benchmarks.rows import Row
from tessera_hub.proxy.drivers.kubernetes.inventory import pools_of, use_of
from tessera_hub.schemas.protocol import Inventory

ROUNDS = 15


def rows() -> Iterable[Row]:
    """Measure."""
    machines = list(nodes())
    work = list(pods(machines))
    used = [use for use in map(use_of, work) if use is not None]
    case = f"{NODES} nodes, {len(work)} pods"
    wall, processor = [], []
    message = b""
    for _ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.process_time()
        message = Inventory(pools=pools_of(machines, used), environments={"default": {}}).model_dump_json().encode()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_cpu)
    began_cpu = time.process_time()
    for pod in work:
        use_of(pod)
    each = (time.process_time() - began_cpu) / len(work)
    whole = len(json.dumps(machines).encode())
    found = Inventory.model_validate_json(message)
    yield Row("inventory", case, "sync_ms", statistics.median(wall) * 1000, "ms")
    yield Row("inventory", case, "sync_cpu_ms", statistics.median(processor) * 1000, "ms")
    yield Row("inventory", case, "pod_change_cpu_us", each * 1e6, "µs")
    yield Row("inventory", case, "pools", len(found.pools), "pools")
    yield Row("inventory", case, "shapes", sum(len(pool.shapes) for pool in found.pools), "shapes")
    yield Row("inventory", case, "sync_bytes", len(message), "bytes", baseline=whole)
    yield Row("inventory", case, "sync_gz_bytes", len(gzip.compress(message)), "bytes")
    idle = Inventory(pools=pools_of(machines, []), environments={"default": {}}).model_dump_json().encode()
    yield Row("inventory", f"{NODES} idle nodes", "sync_bytes", len(idle), "bytes", baseline=whole)
