"""What every part of one run shares: its specification, its files, and the one wish to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.exits import Outcome, Reason
from tessera_lab.runner.limits import MemoryWatch
from tessera_lab.runner.output import Log
from tessera_lab.runner.progress import Progress
from tessera_lab.runner.specification import RunSpecification
from tessera_lab.runner.storage import Reserve, is_disk_full, now_text, write_atomic

# From the wish to end a run for its time limit to the kill.
TIME_LIMIT_GRACE_SECONDS = 5.0

Manner = Literal["grace", "interrupt", "kill"]


@dataclass(frozen=True)
class StopCause:
    """Why a run is to end early, and how: with the checkpoint grace, by an interrupt, or at once."""

    outcome: Outcome
    manner: Manner


class Stop:
    """The wish to stop; the first cause is the one that counts."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.cause: StopCause | None = None

    def request(self, cause: StopCause) -> None:
        """Ask for the end of the run."""
        if self.cause is None:
            self.cause = cause
            self._event.set()

    async def wait(self) -> StopCause:
        """Wait until someone asks."""
        await self._event.wait()
        assert self.cause is not None
        return self.cause


class RunContext:
    """One run in its directory. Must be made inside the running event loop."""

    def __init__(self, run_dir: Path, specification: RunSpecification) -> None:
        self.run_dir = run_dir
        self.specification = specification
        self.started_at = now_text()
        self.stop = Stop()
        self.reserve = Reserve(run_dir / ".reserve")
        self.reserve.hold()
        self.progress = Progress(run_dir / "progress.jsonl", self.storage_failed)
        self.log = Log(
            sys.stdout.fileno(),
            specification.limits.output_bytes,
            on_truncated=lambda: self.note_truncated("log"),
            on_failed=self.storage_failed,
            on_metric=lambda values: self.progress.emit("metric", values=values),
        )
        self.own_children: set[int] = set()
        self.memory = MemoryWatch(specification.limits.memory_mib, self._memory_exceeded, self.own_children)
        self.cells_done = 0
        self.cells_total = 0
        # Set by a notebook run: writes the notebook as it is at the end.
        self.save_final: Callable[[], None] | None = None
        self._truncation_noted = False

    @property
    def entry(self) -> Path:
        """The notebook or script in the input snapshot."""
        return self.run_dir / "work" / self.specification.entry

    @property
    def preempt_notice(self) -> Path:
        """The file whose appearance tells user code to save its state."""
        return self.run_dir / "preempt-notice"

    def user_environment(self) -> dict[str, str]:
        """The environment of user code: the runner's own, and where to find what belongs to the run."""
        checkpoint = self.run_dir / self.specification.checkpoint_dir
        checkpoint.mkdir(parents=True, exist_ok=True)
        parameters = self.run_dir / "parameters.json"
        write_atomic(parameters, json.dumps(self.specification.parameters).encode(), durable=False)
        return {
            **os.environ,
            **self._data_sets(),
            "PYTHONUNBUFFERED": "1",
            "TESSERA_RUN_ID": self.specification.run_id,
            "TESSERA_TASK_ID": self.specification.task_id,
            "TESSERA_ATTEMPT": str(self.specification.attempt),
            "TESSERA_CHECKPOINT_DIR": str(checkpoint),
            "TESSERA_PARAMETERS": str(parameters),
            "TESSERA_PREEMPT_NOTICE": str(self.preempt_notice),
        }

    def _data_sets(self) -> dict[str, str]:
        """Put a link to each data set into one folder, and return the variable that names it; empty if the run reads none.

        Raises:
            RunnerError: ``dataset.missing``.
        """
        if not self.specification.datasets:
            return {}
        folder = self.run_dir / "datasets"
        folder.mkdir(exist_ok=True)
        for name, path in self.specification.datasets.items():
            if not Path(path).is_dir():
                raise RunnerError("dataset.missing", f"the data set {name} is not at {path}", {"dataset": name})
            with contextlib.suppress(FileExistsError):  # of an earlier start of a service, or another part of the run
                (folder / name).symlink_to(path)
        return {"TESSERA_DATASETS": str(folder)}

    def entry_inside_work(self, missing_code: str) -> Path:
        """The entry, checked to be a file that lies inside the snapshot also after following links.

        Raises:
            RunnerError: with ``missing_code``.
        """
        work = (self.run_dir / "work").resolve()
        path = self.entry.resolve()
        if not path.is_file() or not path.is_relative_to(work):
            name = str(self.specification.entry)
            raise RunnerError(missing_code, f"there is no file {name} among the inputs", {"entry": name})
        return self.entry

    def note_truncated(self, where: str) -> None:
        """Tell, once per run, that output is no longer kept."""
        if not self._truncation_noted:
            self._truncation_noted = True
            self.progress.note("output.truncated", where=where, limit_bytes=self.specification.limits.output_bytes)

    def storage_failed(self, error: OSError) -> None:
        """A file of the run cannot be written: a full disk ends the run, a log reader that went away does not."""
        if is_disk_full(error):
            self.stop.request(StopCause(Outcome.failed(disk_full(self.run_dir)), "kill"))

    def request_preemption(self) -> None:
        """SIGTERM arrived; ``stop.json`` says why, and without it the cluster took the machine away."""
        why = self._stop_reason()
        reason = Reason("signal.term", f"stopped by SIGTERM ({why or 'the cluster gave no reason'})", {"why": why})
        self.stop.request(StopCause(Outcome("cancelled" if why == "cancel" else "preempted", reason), "grace"))
        self.progress.note("stop.requested", why=why, grace_seconds=self.specification.grace_seconds)

    def request_time_limit(self) -> None:
        """The time limit has passed."""
        seconds = self.specification.limits.max_seconds
        error = RunnerError("limit.time", f"the run reached its limit of {seconds} s", {"limit_seconds": seconds})
        self.stop.request(StopCause(Outcome.failed(error), "interrupt"))

    def memory_error(self) -> RunnerError:
        """The reason for an end by lack of memory, with peak and limit."""
        limit, peak = self.specification.limits.memory_mib, self.memory.peak_mib
        bound = "the memory there was" if limit is None else f"its limit of {limit} MiB"
        return RunnerError("limit.memory", f"the run passed {bound} (peak {peak} MiB)", {"limit_mib": limit, "peak_mib": peak})

    def _memory_exceeded(self, _used_mib: int) -> None:
        self.stop.request(StopCause(Outcome.failed(self.memory_error()), "kill"))

    def _stop_reason(self) -> str | None:
        try:
            document = json.loads((self.run_dir / "stop.json").read_text())
        except (OSError, ValueError):
            return None
        why = document.get("why") if isinstance(document, dict) else None
        return why if why in ("cancel", "preempt") else None


def disk_full(path: Path) -> RunnerError:
    """The reason for an end by a full disk, with what is left there in bytes."""
    try:
        found = os.statvfs(path)
    except OSError:
        return RunnerError("disk.full", "the run's disk is full")
    detail: dict[str, JsonValue] = {"free_bytes": found.f_bavail * found.f_frsize, "size_bytes": found.f_blocks * found.f_frsize}
    return RunnerError("disk.full", "the run's disk is full", detail)


@dataclass(frozen=True)
class Phases:
    """How a grace period is divided, in seconds from its start: user code may end, is interrupted, is killed."""

    interrupt_after: float
    kill_after: float

    @classmethod
    def of(cls, manner: Manner, grace_seconds: float) -> Phases:
        """The whole, saving included, fits into ``grace_seconds``: a third at most, and never over 10 s, is kept for the end."""
        match manner:
            case "grace":
                kept = min(10.0, grace_seconds / 3)
                return cls(grace_seconds - kept, grace_seconds - kept / 2)
            case "interrupt":
                return cls(0.0, TIME_LIMIT_GRACE_SECONDS)
            case "kill":
                return cls(0.0, 0.0)
