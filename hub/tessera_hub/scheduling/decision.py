"""What a cycle decides, with its explanation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tessera_hub.scheduling.reasons import Reason
from tessera_hub.scheduling.snapshot import Amounts, Reservation, nothing


class Action(StrEnum):
    """What becomes of a run."""

    PLACE = "place"
    WAIT = "wait"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Ahead:
    """Who comes before a run in its queue: how many runs, and the centi-cards and millicores that they ask for."""

    runs: int
    centi_cards: int
    cpu: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict of a cycle.

    A placement names one run. A wait or a reject is the verdict of a whole lane (runs of a queue that are alike): it
    names the lane's first run, ``group`` is the lane, and ``covers`` says how many runs share it.

    Attributes:
        charge: what the run takes from the quota of its queue and every ancestor, by dimension; empty unless placed.
        card_class: the class it settled on.
        reasons: every reason, ranked by tier.
        explanation: JSON: policy, scores of the best five places, and who was rejected why.
        position: place of ``run_id`` in its queue, from 1; None for a placement.
        eta_seconds: estimate until ``run_id`` starts, None if unknown.
        reservation: room kept from now on for ``run_id``; belongs in the next snapshot.
    """

    run_id: str
    action: Action
    queue_id: str
    group: str
    covers: int = 1
    cluster_id: str | None = None
    pool: str | None = None
    card_class: str | None = None
    charge: Amounts = field(default_factory=nothing)
    reasons: tuple[Reason, ...] = ()
    explanation: dict[str, object] = field(default_factory=dict)
    position: int | None = None
    ahead: Ahead | None = None
    eta_seconds: int | None = None
    reservation: Reservation | None = None
