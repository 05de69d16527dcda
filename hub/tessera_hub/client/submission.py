"""From a file and a few words to a task: the specification, the upload of what is missing, the submit."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from pydantic import JsonValue

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.resources import Framework, Resources
from tessera_hub.schemas.tasks import InputFile, Inputs, Task, TaskKind, TaskSpec

from . import calls
from .calls import Steps
from .errors import TesseraError
from .lab import PATH_LABEL, workspace_path
from .quantities import Cards, Cores, Memory, invalid_spec, resources
from .snapshot import DEFAULT_LIMIT_BYTES, Include, Snapshot, check_notebook, chunks_of, inputs_of, survey

UPLOAD_CHUNK_BYTES: Final = 4 * 1024 * 1024
"""A blob up to this size goes in one request; a larger one in pieces of this size, each of which is kept when the next fails."""

UPLOAD_ATTEMPTS: Final = 5
"""Times an interrupted upload of one blob is taken up again where it stopped."""

HASHES_PER_CALL: Final = 1000
_NOT_READ_YET: Final = "0" * 64


class TaskOptions(TypedDict, total=False):
    """What may be said about a task besides the file."""

    name: str
    """Shown in lists; by default the file's name."""
    parameters: Mapping[str, JsonValue]
    """Values for the notebook's parameters cell."""
    cards: Cards
    """``1``, ``0.5``, ``"A100-80G:0.5"``; none by default."""
    card_model: str
    """Card class, ``A100-80G``."""
    card_memory: Memory
    """Memory on the card; by default in proportion to the share."""
    cpu: Cores
    memory: Memory
    nodes: int
    """Equal parts of a script, each with the resources above on a node of its own or beside another; 1 by default."""
    framework: Framework
    """Whose variables the parts read to find each other: ``pytorch``, ``tensorflow``, ``mpi``; ``none`` by default."""
    kind: Literal["script", "training", "finetune", "service"]
    """What lists call a script; a notebook is always one. A service runs until it is stopped, and other tasks of the tenant reach
    it at its ``progress.address``."""
    port: int
    """Where a service listens, told to it as ``TESSERA_PORT``; 8080 by default."""
    tenant: str
    queue: str
    cluster: str | Sequence[str]
    """Only on this cluster, or these."""
    environment: str
    kernel: str
    priority: int
    preemptible: bool
    policy: str
    max_run_seconds: int
    retries: int
    datasets: Sequence[str]
    """Data sets that it reads, at ``$TESSERA_DATASETS/<name>``; only clusters that have them take it."""
    variables: Mapping[str, str]
    """Environment variables of the run, never secrets."""
    labels: Mapping[str, str]
    output_folder: str
    at: datetime | str
    """Not before this moment; a time without a zone is in the zone of this machine, a text is of ISO 8601."""


class SubmitOptions(TaskOptions, total=False):
    """What may be said about a submit."""

    include: Include
    """``"notebook"`` (only the file, default), ``"folder"``, or paths relative to the file's folder."""
    idempotency_key: str
    """Two submits with the same key and content are one task; made at random by default."""


@dataclass(frozen=True)
class Submission:
    """A task ready to be sent: its snapshot, its specification without inputs, and its key."""

    snapshot: Snapshot
    spec: TaskSpec
    idempotency_key: str


def kind_of(path: Path) -> TaskKind:
    """Return the kind by the file's name: ``.ipynb`` is a notebook, anything else a script."""
    return TaskKind.NOTEBOOK if path.suffix == ".ipynb" else TaskKind.SCRIPT


def specification(entry: str, options: TaskOptions, inputs: Inputs | None = None) -> TaskSpec:
    """Return the specification of a task that runs *entry*.

    Without *inputs* the entry stands for a file not read yet, which is good for an estimate and for checking the rest.

    Raises:
        TesseraError: ``spec.…``; ``errors`` names the fields.
    """
    cluster = options.get("cluster")
    wanted: dict[str, Any] = {
        "name": options.get("name") or entry,
        "kind": options.get("kind") or kind_of(Path(entry)),
        "entry": entry,
        "inputs": inputs or Inputs(files=[InputFile(path=entry, sha256=_NOT_READ_YET, size=0)]),
        "parameters": dict(options.get("parameters") or {}),
        "clusters": [cluster] if isinstance(cluster, str) else list(cluster) if cluster is not None else None,
        "roles": [{"replicas": options.get("nodes", 1), "resources": _resources_of(options)}],
        "datasets": list(options.get("datasets") or ()),
        "lifecycle": {"max_run_seconds": options.get("max_run_seconds"), "retries": options.get("retries", 0)},
    }
    if (at := options.get("at")) is not None:
        wanted["schedule"] = {"at": _moment(at)}
    for same in (
        "tenant",
        "queue",
        "environment",
        "kernel",
        "port",
        "priority",
        "preemptible",
        "policy",
        "framework",
        "output_folder",
    ):
        if (value := options.get(same)) is not None:
            wanted[same] = value
    for name, mapping in (("variables", options.get("variables")), ("labels", options.get("labels"))):
        if mapping is not None:
            wanted[name] = dict(mapping)
    try:
        return TaskSpec.model_validate(wanted)
    except ValueError as error:
        raise invalid_spec(error) from error


