"""Placement policies: filters and weighted scorers over the places that can take a run.

A policy is data. Its score of a place is ``sum(weight * scorer(place)) // sum(weights)``, each scorer in parts per million
(0 to 1,000,000, more is better); equal scores are ordered by its tie-breakers and then by a stable hash of the place, so
that a run never flaps between equals. All is integer arithmetic, hence the same on each machine.

A package adds policies by an entry point in the group ``tessera.scheduling.policies`` that names a :class:`Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final, TypeAlias

from tessera_hub.scheduling.snapshot import Amounts, ClusterState, PoolState, Shape

MILLION: Final = 1_000_000
ENTRY_POINT_GROUP: Final = "tessera.scheduling.policies"


class PolicyError(Exception):
    """A policy cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pool as a scorer sees it.

    Attributes:
        free: what is left in it in this cycle, by dimension.
        charge: what the run would take.
        cost: nano-units of currency per hour of the run there.
        highest_cost: the greatest ``cost`` among the pools that could ever hold the run.
    """

    shape: Shape
    cluster: ClusterState
    pool: PoolState
    free: Amounts
    charge: Amounts
    cost: int
    highest_cost: int


Scorer: TypeAlias = Callable[[Place], int]
Filter: TypeAlias = Callable[[Place], bool]


def idle(place: Place) -> int:
    """Free ÷ total after the run, in the asked dimension that has the least."""
    least = MILLION
    for dimension, asked in place.charge.items():
        total = place.pool.total.get(dimension, 0)
        if total > 0:
            least = min(least, max(place.free.get(dimension, 0) - asked, 0) * MILLION // total)
    return least


def binpack(place: Place) -> int:
    """The fuller the better: 1 − idle."""
    return MILLION - idle(place)


def cheapness(place: Place) -> int:
    """1 − cost ÷ the highest cost; everything free of charge scores full."""
    return MILLION - place.cost * MILLION // place.highest_cost if place.highest_cost > 0 else MILLION


def preference(place: Place) -> int:
    """The operator's order of clusters: 1 ÷ (1 + preference)."""
    return MILLION // (1 + max(place.cluster.preference, 0))


def keeps_cards_free(place: Place) -> int:
    """Full for a place without cards if the run needs none."""
    return MILLION if place.pool.card_class is None or place.shape.centi_cards else 0


@dataclass(frozen=True, slots=True)
class Policy:
    """A named way to choose among places.

    Attributes:
        scorers: (name, weight, scorer); the name appears in explanations.
        ties: compared one after the other where the score is equal.
        filters: (name, filter); a place that one returns False for is rejected, with the name as its reason.
    """

    name: str
    scorers: tuple[tuple[str, int, Scorer], ...]
    ties: tuple[Scorer, ...] = ()
    filters: tuple[tuple[str, Filter], ...] = ()

    def score(self, place: Place) -> tuple[int, dict[str, int]]:
        """Return the weighted score in parts per million, and what each scorer said."""
        said = {name: scorer(place) for name, _weight, scorer in self.scorers}
        weights = sum(weight for _name, weight, _scorer in self.scorers)
        return sum(said[name] * weight for name, weight, _ in self.scorers) // max(weights, 1), said

    def tie(self, place: Place) -> tuple[int, ...]:
        """Return the sort key among equal scores (smaller first)."""
        return tuple(-scorer(place) for scorer in self.ties)

    def rejects(self, place: Place) -> str | None:
        """Return the name of the filter that rejects the place, or None."""
        return next((name for name, allows in self.filters if not allows(place)), None)


FIFO: Final = Policy("fifo", (("preference", 1, preference),), (keeps_cards_free, binpack))
MOST_IDLE: Final = Policy("most-idle", (("idle", 1, idle),), (keeps_cards_free, cheapness))
LOWEST_PRICE: Final = Policy("lowest-price", (("price", 1, cheapness),), (idle,))

BUILTIN: Final[Mapping[str, Policy]] = MappingProxyType({p.name: p for p in (FIFO, MOST_IDLE, LOWEST_PRICE)})


@lru_cache(maxsize=1)
def installed() -> Mapping[str, Policy]:
    """Return the built-in policies and those of installed packages, by name.

    Raises:
        PolicyError: an entry point does not load, is no :class:`Policy`, or takes a name that is already used.
    """
    policies = dict(BUILTIN)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            policy = point.load()
        except Exception as error:
            raise PolicyError(f"policy {point.name} ({point.value}) does not load: {error}") from error
        if not isinstance(policy, Policy):
            raise PolicyError(f"policy {point.name} ({point.value}) is not a Policy")
        if policy.name in policies:
            raise PolicyError(f"policy {point.name} ({point.value}) takes the name {policy.name}, which is used")
        policies[policy.name] = policy
    return MappingProxyType(policies)
