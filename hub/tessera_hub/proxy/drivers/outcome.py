"""How a local run stands and how it ended, read from its files alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tessera_hub.proxy.drivers.base import Evidence, MeterFact
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.shim import is_alive
from tessera_hub.schemas.reasons import ENDED_OUTSIDE, Reason
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import Phase
from tessera_hub.tasks.reasons import tier_of

STATES: Final = {
    "succeeded": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "cancelled": Phase.CANCELLED,
    "preempted": Phase.PREEMPTED,
    "gave_back": Phase.QUEUED,
}
ORDERED: Final = {
    "cancel": ("cancelled", "policy.cancelled"),
    "stale": ("cancelled", "claimed.elsewhere"),
    "preempt": ("preempted", "policy.preempted"),
    "limit": ("failed", "limit.time"),
}
"""Order to end a run → (state, reason code) when the runner left no record of its own."""
STATUS_CODES: Final = {
    65: "notebook.invalid",
    66: "notebook.missing",
    69: "environment.missing_package",
    74: "disk.full",
    75: "claimed.elsewhere",
    77: "claimed.elsewhere",
    78: "cluster.start_failed",
    124: "limit.time",
    137: "limit.memory",
}
"""Exit status of the runner → reason code, for a runner that could not write ``exit.json``."""


EXIT_CODE_LIMIT: Final = 0xFFFF
"""Above every exit status there is; a larger one in the runner's record was written by user code."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run."""

    phase: Phase
    at: datetime
    reason: Reason | None = None
    exit_code: int | None = None


def reason_of(code: str, message: str = "", detail: dict[str, Any] | None = None) -> Reason:
    """Return a typed reason for something an engine or runner told."""
    return Reason(tier=tier_of(code), code=code, detail=detail or {}, message=message)


def time_of(document: dict[str, Any], key: str) -> datetime:
    """Return a time of a record; now if it is not there (a record of ours that user code cannot touch always has it)."""
    try:
        found = datetime.fromisoformat(document[key])
    except (KeyError, TypeError, ValueError):
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ending(run: RunDirectory) -> Ending | None:
    """Return how the run ended, None while it has not.

    The runner's ``exit.json`` says what user code did; the shim's record says when the processes were gone. The first is
    believed for the state, the second for the time.
    """
    own, shim = run.read("end.json"), run.read("shim.json")
    if own is None and shim is None:
        return None
    at = time_of(shim, "finished_at") if shim is not None else time_of(own or {}, "at")
    if own is not None and shim is None and run.read("shim.pid.json") is None:
        return concluded(own, at)
    told = run.exit_record()
    if told is not None:
        return told_by(run, told, at)
    if own is not None:
        return concluded(own, at)
    assert shim is not None
    return _native(run, shim, at)


def concluded(own: dict[str, Any], at: datetime) -> Ending:
    """By the Proxy's own conclusion, ``end.json``."""
    reason = Reason.model_validate(own["reason"]) if own.get("reason") else None
    return Ending(STATES[own["state"]], at, reason)


def told_by(run: RunDirectory, told: dict[str, Any], at: datetime) -> Ending:
    """By the runner's record, which user code can write: nothing in it is taken without a look at its type."""
    given = told.get("reason")
    reason: Reason | None = None
    if isinstance(given, dict):
        detail = given.get("detail")
        try:
            reason = reason_of(
                str(given.get("code")), str(given.get("message", ""))[:2000], detail if isinstance(detail, dict) else {}
            )
        except ValueError:
            reason = reason_of("script.exit", "the runner's record has no proper reason code")
    state, order = told["state"], run.read("cancel.json")
    if state in ("cancelled", "preempted") and order is not None:
        # The runner knows only that it was stopped; why is what we ordered.
        state, ordered = ORDERED.get(str(order.get("why")), ORDERED["cancel"])
        reason = reason_of(ordered)
    return Ending(STATES[state], at, reason, exit_code_of(told.get("exit_code")))


def exit_code_of(value: Any) -> int | None:
    """Return *value* if it can be the status of a process, else None."""
    return value if type(value) is int and abs(value) <= EXIT_CODE_LIMIT else None


def _native(run: RunDirectory, shim: dict[str, Any], at: datetime) -> Ending:
    """By the shim's record alone: the runner died before it could write one."""
    code, number, cause = shim.get("exit_code"), shim.get("signal"), shim.get("cause")
    status = code if code is not None else 128 + int(number or 0)
    detail = {"exit_code": code, "signal": number}
    if cause == "start_failed":
        return Ending(Phase.FAILED, at, reason_of("cluster.start_failed", str(shim.get("problem", ""))), status)
    if cause in ("limit.time", "limit.memory"):
        return Ending(Phase.FAILED, at, reason_of(cause, "", detail), status)
    order = run.read("cancel.json")
    if order is not None:
        state, reason_code = ORDERED.get(str(order.get("why")), ORDERED["cancel"])
        return Ending(STATES[state], at, reason_of(reason_code, "", detail), status)
    if code in STATUS_CODES:
        return Ending(Phase.FAILED, at, reason_of(STATUS_CODES[code], "", detail), status)
    return Ending(Phase.FAILED, at, reason_of("cluster.lost", ENDED_OUTSIDE, detail), status)


def shim_lives(run: RunDirectory) -> bool | None:
    """Whether the run's shim is alive; None if it was never started."""
    pid = run.read("shim.pid.json")
    if pid is None:
        return None
    return is_alive(int(pid["pid"]), int(pid["start_ticks"]), str(pid["boot_id"]))


def last_sign_of_life(run: RunDirectory) -> datetime:
    """When the shim was last seen at work; its start if never."""
    try:
        return datetime.fromtimestamp((run.path / "alive").stat().st_mtime, UTC)
    except OSError:
        return time_of(run.read("shim.pid.json") or {}, "started_at")


def meter_facts(run: RunDirectory, held: ResourceVector) -> tuple[MeterFact, ...]:
    """Return what is billed: from the shim's start to the end of its last process; a suspended run holds memory and cards."""
    pid = run.read("shim.pid.json")
    if pid is None:
        return ()
    started = time_of(pid, "started_at")
    facts = [_fact("START", started, held)]
    resting = {dimension: amount for dimension, amount in held.items() if dimension != "cpu"}
    for state, at in run.suspends():
        facts.append(_fact("PAUSE", at, resting) if state == "suspended" else _fact("RESUME", at, held))
    own, shim = run.read("end.json"), run.read("shim.json")
    if shim is not None:
        facts.append(_fact("STOP", time_of(shim, "finished_at"), {}))
    elif own is not None:
        evidence: Evidence = "estimated" if own.get("evidence") == "estimated" else "observed"
        facts.append(_fact("STOP", max(time_of(own, "at"), started), {}, evidence))
    return tuple(facts)


def _fact(action: Any, at: datetime, spec: ResourceVector, evidence: Evidence = "engine") -> MeterFact:
    second = int(at.timestamp())
    return MeterFact(action, second, second, spec, evidence)
