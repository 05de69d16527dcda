"""Jobs as Slurm shows them, read from ``squeue --json`` of 22.05 to 26.05 or from text.

From 23.02 on numbers are ``{"set", "infinite", "number"}`` and states are lists; before, they were plain.
Source: Slurm's OpenAPI plugins v0.0.38 (22.05) and later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tessera_hub.proxy.drivers.slurm.columns import rows

PENDING: Final = frozenset({"PENDING"})
STARTING: Final = frozenset({"CONFIGURING", "POWER_UP_NODE", "STAGE_OUT", "SIGNALING"})
SUSPENDED: Final = frozenset({"SUSPENDED", "STOPPED"})
REQUEUED: Final = frozenset({"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ENDED: Final = frozenset(
    {
        "COMPLETED",
        "CANCELLED",
        "FAILED",
        "TIMEOUT",
        "NODE_FAIL",
        "PREEMPTED",
        "BOOT_FAIL",
        "DEADLINE",
        "OUT_OF_MEMORY",
        "REVOKED",
        "LAUNCH_FAILED",
        "RECONFIG_FAIL",
    }
)
_BASE: Final = ("PENDING", "RUNNING", "SUSPENDED", *sorted(ENDED))


class AnswerError(Exception):
    """Slurm's answer is not what any known version gives."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times are seconds UTC by Slurm's clock, 0 where there is none.

    Attributes:
        state: the base state, ``RUNNING``.
        words: what Slurm has to say besides ``reason``.
        flags: what stands beside it, ``COMPLETING``, ``REQUEUED``.
        start: of a waiting job the start that the scheduler expects, 0 if it has no idea.
        suspended_at: when it was last suspended or resumed.
        ran_before: seconds it had run before that.
        exit_code: of the batch script; None when a signal ended it or it has not ended.
    """

    job_id: str
    name: str
    state: str
    flags: frozenset[str]
    reason: str
    words: str
    user: str
    partition: str
    nodes: str
    submitted: int
    start: int
    end: int
    suspended_at: int
    ran_before: int
    preempted_at: int
    restarts: int
    time_limit_minutes: int | None
    exit_code: int | None
    signal: int | None
    cpus: int
    node_count: int
    memory_mib: int
    gres: tuple[str, ...]
    comment: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more and it will not start again."""
        return self.state in ENDED and "COMPLETING" not in self.flags and not self.flags & REQUEUED


def number(value: Any) -> int | None:
    """Return a number of any version: plain, or with what says whether it is set; None if it is unset or infinite."""
    if isinstance(value, Mapping):
        if value.get("infinite") or value.get("set") is False:
            return None
        value = value.get("number")
    return int(value) if isinstance(value, (int, float)) else None


def words(value: Any) -> list[str]:
    """Return states of any version, a word or a list of words, in capitals."""
    if isinstance(value, str):
        value = value.replace("+", " ").replace(",", " ").split()
    return [str(word).upper().rstrip("*~#!%$@^-") for word in value] if isinstance(value, list) else []


def parse_memory(text: str) -> int:
    """Return MiB of ``4G``, ``512M``, ``4096`` (MiB), ``1.5T``."""
    factor = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1 << 20, "P": 1 << 30}.get(text[-1:].upper())
    digits = text if factor is None else text[:-1]
    try:
        return int(float(digits) * (factor or 1))
    except ValueError:
        return 0


def _tres_memory(text: str) -> int:
    """Return MiB of ``cpu=1,mem=4G,node=1``."""
    return next((parse_memory(part[4:]) for part in text.split(",") if part.startswith("mem=")), 0)


def _state(found: Iterable[str]) -> tuple[str, frozenset[str]]:
    given = list(found)
    base = next((word for word in _BASE if word in given), given[0] if given else "")
    return base, frozenset(given) - {base}


def _exit(value: Any) -> tuple[int | None, int | None]:
    """Return (exit code, signal) of 22.05's wait status or the later objects."""
    if isinstance(value, Mapping):
        killed = number((value.get("signal") or {}).get("id") or (value.get("signal") or {}).get("signal_id"))
        return (None, killed) if killed else (number(value.get("return_code")), None)
    status = number(value)
    if status is None:
        return None, None
    return (None, status & 0x7F) if status & 0x7F else (status >> 8 & 0xFF, None)