def _moment(at: datetime | str) -> datetime:
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError as error:
        hint = _("Write it like 2026-12-01T02:00 or 2026-12-01T02:00+08:00.")
        raise TesseraError("spec.at", _("{value} is not a time.", value=repr(at)), hint) from error
    return moment if moment.tzinfo is not None else moment.astimezone()


def _resources_of(options: TaskOptions) -> Resources:
    return resources(
        options.get("cpu"), options.get("memory"), options.get("cards"), options.get("card_model"), options.get("card_memory")
    )


def prepare(path: str | os.PathLike[str], options: SubmitOptions, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Submission:
    """Look at the files and check the description, without any request.

    Raises:
        TesseraError: ``snapshot.…``, ``notebook.invalid`` or ``spec.…``.
    """
    entry = Path(path).expanduser()
    snapshot = survey(entry, options.get("include", "notebook"), limit_bytes)
    if entry.suffix == ".ipynb":
        check_notebook(entry)
    labels = dict(options.get("labels") or {})
    if (place := workspace_path(entry)) is not None:
        labels.setdefault(PATH_LABEL, place)
    described: SubmitOptions = {**options, "labels": labels}
    return Submission(
        snapshot,
        specification(snapshot.entry, described),
        options.get("idempotency_key") or uuid.uuid4().hex,
    )


def send(submission: Submission) -> Steps[Task]:
    """Upload what the service lacks, then submit.

    Raises:
        TesseraError: as the service refuses, or ``snapshot.changed`` when a file was changed meanwhile.
    """
    inputs, sources = inputs_of(submission.snapshot)
    try:
        spec = submission.spec.model_copy(update={"inputs": inputs})
        spec = TaskSpec.model_validate(spec.model_dump())
    except ValueError as error:
        raise invalid_spec(error) from error
    sizes = {file.sha256: file.size for file in inputs.files}
    yield from upload(sources, sizes, spec.tenant)
    task: Task = yield calls.submit(spec, submission.idempotency_key)
    return task


def upload(sources: Mapping[str, Path], sizes: Mapping[str, int], tenant: str | None) -> Steps[None]:
    """Send the files whose bytes the tenant's store lacks. An upload that was cut off before goes on where it stopped."""
    hashes = sorted(sources)
    for start in range(0, len(hashes), HASHES_PER_CALL):
        missing: list[str] = yield calls.missing_blobs(hashes[start : start + HASHES_PER_CALL], tenant)
        for sha256 in missing:
            try:
                yield from _upload_blob(sources[sha256], sha256, sizes[sha256], tenant)
            except TesseraError as error:
                if error.code != "blob.hash_mismatch":
                    raise
                raise TesseraError(
                    "snapshot.changed",
                    _("{path} was changed while it was sent.", path=sources[sha256]),
                    _("Submit again when nothing writes to it."),
                    error.status,
                ) from error


def _upload_blob(path: Path, sha256: str, size: int, tenant: str | None) -> Steps[None]:
    if size <= UPLOAD_CHUNK_BYTES:
        try:
            yield calls.put_blob(sha256, b"".join(chunks_of(path, 0, UPLOAD_CHUNK_BYTES)), tenant)
            return
        except TesseraError as error:
            # A part of it arrived earlier: go on behind that.
            if error.status != 409:
                raise
    for attempt in range(1, UPLOAD_ATTEMPTS + 1):
        offset: int = yield calls.blob_offset(sha256, tenant)
        try:
            for chunk in chunks_of(path, offset, UPLOAD_CHUNK_BYTES):
                yield calls.append_blob(sha256, chunk, offset, size, tenant)
                offset += len(chunk)
            return
        except TesseraError as error:
            # Cut off, or another upload of the same bytes is ahead: ask how far it is and go on from there.
            interrupted = error.code in ("service.unreachable", "service.unavailable") or error.status == 409
            if not interrupted or attempt == UPLOAD_ATTEMPTS:
                raise
