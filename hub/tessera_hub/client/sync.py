"""The blocking client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack
from uuid import UUID

import httpx
from httpx_sse import connect_sse

from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_hub.schemas.capacity import ClusterCapacity, DatasetView, Environment, Estimate, Me, Queue
from tessera_hub.schemas.tasks import OutputFile, Phase, Task, TaskDetail, TaskEvent, TaskSpec

from . import calls
from .calls import Call, DryRun, Steps
from .connection import CONNECT_RETRIES, RETRY_STATUS, find_connection, pause_for, request_headers, retry_pauses
from .download import Arrival, already_there, target_of
from .errors import TesseraError, error_of_response, error_of_transport
from .following import (
    LOG_PAUSE_SECONDS,
    RECONNECT_SECONDS,
    STREAM_SILENCE_SECONDS,
    WAIT_SECONDS,
    LogReader,
    TaskUpdate,
    Watch,
    update_of,
)
from .frames import capacity_frame, events_frame, queues_frame, tasks_frame
from .lab import spoken_language
from .listing import CostOfMonth, CostOfTask, Costs, Listing, all_pages
from .recurring import Schedules
from .snapshot import DEFAULT_LIMIT_BYTES
from .submission import Submission, SubmitOptions, TaskOptions, prepare, send, specification

T = TypeVar("T")


class TesseraClient:
    """Talks to a Tessera service.

    Args:
        url: public address of the service; by default ``TESSERA_URL``, then what ``tessera login`` stored.
        token: hub token; by default ``TESSERA_TOKEN``, ``JUPYTERHUB_API_TOKEN``, then what ``tessera login`` stored.
        speak: language of messages, ``en`` or ``zh_CN``; by default JupyterLab's in its kernels, else the terminal's.
        timeout_seconds: for one request, not for a transfer of a file.
        snapshot_limit_bytes: largest snapshot that is sent.
        transport: for tests, or a proxy with special needs.

    Raises:
        TesseraError: ``client.not_configured``, no address or token is known.

    A client may be used by several threads. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        speak: str | None = None,
        timeout_seconds: float = 30.0,
        snapshot_limit_bytes: int = DEFAULT_LIMIT_BYTES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.speak = speak or spoken_language()
        with language(self.speak):
            self.connection = find_connection(url, token)
        self.snapshot_limit_bytes = snapshot_limit_bytes
        self.schedules = Schedules(self)
        self._http = httpx.Client(
            headers=request_headers(self.connection, self.speak),
            timeout=timeout_seconds,
            transport=transport or httpx.HTTPTransport(retries=CONNECT_RETRIES),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Send one call by the retry rule and read its answer.

        Raises:
            TesseraError: a refusal of the service, or no answer.
        """
        with language(self.speak):
            return self._send(call)

    def run(self, steps: Steps[T]) -> T:
        """Go through *steps*, sending each call."""
        with language(self.speak):
            try:
                call = next(steps)
                while True:
                    try:
                        answer = self._send(call)
                    except TesseraError as error:
                        call = steps.throw(error)
                    else:
                        call = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # the steps' own result

    def _send(self, call: Call[T]) -> T:
        pauses = retry_pauses() if call.repeatable else iter(())
        url = self.connection.api + call.path
        while True:
            try:
                response = self._http.request(
                    call.method,
                    url,
                    params=dict(call.query),
                    json=call.body,
                    content=call.content,
                    headers=dict(call.headers),
                )
            except RuntimeError as error:
                # httpx has no type of its own for it; another thread may close the client at any moment.
                if not self._http.is_closed:
                    raise
                raise TesseraError("client.closed", _("This client is closed.")) from error
            except httpx.TransportError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error_of_transport(error, self.connection.url) from error
            else:
                if response.is_success or response.status_code in call.accepted:
                    return call.read(response)
                pause = next(pauses, None) if response.status_code in RETRY_STATUS else None
                if pause is None:
                    raise error_of_response(response)
                pause = pause_for(response, pause)
            time.sleep(pause)

    def me(self) -> Me:
        """Who the service says you are: tenants, scopes, currency."""
        return self.call(calls.me())

    def datasets(self) -> list[DatasetView]:
        """Data sets that your tenants may read, and where they exist."""
        return self.call(calls.datasets())

    def environments(self) -> list[Environment]:
        """Software environments and where they exist."""
        return self.call(calls.environments())

    def capacity(self) -> Listing[ClusterCapacity]:
        """What is free where, and its price."""
        return Listing(self.call(calls.capacity()), capacity_frame)

    def queues(self) -> Listing[Queue]:
        """Queues you may see, with quota lines."""
        return Listing(self.call(calls.queues()), queues_frame)

    def estimate(self, path: str = "task.ipynb", **options: Unpack[TaskOptions]) -> Estimate:
        """What a task would cost, and when it would start; the file is neither read nor sent."""
        with language(self.speak):
            spec = specification(Path(path).name, options)
        return self.call(calls.estimate(spec))

    def submit(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> TaskHandle:
        """Run a notebook or script as a task on a snapshot of its files. Options: :class:`SubmitOptions`.

        Raises:
            TesseraError: refused here (``snapshot.…``, ``notebook.…``, ``spec.…``) or by the service.
        """
        with language(self.speak):
            submission = prepare(path, options, self.snapshot_limit_bytes)
        return self.submit_prepared(submission)

    def submit_prepared(self, submission: Submission) -> TaskHandle:
        """Send what :func:`tessera_hub.client.prepare` made; a repeat of the same submission is the same task."""
        return TaskHandle(self, self.run(send(submission)))

    def dry_run(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> DryRun:
        """Check everything that :meth:`submit` does, here and at the service, and start nothing; no file is sent."""
        with language(self.speak):
            submission = prepare(path, options, self.snapshot_limit_bytes)
        return self.call(calls.dry_run(submission.spec))

    def submit_spec(self, spec: TaskSpec, idempotency_key: str) -> TaskHandle:
        """Submit a complete specification whose blobs are uploaded already."""
        return TaskHandle(self, self.call(calls.submit(spec, idempotency_key)))

    def task(self, identifier: UUID | str) -> TaskHandle:
        """A task by its id."""
        detail = self.call(calls.task(identifier)).value
        assert detail is not None  # no ETag was given, so the answer has a body
        return TaskHandle(self, detail)

    def tasks(
        self,
        *,
        phase: Sequence[str] | None = None,
        kind: str | None = None,
        tenant: str | None = None,
        mine: bool | None = None,
        search: str | None = None,
        limit: int | None = 200,
    ) -> Listing[TaskHandle]:
        """Tasks you may see, newest first; ``limit`` None fetches all."""

        def page(cursor: str | None, size: int) -> Call[Any]:
            return calls.tasks(phase=phase, kind=kind, tenant=tenant, mine=mine, q=search, limit=size, cursor=cursor)

        found = self.run(all_pages(page, limit))
        return Listing((TaskHandle(self, task) for task in found), lambda handles: tasks_frame(h.task for h in handles))

    def costs(
        self,
        by: str = "day",
        *,
        start: str | None = None,
        end: str | None = None,
        tenant: str | None = None,
        mine: bool | None = None,
    ) -> Costs:
        """Cost by ``day``, ``task``, ``resource`` or ``person``; ``start`` and ``end`` are ISO 8601 times or days."""
        table = self.call(calls.costs(by, start=start, end=end, tenant=tenant, mine=mine))
        return Costs.model_construct(**dict(table))

    def month_bill(self, tenant: str, month: str, time_zone: str | None = None) -> CostOfMonth:
        """A tenant's bill of a month, ``2026-11``."""
        return CostOfMonth.model_construct(**dict(self.call(calls.month_bill(tenant, month, time_zone))))

    def events(self) -> Iterator[tuple[str, str]]:
        """Event name and JSON text of everything you may see, for ever; reconnects by itself."""
        for event in _stream(self, "/events", lambda: False):
            yield event.event, event.data

    def fetch(self, path: str, arrival: Arrival) -> None:
        """Receive the rest of a file into *arrival*."""
        headers = {"Range": f"bytes={arrival.offset}-"} if arrival.offset else {}
        try:
            with self._http.stream("GET", self.connection.api + path, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise error_of_response(response)
                if arrival.offset and response.status_code != 206:
                    arrival.restart()
                for chunk in response.iter_bytes():
                    arrival.write(chunk)
        except httpx.TransportError as error:
            raise error_of_transport(error, self.connection.url) from error

    def open_stream(self, path: str, last_event_id: str) -> Any:
        """Open an event stream; a context manager of an httpx-sse event source."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = httpx.Timeout(30.0, read=STREAM_SILENCE_SECONDS)
        return connect_sse(self._http, "GET", self.connection.api + path, headers=headers, timeout=timeout)


def _stream(client: TesseraClient, path: str, done: Any) -> Iterator[Any]:
    """Yield events; after a break go on behind the last one until *done* says so."""
    last = ""
    pauses = chain(RECONNECT_SECONDS, repeat(RECONNECT_SECONDS[-1]))
    while not done():
        try:
            with client.open_stream(path, last) as source:
                if source.response.is_error:
                    source.response.read()
                    error = error_of_response(source.response)
                    if source.response.status_code not in RETRY_STATUS:
                        raise error
                else:
                    for event in source.iter_sse():
                        last = event.id or last
                        pauses = chain(RECONNECT_SECONDS, repeat(RECONNECT_SECONDS[-1]))
                        yield event
        except httpx.TransportError:
            pass
        if not done():
            time.sleep(next(pauses))


class TaskHandle:
    """One task. ``task`` is its state as last seen; :meth:`refresh` asks again."""

    def __init__(self, client: TesseraClient, task: Task) -> None:
        self.client = client
        self.task = task

    def __repr__(self) -> str:
        return f"<task {self.id} {self.task.name!r} {self.task.phase}>"

    @property
    def id(self) -> UUID:
        """The task's id."""
        return self.task.id

    @property
    def phase(self) -> Phase:
        """Phase as last seen."""
        return self.task.phase

    def refresh(self) -> TaskDetail:
        """Ask for the state now."""
        detail = self.client.call(calls.task(self.id)).value
        assert detail is not None  # no ETag was given, so the answer has a body
        self.task = detail
        return detail

    def wait(self, timeout_seconds: float | None = None) -> Task:
        """Wait until the task has ended, however it ends.

        Raises:
            TimeoutError: it has not ended in time; the task goes on.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        watch = Watch(self.id)
        for pause in chain(WAIT_SECONDS, repeat(WAIT_SECONDS[-1])):
            self.task = self.client.run(watch.look()) or self.task
            if self.task.phase.final:
                return self.task
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"task {self.id} is {self.task.phase} after {timeout_seconds} s")
            time.sleep(left)
        raise AssertionError  # the pauses never end

    def cancel(self) -> Task:
        """End the task with its grace period; a finished one stays as it is."""
        self.task = self.client.call(calls.cancel(self.id))
        return self.task

    def retry(self) -> Task:
        """Run a finished task again as a new attempt."""
        self.task = self.client.call(calls.retry(self.id))
        return self.task

    def follow(self) -> Iterator[TaskUpdate]:
        """Yield what changes until the task has ended; survives breaks of the connection."""
        for event in _stream(self.client, f"/tasks/{self.id}/follow", lambda: False):
            update = update_of(event)
            if update is None:
                continue
            if update.task is not None:
                self.task = update.task
            yield update
            if update.final:
                return

    def logs(self, *, follow: bool = False, stream: str = "output", run: UUID | None = None) -> Iterator[str]:
        """Yield the log as text; with *follow* until the task has ended and its log is complete."""
        reader = LogReader(self.id, stream, run=run)
        while True:
            text = self.client.run(reader.read())
            if text:
                yield text
                continue
            if reader.final or not follow:
                return
            time.sleep(LOG_PAUSE_SECONDS)

    def notebook(self) -> dict[str, Any]:
        """The executed notebook so far, as JSON of format 4."""
        return self.client.call(calls.notebook(self.id)).value or {}

    def outputs(self) -> list[OutputFile]:
        """Files that the task gave back."""
        return self.client.call(calls.outputs(self.id))

    def download(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Save all outputs below *folder* and return where they are; an existing other file keeps its name."""
        places = []
        for output in self.outputs():
            target = target_of(Path(folder), output)
            if not already_there(target, output):
                with Arrival(target, output) as arrival:
                    if not arrival.complete:
                        self.client.fetch(calls.output_path(self.id, output.sha256), arrival)
                    target = arrival.publish()
            places.append(target)
        return places

    def bill(self) -> CostOfTask:
        """What the task cost so far."""
        return CostOfTask.model_construct(**dict(self.client.call(calls.task_bill(self.id))))

    def events(self) -> Listing[TaskEvent]:
        """What happened, oldest first."""
        return Listing(self.client.call(calls.events(self.id)), events_frame)

    def decision(self) -> Any:
        """Why the task was placed where it is, or not yet."""
        return self.client.call(calls.decision(self.id))
