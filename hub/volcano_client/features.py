"""What a cluster's Volcano can do, read from the schemas of its resource definitions, never from a version's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.kinds import COMMANDS, DEFINITIONS, JOBS, POD_GROUPS, QUEUES, Kind
from volcano_client.transport import Transport

FLOOR: Final = "1.10"
_FLOOR_FIELDS: Final = ("deserved", "parent", "priority")
"""Fields of a queue that came with 1.9 and 1.10."""


@dataclass(frozen=True, slots=True)
class Features:
    """What is there.

    Attributes:
        jobs: Volcano's jobs, pod groups, queues and commands are all defined.
        floor: at least Volcano 1.10: queues have ``deserved``, ``parent`` and ``priority``.
        network_topology: 1.12 and newer.
        dequeue_strategy: of a queue; 1.14 and newer.
        partition_policy: of a job's task; 1.14 and newer.
        sub_group_policy: of a pod group; 1.14 and newer.
    """

    jobs: bool = False
    floor: bool = False
    network_topology: bool = False
    dequeue_strategy: bool = False
    partition_policy: bool = False
    sub_group_policy: bool = False


def detect(transport: Transport) -> Features:
    """Look at the definitions; all absent without Volcano, or where we may not read them.

    Raises:
        ClusterApiError: the server cannot be reached.
    """
    definitions = Collection(transport, DEFINITIONS)
    schemas: dict[Kind, Mapping[str, Any] | None] = {}
    for kind in (JOBS, POD_GROUPS, QUEUES, COMMANDS):
        group, _slash, version = kind.api_version.partition("/")
        try:
            found = definitions.get(f"{kind.plural}.{group}")
        except ClusterApiError as error:
            if error.status != 403:
                raise
            found = None
        schemas[kind] = None if found is None else _schema(found, version)
    return features_of(schemas)


def features_of(schemas: Mapping[Kind, Mapping[str, Any] | None]) -> Features:
    """Return the features that these schemas (of the served version, by kind) show. Pure."""
    queue, job, group = (_spec(schemas.get(kind)) for kind in (QUEUES, JOBS, POD_GROUPS))
    tasks = job.get("tasks", {}).get("items", {}).get("properties", {})
    return Features(
        jobs=all(schemas.get(kind) is not None for kind in (JOBS, POD_GROUPS, QUEUES, COMMANDS)),
        floor=all(name in queue for name in _FLOOR_FIELDS),
        network_topology="networkTopology" in job,
        dequeue_strategy="dequeueStrategy" in queue,
        partition_policy="partitionPolicy" in tasks,
        sub_group_policy="subGroupPolicy" in group,
    )


def _schema(definition: Mapping[str, Any], version: str) -> Mapping[str, Any] | None:
    for served in definition["spec"]["versions"]:
        if served["name"] == version and served.get("served"):
            found: Mapping[str, Any] = served.get("schema", {}).get("openAPIV3Schema", {})
            return found
    return None


def _spec(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ((schema or {}).get("properties", {}).get("spec", {})).get("properties", {})
    return found
