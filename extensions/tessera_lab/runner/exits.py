"""How a run ended: reason codes, the statuses the runner exits with, and the record in ``exit.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.specification import RunSpecification
from tessera_lab.runner.storage import Reserve, is_disk_full, now_text, publish, stage

SCHEMA = 1
SUCCEEDED: Final = 0
CLAIMED_ELSEWHERE: Final = 75

State = Literal["succeeded", "failed", "cancelled", "preempted"]

# Reason code → status of the runner's process. 64 to 78 follow sysexits.h; 124, 137 and 143 are what timeout(1), an
# out-of-memory kill and SIGTERM give. A code, once published, keeps its meaning.
EXIT_STATUS: Final[dict[str, int]] = {
    "cell.error": 1,
    "script.exit": 1,
    "notebook.invalid": 65,
    "parameter.type": 65,
    "parameter.name": 65,
    "parameter.language": 65,
    "parameter.unknown": 65,
    "notebook.missing": 66,
    "script.missing": 66,
    "script.unsupported": 66,
    "dataset.missing": 66,
    "kernel.unknown": 69,
    "kernel.start_failed": 69,
    "environment.missing_package": 69,
    "runner.internal": 70,
    "kernel.died": 71,
    "disk.full": 74,
    "claimed.elsewhere": CLAIMED_ELSEWHERE,
    "claim.refused": 77,
    "claim.unreachable": 77,
    "run.invalid": 78,
    "limit.time": 124,
    "limit.memory": 137,
    "signal.term": 143,
}


@dataclass(frozen=True)
class Reason:
    """Why a run did not succeed: a stable code, the facts, and an English sentence for logs."""

    code: str
    message: str
    detail: dict[str, JsonValue] = field(default_factory=dict)

    @classmethod
    def of(cls, error: RunnerError) -> Reason:
        """The reason that ``error`` stands for."""
        return cls(error.code, error.message, error.detail)


@dataclass(frozen=True)
class Outcome:
    """The end of a run; ``reason`` is ``None`` exactly when it succeeded.

    ``script_status`` is the exit status of the person's own script (128 + n when signal n ended it), ``None`` for a notebook or
    before the start.
    """

    state: State
    reason: Reason | None = None
    script_status: int | None = None

    @property
    def status(self) -> int:
        """The status the runner exits with."""
        return SUCCEEDED if self.reason is None else EXIT_STATUS[self.reason.code]

    @classmethod
    def failed(cls, error: RunnerError, script_status: int | None = None) -> Outcome:
        """A failure for the reason in ``error``."""
        return cls("failed", Reason.of(error), script_status)


@dataclass(frozen=True)
class Account:
    """What a run did until its end: times in ISO UTC, cells of the notebook, the highest memory seen in MiB."""

    started_at: str
    cells_done: int
    cells_total: int
    peak_memory_mib: int


def exit_record(specification: RunSpecification, outcome: Outcome, account: Account) -> dict[str, JsonValue]:
    """The content of ``exit.json``, as in the reference page of the runner."""
    reason = outcome.reason
    return {
        "schema": SCHEMA,
        "run_id": specification.run_id,
        "lease_token": specification.lease_token,
        "state": outcome.state,
        "reason": None if reason is None else {"code": reason.code, "detail": reason.detail, "message": reason.message},
        "exit_code": outcome.status if outcome.script_status is None else outcome.script_status,
        "started_at": account.started_at,
        "finished_at": now_text(),
        "cells_done": account.cells_done,
        "cells_total": account.cells_total,
        "peak_memory_mib": account.peak_memory_mib,
    }


def write_exit_record(
    run_dir: Path, record: dict[str, JsonValue], reserve: Reserve, before_publishing: Callable[[], None]
) -> None:
    """Write ``exit.json`` durably; whoever sees it may rely on everything else being in place.

    Args:
        before_publishing: last writes that should use the room that is left after the record itself is safe, such as
            the notebook of a run that filled the disk. Its own disk errors are its own business.

    Raises:
        OSError: the record cannot be written even with the reserve given free.
    """
    path = run_dir / "exit.json"
    data = (json.dumps(record) + "\n").encode()
    try:
        temporary = stage(path, data, durable=True)
    except OSError as error:
        if not is_disk_full(error):
            raise
        reserve.release()
        temporary = stage(path, data, durable=True)
    reserve.release()
    before_publishing()
    publish(temporary, path, durable=True)
