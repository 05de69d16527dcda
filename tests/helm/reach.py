"""What a set of NetworkPolicies lets through, by their definition: no plug-in that enforces them can be had for the tests.

A connection passes when a policy of its origin lets it out and a policy of its target lets it in; a pod without a policy of that
direction is open. Source: the reference of networking.k8s.io/v1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """A pod, or with an empty namespace an address outside."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def passes(policies: Sequence[Document], origin: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether *origin* reaches *port* of *target*."""
    out = _allowed(policies, origin, target, "Egress", port, protocol)
    return out and _allowed(policies, target, origin, "Ingress", port, protocol)


def _allowed(policies: Sequence[Document], own: End, other: End, direction: str, port: int, protocol: str) -> bool:
    if not own.namespace:
        return True
    mine = [p for p in policies if p["metadata"]["namespace"] == own.namespace and _selects(p["spec"]["podSelector"], own.labels)]
    mine = [p for p in mine if direction in p["spec"]["policyTypes"]]
    if not mine:
        return True
    side, word = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    rules = [(p["metadata"]["namespace"], rule) for p in mine for rule in p["spec"].get(word) or ()]
    return any(
        _port(rule.get("ports"), port, protocol)
        and (side not in rule or any(_peer(peer, namespace, other) for peer in rule[side]))
        for namespace, rule in rules
    )


def _port(ports: Sequence[Document] | None, port: int, protocol: str) -> bool:
    return ports is None or any(p.get("port") in (None, port) and p.get("protocol", "TCP") == protocol for p in ports)


def _peer(peer: Document, namespace: str, other: End) -> bool:
    if block := peer.get("ipBlock"):
        if not other.address:
            return False
        address = ipaddress.ip_address(other.address)
        inside = [address in ipaddress.ip_network(cidr) for cidr in (block["cidr"], *block.get("except", ()))]
        return inside[0] and not any(inside[1:])
    if not other.namespace:
        return False
    spaces = peer.get("namespaceSelector")
    right = other.namespace == namespace if spaces is None else _selects(spaces, other.namespace_labels)
    return right and _selects(peer.get("podSelector") or {}, other.labels)


def _selects(selector: Document, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "only what the chart uses"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
