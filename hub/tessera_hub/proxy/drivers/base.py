"""What a driver is: the small interface behind which a cluster's kind is hidden.

A driver keeps no database. Everything it knows it reads from the cluster itself (labels, job names, run directories), so a
Proxy that was killed at any point comes back with the same knowledge. Source: docs/explanation/protocol.md, "Drivers".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol
from uuid import UUID

from tessera_hub.schemas.protocol import DesiredQueue, Inventory, Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import InputFile, Phase, Progress
from tessera_hub.tasks.reasons import tier_of

Stream = str
"""``output``, ``progress``, or ``part-<n>``: the output of another part than the first."""
CancelReason = Literal["cancel", "stale", "preempt", "limit"]
MeterAction = Literal["START", "PAUSE", "RESUME", "STOP"]
Evidence = Literal["engine", "observed", "estimated"]


UNSTARTED_MAX: Final = 100
STARTED: Final = (Phase.RUNNING, Phase.SUSPENDED, Phase.UNKNOWN)


def room_for_more(phases: Iterable[Phase]) -> int:
    """Return how many more runs are taken where only their number counts: what has started is no burden any more."""
    return max(UNSTARTED_MAX - sum(not phase.final and phase not in STARTED for phase in phases), 0)


class DriverError(Exception):
    """The cluster cannot do what was asked, for a reason that a person may see.

    Args:
        code: stable reason code of docs/reference/reasons.md.
        message: one English sentence in the engine's or our words, for logs and as an addition to the translated text.
        detail: JSON values.
        give_back: the run was not started and may be placed elsewhere or later.
    """

    def __init__(
        self,
        code: str,
        message: str,
        detail: Mapping[str, Any] | None = None,
        *,
        give_back: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = dict(detail or {})
        self.give_back = give_back

    @property
    def reason(self) -> Reason:
        """The typed reason for the service."""
        return Reason(tier=tier_of(self.code), code=self.code, detail=self.detail, message=self.message)


@dataclass(frozen=True, slots=True)
class MeterFact:
    """Something the engine knows about what a run held, by the engine's own clock in UTC seconds.

    Attributes:
        subject: what held it, of a run that is several things one after the other: ``<uid of the run>/<its own>``; None: the run.
    """

    action: MeterAction
    effective_at: int
    observed_at: int
    spec: ResourceVector = field(default_factory=dict)
    evidence: Evidence = "engine"
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class NativeRun:
    """One run as the engine shows it.

    Attributes:
        uid: the engine's own unique name of this attempt, never used twice; what is metered.
        at: when ``phase`` began, by the engine's clock.
        meter: all metering facts so far; the same call later returns the same ones and possibly more.
        managed_by_spawner: only held here (a workspace that JupyterHub starts), never started or ended by the Proxy.
    """

    run_id: UUID
    lease: Lease
    phase: Phase
    uid: str
    at: datetime
    native_id: str | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    progress: Progress | None = None
    meter: tuple[MeterFact, ...] = ()
    managed_by_spawner: bool = False


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A file a run gives back: where it lies, whose it must be, under which relative path, with which mode."""

    path: str
    file: Path
    size: int
    mode: int
    owner: int


@dataclass(frozen=True, slots=True)
class Results:
    """What an ended run gives back.

    Attributes:
        outputs: files for the person.
        checkpoint: files for the next attempt, by path below the checkpoint directory.
        left_out: paths of files that are not given back because there are too many, or no other machine could take the name.
        notes: what the run has to tell besides its end, such as output that was not kept.
        checkpoint_delivered: files of the checkpoint that the run itself has brought to the service.
    """

    outputs: tuple[OutputPath, ...] = ()
    checkpoint: tuple[OutputPath, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[Reason, ...] = ()
    checkpoint_delivered: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used on average since the last look."""

    run_id: UUID
    at: datetime
    cpu_millicores: int
    memory_mib: int


class InputSource(Protocol):
    """What the agent hands to :meth:`Driver.submit`, so that the driver decides where bytes go and when it is claimed."""

    async def fetch(self, directory: Path, files: Sequence[InputFile]) -> None:
        """Bring *files* of the lease (its snapshot's or its checkpoint's) into *directory*, verified and resumable.

        Raises:
            DriverError: ``inputs.missing``, ``disk.full``; what had come is removed.
        """

    async def claim(self, who: str) -> None:
        """Claim the run at the service for *who*; a repeat by the same *who* succeeds.

        Raises:
            DriverError: ``claimed.elsewhere``, the lease is not ours any more.
        """


class Driver(ABC):
    """One kind of cluster. All methods may be called again after a lost answer and then change nothing."""

    name: ClassVar[str]
    leases_at_once: ClassVar[int] = 1
    """How many runs are submitted side by side."""
    carries: ClassVar[bool] = True
    """Whether the Proxy brings what living runs print and write. Else something beside each run does, and the Proxy looks at a
    run again only when it is shown anew."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """Of ``cards gang suspend preempt fraction logs queues shared_storage workspaces services``."""

    @abstractmethod
    async def start(self, source_of: Callable[[Lease], InputSource]) -> None:
        """Look around: rebuild all runs from the cluster itself, before anything is reported, and go on with starts that a
        crash interrupted.

        Raises:
            DriverError: the cluster cannot be used at all.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the cluster; runs go on."""

    @abstractmethod
    async def inventory(self) -> Inventory:
        """What the cluster has and what is free now."""

    @abstractmethod
    async def submit(self, lease: Lease, source: InputSource) -> None:
        """Take the run up; returns when it is recorded (a crash from then on forgets nothing), before it is started.

        Raises:
            DriverError: it was not taken up; nothing of it is left.
        """

    @abstractmethod
    async def cancel(self, run_id: UUID, why: CancelReason, grace_seconds: int) -> None:
        """End the run with its grace. An unknown run is no error."""

    @abstractmethod
    async def suspend(self, run_id: UUID) -> None:
        """Stop the run without losing its state."""

    @abstractmethod
    async def resume(self, run_id: UUID) -> None:
        """Let a suspended run go on."""

    @abstractmethod
    async def list_runs(self) -> list[NativeRun]:
        """All runs of ours, finished ones too until :meth:`forget`."""

    def room(self, runs: Sequence[NativeRun]) -> int:
        """How many more runs it takes now, beside *runs*, which it listed; the service promises it no more."""
        return room_for_more(run.phase for run in runs if not run.managed_by_spawner)

    def streams(self, lease: Lease) -> Sequence[Stream]:
        """The streams of a run that :meth:`logs` can show."""
        return ("output", "progress")

    @abstractmethod
    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        """At most *limit* bytes of a stream from *offset*; empty at the end and for unknown runs."""

    @abstractmethod
    async def notebook(self, run_id: UUID, known: str | None) -> tuple[str, bytes] | None:
        """The executed notebook so far as (version, bytes) if its version is not *known*."""

    @abstractmethod
    async def results(self, run_id: UUID) -> Results:
        """What the run gives back; asked for when it has ended."""

    @abstractmethod
    async def forget(self, run_id: UUID) -> None:
        """Remove what is left of an ended run."""

    async def usage(self) -> Sequence[Usage]:
        """What the living runs used since the last call; nothing where the cluster cannot tell."""
        return ()

    @abstractmethod
    async def apply_queues(self, desired: Sequence[DesiredQueue]) -> None:
        """Mirror the queue tree into the engine, where it has queues."""
