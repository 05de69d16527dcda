"""What a run is asked to do: ``run.json``, read once and checked completely."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn

from tessera_lab.runner.errors import JsonValue, RunnerError

SCHEMA = 1
DEFAULT_OUTPUT_BYTES = 64 * 1024 * 1024
DEFAULT_GRACE_SECONDS = 30

_DATASET = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")

Kind = Literal["notebook", "script"]


@dataclass(frozen=True)
class Limits:
    """Bounds of a run; ``None`` means not bounded by the runner (a cgroup or the cluster may still bound it)."""

    max_seconds: int | None = None
    memory_mib: int | None = None
    output_bytes: int = DEFAULT_OUTPUT_BYTES


@dataclass(frozen=True)
class Claim:
    """How the run is claimed: ``mkdir`` in the run's directory, or ``http`` at the service or the Proxy."""

    kind: Literal["mkdir", "http"] = "mkdir"
    url: str | None = None
    token: str | None = None
    timeout_seconds: int = 120


@dataclass(frozen=True)
class RunSpecification:
    """The checked content of ``run.json``; ``entry`` is relative to ``work/`` and stays inside it."""

    run_id: str
    task_id: str
    attempt: int
    lease_token: str
    kind: Kind
    entry: PurePosixPath
    parameters: dict[str, JsonValue]
    kernel: str | None
    limits: Limits
    grace_seconds: int
    checkpoint_dir: PurePosixPath
    claim: Claim
    datasets: dict[str, PurePosixPath] = field(default_factory=dict)


def read_specification(run_dir: Path) -> RunSpecification:
    """Read and check ``run_dir/run.json``.

    Raises:
        RunnerError: ``run.invalid``; ``detail["field"]`` names what is wrong.
    """
    try:
        document = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunnerError("run.invalid", f"run.json cannot be read: {error.strerror}", {"field": "run.json"}) from error
    except ValueError as error:
        raise RunnerError("run.invalid", f"run.json is not JSON: {error}", {"field": "run.json"}) from error
    if not isinstance(document, dict):
        _refuse("run.json", "must be an object")
    if document.get("schema") != SCHEMA:
        _refuse("schema", f"must be {SCHEMA}")
    return RunSpecification(
        run_id=_text(document, "run_id"),
        task_id=_text(document, "task_id"),
        attempt=_whole(document, "attempt", 1) or 1,
        lease_token=_text(document, "lease_token"),
        kind=_kind(document),
        entry=_inside(document, "entry", None),
        parameters=_parameters(document),
        kernel=_optional_text(document, "kernel"),
        limits=_limits(document),
        grace_seconds=_whole(document, "grace_seconds", DEFAULT_GRACE_SECONDS) or 0,
        checkpoint_dir=_inside(document, "checkpoint_dir", "checkpoint"),
        claim=_claim(document),
        datasets=_datasets(document),
    )


def _refuse(field: str, problem: str) -> NoReturn:
    raise RunnerError("run.invalid", f"run.json: {field} {problem}", {"field": field})


def _text(document: dict[str, Any], field: str) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not value:
        _refuse(field, "must be a non-empty string")
    return value


def _optional_text(document: dict[str, Any], field: str) -> str | None:
    return None if document.get(field) is None else _text(document, field)


def _whole(document: dict[str, Any], field: str, default: int | None) -> int | None:
    value = document.get(field, default)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        _refuse(field, "must be a whole number, zero or more")
    return value


def _kind(document: dict[str, Any]) -> Kind:
    match document.get("kind"):
        case "notebook":
            return "notebook"
        case "script":
            return "script"
    _refuse("kind", "must be notebook or script")


def _inside(document: dict[str, Any], field: str, default: str | None) -> PurePosixPath:
    value = document.get(field) or default
    if not isinstance(value, str):
        _refuse(field, "must be a relative path")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in value:
        _refuse(field, "must be a path inside the run's folder")
    return path


def _parameters(document: dict[str, Any]) -> dict[str, JsonValue]:
    value = document.get("parameters") or {}
    if not isinstance(value, dict):
        _refuse("parameters", "must be an object")
    return value


def _datasets(document: dict[str, Any]) -> dict[str, PurePosixPath]:
    value = document.get("datasets") or {}
    if not isinstance(value, dict) or not all(isinstance(path, str) and path.startswith("/") for path in value.values()):
        _refuse("datasets", "must be an object of absolute paths")
    if not all(_DATASET.fullmatch(name) for name in value):
        _refuse("datasets", "must have names of lower-case letters, digits, '-' and '_'")
    return {name: PurePosixPath(path) for name, path in value.items()}


def _limits(document: dict[str, Any]) -> Limits:
    value = document.get("limits") or {}
    if not isinstance(value, dict):
        _refuse("limits", "must be an object")
    output_bytes = _whole(value, "output_bytes", DEFAULT_OUTPUT_BYTES)
    return Limits(
        max_seconds=_whole(value, "max_seconds", None),
        memory_mib=_whole(value, "memory_mib", None),
        output_bytes=DEFAULT_OUTPUT_BYTES if output_bytes is None else output_bytes,
    )


def _claim(document: dict[str, Any]) -> Claim:
    value = document.get("claim") or {"kind": "mkdir"}
    if not isinstance(value, dict):
        _refuse("claim", "must be an object")
    if value.get("kind") == "mkdir":
        return Claim()
    if value.get("kind") != "http":
        _refuse("claim.kind", "must be mkdir or http")
    url = _text(value, "url")
    if not url.startswith(("http://", "https://")):
        _refuse("claim.url", "must be an http or https address")
    return Claim("http", url, _optional_text(value, "token"), _whole(value, "timeout_seconds", 120) or 0)
