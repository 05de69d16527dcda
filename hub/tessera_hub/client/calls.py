"""Every request of the API once, as data: the two clients only differ in how they send it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel, TypeAdapter

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bills import CostTable, MonthBill, TaskBill
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.capacity import ClusterCapacity, DatasetView, Environment, Estimate, Me, Queue
from tessera_hub.schemas.prices import NewPrice, Price
from tessera_hub.schemas.tasks import OutputFile, Task, TaskDetail, TaskEvent, TaskPage, TaskSpec
from tessera_hub.schemas.workspaces import Idleness

from .errors import TesseraError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """One request and how to read its answer.

    ``path`` is relative to the API's base. ``repeatable`` says that a second sending has no further effect, so the retry
    rule of :mod:`~tessera_hub.client.connection` applies. ``accepted`` are statuses besides 2xx that are answers, not errors.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T_co]
    query: Query = field(default_factory=dict)
    body: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    accepted: frozenset[int] = frozenset()


Query = Mapping[str, str | list[str]]

Steps = Generator[Call[Any], Any, T]
"""Several calls in a row: yields each, is sent its answer, returns the result."""


def reader(model: type[T]) -> Callable[[httpx.Response], T]:
    """Return a function that reads *model* from an answer; fields of a newer service are ignored.

    Raises (the function):
        TesseraError: ``service.answer``, the answer is of another form.
    """
    adapter = TypeAdapter(model)

    def read(response: httpx.Response) -> T:
        try:
            return adapter.validate_json(response.content, extra="ignore", context=STORED)
        except ValueError as error:
            raise TesseraError(
                "service.answer",
                _("The answer of {path} is not what this client understands.", path=response.request.url.path),
                _("Check that the address is Tessera's, and that client and service are of the same version."),
                response.status_code,
            ) from error

    return read


def part(text: str | int | UUID) -> str:
    """Quote *text* as one part of a path."""
    return quote(str(text), safe="")


def query_of(**values: object) -> Query:
    """Return the values that are given; truth values become ``true`` and ``false``, a list repeats the name."""
    return {
        name: str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, (list, tuple)) else str(value)
        for name, value in values.items()
        if value is not None
    }


def _nothing(_response: httpx.Response) -> None:
    return None


def _json(response: httpx.Response) -> Any:
    return response.json() if response.content else None


_read_me = reader(Me)
_read_task = reader(Task)
_read_detail = reader(TaskDetail)
_read_page = reader(TaskPage)
_read_estimate = reader(Estimate)
_read_environments = reader(list[Environment])
_read_datasets = reader(list[DatasetView])
_read_capacity = reader(list[ClusterCapacity])
_read_queues = reader(list[Queue])
_read_queue = reader(Queue)
_read_events = reader(list[TaskEvent])
_read_outputs = reader(list[OutputFile])
_read_task_bill = reader(TaskBill)
_read_month_bill = reader(MonthBill)
_read_costs = reader(CostTable)
_read_prices = reader(list[Price])
_read_price = reader(Price)
_read_idleness = reader(Idleness)


def me() -> Call[Me]:
    """Who the service says the caller is."""
    return Call("GET", "/me", _read_me)


def datasets() -> Call[list[DatasetView]]:
    """Data sets."""
    return Call("GET", "/datasets", _read_datasets)


def environments() -> Call[list[Environment]]:
    """Software environments."""
    return Call("GET", "/environments", _read_environments)


def capacity() -> Call[list[ClusterCapacity]]:
    """What is free where, and its price."""
    return Call("GET", "/capacity", _read_capacity)


def report_activity(workspace: str, idle_seconds: int) -> Call[Idleness]:
    """Tell since when nothing works in a workspace, and learn whether it is to be stopped."""
    return Call("POST", f"/workspaces/{workspace}/activity", _read_idleness, body={"idle_seconds": idle_seconds})


def queues() -> Call[list[Queue]]:
    """Queues the caller may see."""
    return Call("GET", "/queues", _read_queues)


def queue(identifier: int) -> Call[Queue]:
    """One queue."""
    return Call("GET", f"/queues/{part(identifier)}", _read_queue)


def estimate(spec: TaskSpec) -> Call[Estimate]:
    """What *spec* would cost and when it would start."""
    return Call("POST", "/estimate", _read_estimate, body=_body(spec))