def parse_jobs(text: str) -> list[Job]:
    """Return the jobs of ``squeue --json`` or ``scontrol show job --json``.

    Raises:
        AnswerError: it is not such an answer.
    """
    try:
        document = json.loads(text)
        return [_job(entry) for entry in document["jobs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnswerError(f"squeue --json: {type(error).__name__}: {error}") from error


def _job(entry: Mapping[str, Any]) -> Job:
    base, flags = _state(words(entry["job_state"]))
    code, killed = _exit(entry.get("exit_code"))
    gres = entry.get("gres_detail")
    return Job(
        job_id=str(number(entry["job_id"])),
        name=str(entry.get("name") or ""),
        state=base,
        flags=flags,
        reason=str(entry.get("state_reason") or ""),
        words=str(entry.get("state_description") or ""),
        user=str(entry.get("user_name") or ""),
        partition=str(entry.get("partition") or ""),
        nodes=str(entry.get("nodes") or ""),
        submitted=number(entry.get("submit_time")) or 0,
        start=number(entry.get("start_time")) or 0,
        end=number(entry.get("end_time")) or 0,
        suspended_at=number(entry.get("suspend_time")) or 0,
        ran_before=number(entry.get("pre_sus_time")) or 0,
        preempted_at=number(entry.get("preempt_time")) or 0,
        restarts=number(entry.get("restart_cnt")) or 0,
        time_limit_minutes=number(entry.get("time_limit")),
        exit_code=code,
        signal=killed,
        cpus=number(entry.get("cpus")) or 0,
        node_count=number(entry.get("node_count")) or 0,
        memory_mib=_tres_memory(str(entry.get("tres_alloc_str") or "")),
        gres=tuple(str(part) for part in gres) if isinstance(gres, list) else (),
        comment=str(entry.get("comment") or ""),
    )


TEXT_FIELDS: Final = {
    "JobID": 20,
    "State": 20,
    "Reason": 80,
    "UserName": 40,
    "Partition": 60,
    "NumCPUs": 12,
    "NumNodes": 12,
    "SubmitTime": 24,
    "StartTime": 24,
    "EndTime": 24,
    "PreemptTime": 24,
    "Restartcnt": 12,
    "exit_code": 16,
    "TimeLimit": 24,
    "tres-alloc": 200,
    "NodeList": 400,
    "Name": 128,
    "Comment": 200,
}
"""Fields of ``squeue -O`` and their widths, for a Slurm without JSON. It does not tell suspensions nor single cards."""


def parse_text(text: str) -> list[Job]:
    """Return the jobs of ``squeue -h -O`` with :data:`TEXT_FIELDS`."""
    found = []
    for values in rows(text, TEXT_FIELDS):
        if not values["JobID"]:
            continue
        base, flags = _state(words(values["State"]))
        code, _colon, killed = values["exit_code"].partition(":")
        found.append(
            Job(
                job_id=values["JobID"],
                name=values["Name"],
                state=base,
                flags=flags,
                reason=values["Reason"],
                words="",
                user=values["UserName"],
                partition=values["Partition"],
                nodes=values["NodeList"],
                submitted=_digits(values["SubmitTime"]),
                start=_digits(values["StartTime"]),
                end=_digits(values["EndTime"]),
                suspended_at=0,
                ran_before=0,
                preempted_at=_digits(values["PreemptTime"]),
                restarts=_digits(values["Restartcnt"]),
                time_limit_minutes=minutes(values["TimeLimit"]),
                exit_code=None if _digits(killed) else _digits(code),
                signal=_digits(killed) or None,
                cpus=_digits(values["NumCPUs"]),
                node_count=_digits(values["NumNodes"]),
                memory_mib=_tres_memory(values["tres-alloc"]),
                gres=(),
                comment="" if values["Comment"] == "(null)" else values["Comment"],
            )
        )
    return found


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def minutes(text: str) -> int | None:
    """Return minutes of ``1-02:03:00``, ``02:03:00``, ``5:00``; None for UNLIMITED."""
    days, _dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    numbers = [int(part) for part in parts]
    hours, rest_minutes = (numbers[0], numbers[1]) if len(numbers) == 3 else (0, numbers[0])
    return (_digits(days) * 24 + hours) * 60 + rest_minutes


@dataclass(frozen=True, slots=True)
class PastJob:
    """A job of the accounting database, which outlives the controller's memory. Times as in :class:`Job`."""

    job_id: str
    name: str
    state: str
    start: int
    end: int
    exit_code: int | None
    signal: int | None


SACCT_FIELDS: Final = "JobIDRaw,State,Start,End,ExitCode,NodeList,JobName"
_NO_NODES: Final = ("", "None assigned", "None")


def parse_accounting(text: str) -> list[PastJob]:
    """Return the jobs of ``sacct -n -P -X -o`` with :data:`SACCT_FIELDS`; the same text in all versions."""
    found = []
    for line in text.splitlines():
        parts = line.split("|", 6)
        if len(parts) != 7:
            continue
        job_id, state, start, end, code, nodes, name = parts
        status, _colon, killed = code.partition(":")
        first = state.split()[0] if state.split() else ""  # "CANCELLED by 1000"
        found.append(
            PastJob(
                job_id,
                name,
                first,
                0 if nodes in _NO_NODES else _digits(start),  # one that never began has a start of its own in some versions
                _digits(end),
                None if _digits(killed) else _digits(status),
                _digits(killed) or None,
            )
        )
    return found
