"""Why something waits, was refused or ended: typed, tiered, never free text alone."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from pydantic import Field

from tessera_hub.i18n import mark

from .resources import Strict

MAY_HAVE_BEGUN: Final = "may_have_begun"
"""Detail of a run that is given back: true where its program may have begun unseen, if the run was claimed."""
ENDED_OUTSIDE: Final = mark("The run's process was ended from outside.")
MACHINE_RESTARTED: Final = mark("The machine was restarted.")
JOB_FORGOTTEN: Final = mark("Slurm does not know the job any more.")
"""What drivers say in English and the service in the reader's language; other words of theirs are an engine's own."""


class Tier(IntEnum):
    """Order in which reasons matter to a person; the lowest is shown first."""

    MISCONFIGURED = 0
    NEVER_FITS = 1
    POLICY = 2
    QUOTA = 3
    CAPACITY = 4
    CLUSTER = 5


class Reason(Strict):
    """One typed reason. ``message`` is filled by the API in the caller's language; programs use ``code`` and ``detail``."""

    tier: Tier
    code: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_.]*$", max_length=80)
    """Stable token such as ``capacity.no_free_cards``; the list is in docs/reference/reasons.md."""
    detail: dict[str, Any] = Field(default_factory=dict)
    message: str = ""