def submit(spec: TaskSpec, idempotency_key: str) -> Call[Task]:
    """Submit; a repeat with the same key is the same task."""
    return Call("POST", "/tasks", _read_task, body=_body(spec), headers={"Idempotency-Key": idempotency_key})


class DryRun(BaseModel):
    """What a submit would do: the specification as the service understands it, and its estimate."""

    spec: TaskSpec
    estimate: Estimate


_read_dry_run = reader(DryRun)


def dry_run(spec: TaskSpec) -> Call[DryRun]:
    """Check a specification as a submit does; nothing is stored, files are not looked at."""
    return Call("POST", "/tasks", _read_dry_run, query_of(dry_run=True), body=_body(spec))


def tasks(
    *,
    phase: Sequence[str] | None = None,
    kind: str | None = None,
    tenant: str | None = None,
    mine: bool | None = None,
    q: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[TaskPage]:
    """One page of tasks, newest first."""
    return Call(
        "GET", "/tasks", _read_page, query_of(phase=phase, kind=kind, tenant=tenant, mine=mine, q=q, limit=limit, cursor=cursor)
    )


@dataclass(frozen=True)
class Versioned(Generic[T]):
    """An answer with its ETag; ``value`` is None when it has not changed since the tag given."""

    value: T | None
    etag: str | None


def _versioned(read: Callable[[httpx.Response], T]) -> Callable[[httpx.Response], Versioned[T]]:
    def versioned(response: httpx.Response) -> Versioned[T]:
        return Versioned(None if response.status_code == 304 else read(response), response.headers.get("ETag"))

    return versioned


def task(identifier: UUID | str, etag: str | None = None) -> Call[Versioned[TaskDetail]]:
    """A task with its runs; nothing if it is still as *etag* says."""
    headers = {"If-None-Match": etag} if etag else {}
    return Call("GET", f"/tasks/{part(identifier)}", _versioned(_read_detail), headers=headers, accepted=frozenset({304}))


def cancel(identifier: UUID | str) -> Call[Task]:
    """End a task, with its grace period."""
    return Call("POST", f"/tasks/{part(identifier)}/cancel", _read_task)


def retry(identifier: UUID | str) -> Call[Task]:
    """Run a finished task again. Not repeatable: each call is a new run."""
    return Call("POST", f"/tasks/{part(identifier)}/retry", _read_task, repeatable=False)


def events(identifier: UUID | str) -> Call[list[TaskEvent]]:
    """What happened to a task."""
    return Call("GET", f"/tasks/{part(identifier)}/events", _read_events)


def task_bill(identifier: UUID | str) -> Call[TaskBill]:
    """What a task cost so far."""
    return Call("GET", f"/tasks/{part(identifier)}/bill", _read_task_bill)


def decision(identifier: UUID | str) -> Call[Any]:
    """Why the task is placed where it is, or not yet."""
    return Call("GET", f"/tasks/{part(identifier)}/decision", _json)


def notebook(identifier: UUID | str, etag: str | None = None) -> Call[Versioned[dict[str, Any]]]:
    """The executed notebook so far."""
    headers = {"If-None-Match": etag} if etag else {}
    return Call("GET", f"/tasks/{part(identifier)}/notebook", _versioned(_json), headers=headers, accepted=frozenset({304}))


def outputs(identifier: UUID | str) -> Call[list[OutputFile]]:
    """Files that the task gave back."""
    return Call("GET", f"/tasks/{part(identifier)}/outputs", _read_outputs)


def output_path(identifier: UUID | str, sha256: str) -> str:
    """Path of the bytes of one output."""
    return f"/tasks/{part(identifier)}/outputs/{part(sha256)}"


@dataclass(frozen=True)
class LogPiece:
    """Bytes of a log from ``offset`` on; ``end`` is the log's length now, ``final`` whether it can still grow."""

    data: bytes
    offset: int
    end: int
    final: bool


def log(
    identifier: UUID | str, stream: str = "output", offset: int = 0, limit: int | None = None, run: UUID | None = None
) -> Call[LogPiece]:
    """A piece of a log."""

    def read(response: httpx.Response) -> LogPiece:
        start = int(response.headers.get("X-Log-Offset", offset))
        end = int(response.headers.get("X-Log-End", start + len(response.content)))
        return LogPiece(response.content, start, end, response.headers.get("X-Log-Final", "false") == "true")

    return Call("GET", f"/tasks/{part(identifier)}/logs/{part(stream)}", read, query_of(offset=offset, limit=limit, run=run))


def missing_blobs(hashes: list[str], tenant: str | None) -> Call[list[str]]:
    """Which of *hashes* the tenant's store lacks."""

    def read(response: httpx.Response) -> list[str]:
        return [str(sha256) for sha256 in response.json()["missing"]]

    return Call("POST", "/blobs/missing", read, query_of(tenant=tenant), body={"sha256": hashes})


def blob_offset(sha256: str, tenant: str | None) -> Call[int]:
    """How many bytes of a blob have arrived."""

    def read(response: httpx.Response) -> int:
        return 0 if response.status_code == 404 else int(response.headers.get("Upload-Offset", 0))

    return Call("HEAD", f"/blobs/{part(sha256)}", read, query_of(tenant=tenant), accepted=frozenset({404}))


def put_blob(sha256: str, content: bytes, tenant: str | None) -> Call[None]:
    """A whole small blob at once."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call("PUT", f"/blobs/{part(sha256)}", _nothing, query_of(tenant=tenant), content=content, headers=headers)


def append_blob(sha256: str, content: bytes, offset: int, size: int, tenant: str | None) -> Call[None]:
    """The next bytes of a blob of *size* bytes. Not repeatable blindly: whether they arrived is asked by :func:`blob_offset`."""
    headers = {"Content-Type": "application/octet-stream", "Upload-Offset": str(offset), "Upload-Length": str(size)}
    return Call(
        "PATCH",
        f"/blobs/{part(sha256)}",
        _nothing,
        query_of(tenant=tenant, size=size),
        content=content,
        headers=headers,
        repeatable=False,
    )


def month_bill(tenant: str, month: str, time_zone: str | None = None) -> Call[MonthBill]:
    """A tenant's bill of a month, ``YYYY-MM``."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise TesseraError("bill.month", _("{value} is not a month.", value=repr(month)), _("Write it like 2026-11."))
    return Call("GET", f"/bills/{part(tenant)}/{month}", _read_month_bill, query_of(tz=time_zone))


def costs(
    by: str, *, start: str | None = None, end: str | None = None, tenant: str | None = None, mine: bool | None = None
) -> Call[CostTable]:
    """Cost grouped by ``day``, ``task``, ``resource`` or ``person``."""
    return Call("GET", "/costs", _read_costs, query_of(by=by, start=start, end=end, tenant=tenant, mine=mine))


def clusters() -> Call[list[dict[str, Any]]]:
    """Clusters as an operator sees them."""
    return Call("GET", "/clusters", _json)


def cluster(name: str) -> Call[dict[str, Any]]:
    """One cluster as an operator sees it, with its inventory."""
    return Call("GET", f"/clusters/{part(name)}", _json)


def add_cluster(name: str, *, workspaces: bool = False, tenants: list[str] | None = None) -> Call[dict[str, Any]]:
    """Register a cluster; the answer has its bootstrap token, once."""
    body = {"name": name, "workspaces": workspaces, "tenants": tenants}
    return Call("POST", "/clusters", _json, body=body, repeatable=False)


def change_cluster(name: str, **changes: Any) -> Call[dict[str, Any]]:
    """Change ``draining``, ``workspaces`` or ``tenants`` of a cluster."""
    return Call("PATCH", f"/clusters/{part(name)}", _json, body=changes)


def remove_cluster(name: str) -> Call[None]:
    """Remove a cluster that has no runs."""
    return Call("DELETE", f"/clusters/{part(name)}", _nothing)


def prices() -> Call[list[Price]]:
    """Price versions that hold for the caller; all of them for an operator."""
    return Call("GET", "/prices", _read_prices)


def add_price(new: NewPrice) -> Call[Price]:
    """Add a version of a price."""
    return Call("POST", "/prices", _read_price, body=_body(new), repeatable=False)


def add_queue(parent: int, name: str) -> Call[Queue]:
    """Create a queue below another one."""
    return Call("POST", "/queues", _read_queue, body={"parent": parent, "name": name}, repeatable=False)


def change_queue(identifier: int, **changes: Any) -> Call[Queue]:
    """Change ``state``, ``policy``, ``priority`` or ``quota`` of a queue."""
    return Call("PUT", f"/queues/{identifier}", _read_queue, body=changes)


def _body(model: BaseModel) -> Any:
    return model.model_dump(mode="json", exclude_none=True)
