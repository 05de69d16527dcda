"""Nodes and their cards as Slurm shows them, read from JSON of 22.05 to 26.05 or from text.

``sinfo --json`` lists nodes in 22.05 only; from 23.02 on ``scontrol show nodes --json`` does, with the same keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tessera_hub.proxy.drivers.slurm.columns import rows
from tessera_hub.proxy.drivers.slurm.jobs import AnswerError, minutes, number, parse_memory, words

UNUSABLE: Final = frozenset(
    {
        "DOWN",
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "ERROR",
        "FAIL",
        "FAILING",
        "FUTURE",
        "MAINT",
        "MAINTENANCE",
        "NOT_RESPONDING",
        "NO_RESPOND",
        "PERFCTRS",
        "POWERED_DOWN",
        "POWERING_DOWN",
        "REBOOT",
        "REBOOT_REQUESTED",
        "REBOOT_ISSUED",
        "UNKNOWN",
        "INVAL",
        "INVALID_REG",
        "RESERVED",
    }
)
_GRES: Final = re.compile(r"^(?P<name>[a-z0-9_]+)(?::(?P<type>[^:(]+))?:(?P<count>\d+)(?P<unit>[KMG]?)(?:\((?P<more>[^)]*)\))?$")


@dataclass(frozen=True, slots=True)
class Gres:
    """A generic resource: ``gpu`` of type ``a100``; ``indices`` are the cards in use where Slurm tells them."""

    name: str
    kind: str
    count: int
    indices: tuple[int, ...] | None = None
    per_card: tuple[int, ...] | None = None
    """Of shards in use, how many on each card, where Slurm tells it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node."""

    name: str
    partitions: tuple[str, ...]
    states: frozenset[str]
    cpus: int
    cpus_used: int
    memory_mib: int
    memory_used_mib: int
    gres: tuple[Gres, ...]
    gres_used: tuple[Gres, ...]

    @property
    def usable(self) -> bool:
        """Whether new jobs may start on it."""
        return not self.states & UNUSABLE and self.cpus > 0


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition."""

    name: str
    up: bool
    max_minutes: int | None = None
    max_nodes: int | None = None
    nodes: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


def split_gres(text: str) -> list[str]:
    """Return the parts of ``gpu:a100:2(S:0,2),shard:8``: commas inside brackets separate nothing."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part.strip() for part in (*parts, current) if part.strip()]


def parse_gres(text: str) -> tuple[Gres, ...]:
    """Return what ``gres`` or ``gres_used`` of a node, or ``gres_detail`` of a job says."""
    found = []
    for part in split_gres(text):
        match = _GRES.match(part.removeprefix("gres:").removeprefix("gres/"))
        if match is None:
            continue
        count = int(match["count"]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(match["unit"], 1)
        more = match["more"] or ""
        indices = _indices(more[4:]) if more.startswith("IDX:") else None
        # "(0/4,3/4)"; 26.05 says "-" where the whole card is somebody's.
        shares = re.findall(r"(\d+|-)/\d+", more)
        per_card = tuple(0 if share == "-" else int(share) for share in shares) if shares else None
        found.append(Gres(match["name"], match["type"] or "", count, indices, per_card))
    return tuple(found)


def _indices(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def parse_nodes(text: str) -> list[Node]:
    """Return the nodes of ``sinfo --json`` (22.05) or ``scontrol show nodes --json``.

    Raises:
        AnswerError: it is not such an answer.
    """
    try:
        entries = json.loads(text)["nodes"]
        return [_node(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnswerError(f"nodes as JSON: {type(error).__name__}: {error}") from error


def _node(entry: Mapping[str, Any]) -> Node:
    partitions = entry.get("partitions") or ()
    return Node(
        name=str(entry["name"]),
        partitions=tuple(sorted(partitions.split(",") if isinstance(partitions, str) else map(str, partitions))),
        states=frozenset([*words(entry["state"]), *words(entry.get("state_flags") or [])]),
        cpus=number(entry.get("cpus")) or 0,
        cpus_used=number(entry.get("alloc_cpus")) or 0,
        memory_mib=number(entry.get("real_memory")) or 0,
        memory_used_mib=number(entry.get("alloc_memory")) or 0,
        gres=parse_gres(str(entry.get("gres") or "")),
        gres_used=parse_gres(str(entry.get("gres_used") or "")),
    )


TEXT_FIELDS: Final = {
    "NodeList": 128,
    "Partition": 80,
    "StateComplete": 80,
    "CPUsState": 60,
    "Memory": 20,
    "AllocMem": 20,
    "Gres": 300,
    "GresUsed": 300,
}
"""Fields of ``sinfo -N -O`` and their widths, for a Slurm without JSON."""


def parse_text(text: str) -> list[Node]:
    """Return the nodes of ``sinfo -h -N -O`` with :data:`TEXT_FIELDS`: one line per node and partition."""
    found: dict[str, Node] = {}
    for values in rows(text, TEXT_FIELDS):
        name = values["NodeList"]
        cpus = values["CPUsState"].split("/")
        if not name or len(cpus) != 4:
            continue
        partition = values["Partition"].rstrip("*")
        known = found.get(name)
        found[name] = Node(
            name=name,
            partitions=(partition,) if known is None else tuple(sorted({*known.partitions, partition})),
            states=frozenset(words(values["StateComplete"])),
            cpus=int(cpus[3]),
            cpus_used=int(cpus[0]),
            memory_mib=parse_memory(values["Memory"]),
            memory_used_mib=parse_memory(values["AllocMem"]),
            gres=parse_gres(values["Gres"]),
            gres_used=parse_gres(values["GresUsed"]),
        )
    return list(found.values())


def parse_partitions(text: str) -> list[Partition]:
    """Return the partitions of ``scontrol show partition -o``, in Slurm's order; the same text in all versions."""
    found = []
    for line in text.splitlines():
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" not in values:
            continue
        limit, most = values.get("MaxTime", ""), values.get("MaxNodes", "")
        found.append(
            Partition(
                values["PartitionName"],
                values.get("State") == "UP",
                minutes(limit),
                int(most) if most.isdigit() else None,
                values.get("Nodes", ""),
                values,
            )
        )
    return found
