"""Where and when waiting runs start.

The core is a pure function, :func:`schedule`: snapshot → decisions. The service, the tests, the simulator and the
benchmark call the same one. Read in this order: ``snapshot.py`` (what goes in), ``decision.py`` (what comes out),
``cycle.py`` (the order of things), ``places.py`` and ``capacity.py`` (what fits where), ``tree.py`` (quota and fair order),
``policies.py`` (which place is best), ``reservations.py`` (nobody waits for ever), ``feasibility.py`` (fits never).
"""

from .cycle import DEFAULT_LIMITS, Limits, schedule
from .decision import Action, Ahead, Decision
from .estimates import standing_of
from .feasibility import never_fits
from .pending import PendingSet
from .policies import BUILTIN, Policy, PolicyError
from .reasons import Code, Reason
from .snapshot import (
    CardMode,
    CardRequest,
    ClusterCondition,
    ClusterState,
    Dequeue,
    NodeShape,
    PendingRun,
    PoolState,
    QueueCondition,
    QueueState,
    Reservation,
    RoleRequest,
    Shape,
    Snapshot,
)

__all__ = [
    "BUILTIN",
    "DEFAULT_LIMITS",
    "Action",
    "Ahead",
    "CardMode",
    "CardRequest",
    "ClusterCondition",
    "ClusterState",
    "Code",
    "Decision",
    "Dequeue",
    "Limits",
    "NodeShape",
    "PendingRun",
    "PendingSet",
    "Policy",
    "PolicyError",
    "PoolState",
    "QueueCondition",
    "QueueState",
    "Reason",
    "Reservation",
    "RoleRequest",
    "Shape",
    "Snapshot",
    "never_fits",
    "schedule",
    "standing_of",
]
