"""Why a run waits or is refused, as the scheduler says it.

The tokens are those of :data:`tessera_hub.tasks.reasons.REASONS`, which has the texts; a test holds the two together.
Tiers: 0 misconfigured, 1 never fits, 2 policy, 3 quota, 4 capacity, 5 cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Detail: TypeAlias = Mapping[str, str | int | None]


class Code(Enum):
    """Tier, token, and whether waiting does not help as long as nobody changes the run, its queue or the clusters.

    Within a tier what is nearest to a placement comes first: that another cluster has no such card says little.
    """

    NO_SUCH_QUEUE = (0, "queue.unknown", True)
    UNKNOWN_POLICY = (0, "policy.unknown", True)
    EMPTY_REQUEST = (0, "request.empty", True)
    UNKNOWN_ENVIRONMENT = (0, "environment.unknown", True)
    EXCEEDS_LIMIT = (1, "never.exceeds_limit", True)
    NO_CLUSTER = (1, "never.no_cluster", True)
    TOO_LARGE = (1, "never.too_large", True)
    GANG_TOO_LARGE = (1, "never.gang_too_large", True)
    NO_GANG = (1, "never.no_gang", True)
    NO_SERVICES = (1, "never.no_services", True)
    NO_PARTITION = (1, "never.no_partition", True)
    NO_CARD_MODE = (1, "never.no_card_mode", True)
    NO_CARD_CLASS = (1, "never.no_card_class", True)
    QUEUE_CLOSED = (2, "policy.queue_closed", False)
    FILTERED = (2, "policy.filtered", False)
    QUOTA_WAITING = (3, "quota.waiting", False)
    QUOTA_HELD = (3, "quota.reserved", False)
    BEHIND = (3, "quota.behind", False)
    NO_FREE_CARDS = (4, "capacity.no_free_cards", False)
    NO_FREE_NODE = (4, "capacity.no_free_node", False)
    FRAGMENTED = (4, "capacity.fragmented", False)
    GANG = (4, "capacity.gang", False)
    RESERVED = (4, "capacity.reserved", False)
    HOLDS_RESERVATION = (4, "capacity.holds_reservation", False)
    UNREACHABLE = (5, "cluster.unreachable", False)
    SUSPECT = (5, "cluster.suspect", False)
    DRAINING = (5, "cluster.draining", False)
    BACK_PRESSURE = (5, "cluster.back_pressure", False)
    NO_WORKSPACES = (5, "cluster.no_workspaces", True)
    NOT_ALLOWED = (5, "cluster.not_allowed", True)
    NO_ENVIRONMENT = (5, "cluster.environment", True)
    NO_DATASET = (5, "cluster.no_dataset", True)
    GAVE_BACK = (5, "cluster.gave_back", True)

    def __init__(self, tier: int, token: str, permanent: bool) -> None:
        self.tier = tier
        self.token = token
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: its code, and the numbers and names that belong to it (JSON)."""

    code: Code
    detail: Detail = field(default_factory=dict)

    @property
    def tier(self) -> int:
        """0 to 5; the lowest is shown first."""
        return self.code.tier

    def as_json(self) -> dict[str, object]:
        """Return the reason in the form of :class:`tessera_hub.schemas.reasons.Reason`."""
        return {"tier": self.code.tier, "code": self.code.token, "detail": dict(self.detail)}


def because(code: Code, **detail: str | int | None) -> Reason:
    """Return the reason of a code with its detail."""
    return Reason(code, detail)


def ranked(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return the reasons, each code once, by tier and then in the order of :class:`Code`.

    Of several with one code the one with the most free (the nearest to a placement) is kept.
    """
    best: dict[Code, Reason] = {}
    for reason in reasons:
        known = best.get(reason.code)
        if known is None or _nearness(reason) > _nearness(known):
            best[reason.code] = reason
    order = {code: index for index, code in enumerate(Code)}
    return tuple(sorted(best.values(), key=lambda reason: order[reason.code]))


def _nearness(reason: Reason) -> tuple[int, str]:
    free = reason.detail.get("free", reason.detail.get("total", 0))
    return (free if isinstance(free, int) else 0, repr(sorted(reason.detail.items())))
