"""What a reservation becomes in a pod: cards, labels, places. Pure functions over plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.cards import annotations_of, node_selection, resources_of
from tessera_hub.proxy.drivers.kubernetes.inventory import devices_of_node
from tessera_hub.proxy.drivers.kubernetes.options import PERSON, RUN, SITE, TENANT
from tessera_hub.schemas.workspaces import Reservation

Document = Mapping[str, Any]
QUEUE_ANNOTATION: Final = "scheduling.volcano.sh/queue-name"
"""Of a pod without a group: Volcano makes it one in this queue."""
RESTRICTED: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security's level ``restricted`` asks of a container."""
FIRST_TIME: Final = "test -e .tessera || (cp -r /opt/examples examples; : > .tessera) 2>/dev/null || true"
"""Fills a new home; nothing in it comes from a person."""


@dataclass(frozen=True, slots=True)
class Cards:
    """What a pod needs for its cards; all empty without.

    Attributes:
        limits: extended resources of the notebook container.
        annotations: of the pod, for whoever hands the cards out.
        tolerations: nodes with cards repel what asks for none.
        terms: node selector terms that lead to the class of cards.
    """

    limits: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Document] = ()
    terms: Sequence[Document] = ()


def cards_of(reservation: Reservation, nodes: Iterable[Document]) -> Cards:
    """Return what the granted cards need in a cluster with these *nodes*.

    Raises:
        DriverError: ``never.no_card_class`` or ``never.no_card_mode``: the cluster does not hand out such cards.
    """
    assert reservation.spec is not None
    request = reservation.spec.roles[0].resources.cards
    if request is None:
        return Cards()
    found = list(nodes)
    limits = resources_of(request, reservation.card_class, [device for node in found for device in devices_of_node(node)])
    affinity = node_selection(reservation.card_class or request.model, found)
    required = {} if affinity is None else affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    tolerations = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in sorted(limits)]
    return Cards(limits, annotations_of(request, limits), tolerations, required.get("nodeSelectorTerms", ()))


def by_name(configured: Any) -> dict[str, Any]:
    """Return what KubeSpawner takes as a list or by name, by name: what is added under a name once is not added twice."""
    return dict(configured) if isinstance(configured, Mapping) else {f"{n:03}": value for n, value in enumerate(configured)}


def joined_terms(own: Sequence[Document], asked: Sequence[Document]) -> list[dict[str, Any]]:
    """Return node selector terms that hold both (terms are alternatives, what is in one holds together)."""
    if not own or not asked:
        return [dict(term) for term in own or asked]
    names = ("matchExpressions", "matchFields")
    return [
        {name: [*a.get(name, ()), *b.get(name, ())] for name in names if a.get(name) or b.get(name)} for a in own for b in asked
    ]


def labels_of(reservation: Reservation, site: str) -> dict[str, str]:
    """Return the labels by which the cluster's Proxy knows the pod as that of a workspace run."""
    return {
        SITE: site,
        RUN: reservation.run_id,
        TENANT: str(reservation.tenant_id),
        PERSON: str(reservation.principal_id),
        "app.kubernetes.io/managed-by": "tessera",
    }


def home_name(reservation: Reservation) -> str:
    """Return the name of the person's volume, by number: a re-created person of the same name inherits nothing."""
    return f"home-{reservation.principal_id}"


def first_time_container(image: str, path: str) -> dict[str, Any]:
    """Return the init container that puts the examples into a new home.

    It asks for little, and for no cards: those are the notebook container's alone.
    """
    return {
        "name": "home",
        "image": image,
        "command": ["/bin/sh", "-c", FIRST_TIME],
        "workingDir": path,
        "volumeMounts": [{"name": "home", "mountPath": path}],
        "securityContext": dict(RESTRICTED),
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
    }
