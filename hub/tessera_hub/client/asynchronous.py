"""The client for asyncio: the methods of the blocking one as coroutines, over the same calls and steps."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, Self, TypeVar, Unpack
from uuid import UUID

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

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
from .recurring import AsyncSchedules
from .snapshot import DEFAULT_LIMIT_BYTES
from .submission import Submission, SubmitOptions, TaskOptions, prepare, send, specification

T = TypeVar("T")

_END: Final = object()


class AsyncTesseraClient:
    """Talks to a Tessera service; arguments and errors as in :class:`~tessera_hub.client.TesseraClient`.

    Reading and hashing files happens in a thread, so the event loop stays free. Use it as an asynchronous context manager, or
    await :meth:`close`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        speak: str | None = None,
        timeout_seconds: float = 30.0,
        snapshot_limit_bytes: int = DEFAULT_LIMIT_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.speak = speak or spoken_language()
        with language(self.speak):
            self.connection = find_connection(url, token)
        self.snapshot_limit_bytes = snapshot_limit_bytes
        self.schedules = AsyncSchedules(self)
        self.http = httpx.AsyncClient(
            headers=request_headers(self.connection, self.speak),
            timeout=timeout_seconds,
            transport=transport or httpx.AsyncHTTPTransport(retries=CONNECT_RETRIES),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Send one call by the retry rule and read its answer."""
        with language(self.speak):
            return await self._send(call)

    async def run(self, steps: Steps[T]) -> T:
        """Go through *steps*, sending each call; what happens between the calls runs in a thread."""
        with language(self.speak):
            result: list[T] = []

            def advance(move: Callable[[], Call[Any]]) -> Any:
                try:
                    return move()
                except StopIteration as end:
                    # StopIteration cannot pass through a future.
                    result.append(end.value)
                    return _END

            call = await asyncio.to_thread(advance, partial(next, steps))
            while call is not _END:
                try:
                    answer = await self._send(call)
                except TesseraError as error:
                    call = await asyncio.to_thread(advance, partial(steps.throw, error))
                else:
                    call = await asyncio.to_thread(advance, partial(steps.send, answer))
            return result[0]

    async def _send(self, call: Call[T]) -> T:
        pauses = retry_pauses() if call.repeatable else iter(())
        url = self.connection.api + call.path
        while True:
            try:
                response = await self.http.request(
                    call.method,
                    url,
                    params=dict(call.query),
                    json=call.body,
                    content=call.content,
                    headers=dict(call.headers),
                )
            except RuntimeError as error:
                # httpx has no type of its own for it; another thread may close the client at any moment.
                if not self.http.is_closed:
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
            await asyncio.sleep(pause)

    async def me(self) -> Me:
        """Who the service says you are: tenants, scopes, currency."""
        return await self.call(calls.me())

    async def datasets(self) -> list[DatasetView]:
        """Data sets that your tenants may read, and where they exist."""
        return await self.call(calls.datasets())

    async def environments(self) -> list[Environment]:
        """Software environments and where they exist."""
        return await self.call(calls.environments())

    async def capacity(self) -> Listing[ClusterCapacity]:
        """What is free where, and its price."""
        return Listing(await self.call(calls.capacity()), capacity_frame)

    async def queues(self) -> Listing[Queue]:
        """Queues you may see, with quota lines."""
        return Listing(await self.call(calls.queues()), queues_frame)

    async def estimate(self, path: str = "task.ipynb", **options: Unpack[TaskOptions]) -> Estimate:
        """What a task would cost, and when it would start; the file is neither read nor sent."""
        with language(self.speak):
            spec = specification(Path(path).name, options)
        return await self.call(calls.estimate(spec))

    async def submit(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> AsyncTaskHandle:
        """Run a notebook or script as a task on a snapshot of its files. Options: :class:`SubmitOptions`."""
        with language(self.speak):
            submission = await asyncio.to_thread(prepare, path, options, self.snapshot_limit_bytes)
        return await self.submit_prepared(submission)

    async def submit_prepared(self, submission: Submission) -> AsyncTaskHandle:
        """Send what :func:`tessera_hub.client.prepare` made; a repeat of the same submission is the same task."""
        return AsyncTaskHandle(self, await self.run(send(submission)))

    async def dry_run(self, path: str | os.PathLike[str], **options: Unpack[SubmitOptions]) -> DryRun:
        """Check everything that :meth:`submit` does, here and at the service, and start nothing; no file is sent."""
        with language(self.speak):
            submission = await asyncio.to_thread(prepare, path, options, self.snapshot_limit_bytes)
        return await self.call(calls.dry_run(submission.spec))

    async def submit_spec(self, spec: TaskSpec, idempotency_key: str) -> AsyncTaskHandle:
        """Submit a complete specification whose blobs are uploaded already."""
        return AsyncTaskHandle(self, await self.call(calls.submit(spec, idempotency_key)))

    async def task(self, identifier: UUID | str) -> AsyncTaskHandle:
        """A task by its id."""
        detail = (await self.call(calls.task(identifier))).value
        assert detail is not None  # no ETag was given, so the answer has a body
        return AsyncTaskHandle(self, detail)

    async def tasks(
        self,
        *,
        phase: Sequence[str] | None = None,
        kind: str | None = None,
        tenant: str | None = None,
        mine: bool | None = None,
        search: str | None = None,
        limit: int | None = 200,
    ) -> Listing[AsyncTaskHandle]:
        """Tasks you may see, newest first; ``limit`` None fetches all."""

        def page(cursor: str | None, size: int) -> Call[Any]:
            return calls.tasks(phase=phase, kind=kind, tenant=tenant, mine=mine, q=search, limit=size, cursor=cursor)

        found = await self.run(all_pages(page, limit))
        return Listing((AsyncTaskHandle(self, task) for task in found), lambda handles: tasks_frame(h.task for h in handles))

    async def costs(
        self,
        by: str = "day",
        *,
        start: str | None = None,
        end: str | None = None,
        tenant: str | None = None,
        mine: bool | None = None,
    ) -> Costs:
        """Cost by ``day``, ``task``, ``resource`` or ``person``; ``start`` and ``end`` are ISO 8601 times or days."""
        table = await self.call(calls.costs(by, start=start, end=end, tenant=tenant, mine=mine))
        return Costs.model_construct(**dict(table))

    async def month_bill(self, tenant: str, month: str, time_zone: str | None = None) -> CostOfMonth:
        """A tenant's bill of a month, ``2026-11``."""
        return CostOfMonth.model_construct(**dict(await self.call(calls.month_bill(tenant, month, time_zone))))

    async def events(self) -> AsyncIterator[tuple[str, str]]:
        """Event name and JSON text of everything you may see, for ever; reconnects by itself."""
        async for event in self.stream("/events", lambda: False):
            yield event.event, event.data

    async def fetch(self, path: str, arrival: Arrival) -> None:
        """Receive the rest of a file into *arrival*."""
        headers = {"Range": f"bytes={arrival.offset}-"} if arrival.offset else {}
        try:
            async with self.http.stream("GET", self.connection.api + path, headers=headers) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_of_response(response)
                if arrival.offset and response.status_code != 206:
                    arrival.restart()
                async for chunk in response.aiter_bytes():
                    arrival.write(chunk)
        except httpx.TransportError as error:
            raise error_of_transport(error, self.connection.url) from error

    async def stream(self, path: str, done: Callable[[], bool]) -> AsyncIterator[ServerSentEvent]:
        """Yield events; after a break go on behind the last one until *done* says so."""
        last = ""
        pauses = chain(RECONNECT_SECONDS, repeat(RECONNECT_SECONDS[-1]))
        timeout = httpx.Timeout(30.0, read=STREAM_SILENCE_SECONDS)
        while not done():
            headers = {"Last-Event-ID": last} if last else {}
            try:
                async with aconnect_sse(self.http, "GET", self.connection.api + path, headers=headers, timeout=timeout) as source:
                    if source.response.is_error:
                        await source.response.aread()
                        if source.response.status_code not in RETRY_STATUS:
                            raise error_of_response(source.response)
                    else:
                        async for event in source.aiter_sse():
                            last = event.id or last
                            pauses = chain(RECONNECT_SECONDS, repeat(RECONNECT_SECONDS[-1]))
                            yield event
            except httpx.TransportError:
                # A break is expected (restart of the service, sleep of a laptop): go on behind the last event.
                pass
            if not done():
                await asyncio.sleep(next(pauses))


class AsyncTaskHandle:
    """One task. ``task`` is its state as last seen; :meth:`refresh` asks again."""

    def __init__(self, client: AsyncTesseraClient, task: Task) -> None:
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

    async def refresh(self) -> TaskDetail:
        """Ask for the state now."""
        detail = (await self.client.call(calls.task(self.id))).value
        assert detail is not None  # no ETag was given, so the answer has a body
        self.task = detail
        return detail

    async def wait(self, timeout_seconds: float | None = None) -> Task:
        """Wait until the task has ended, however it ends.

        Raises:
            TimeoutError: it has not ended in time; the task goes on.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        watch = Watch(self.id)
        for pause in chain(WAIT_SECONDS, repeat(WAIT_SECONDS[-1])):
            self.task = await self.client.run(watch.look()) or self.task
            if self.task.phase.final:
                return self.task
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"task {self.id} is {self.task.phase} after {timeout_seconds} s")
            await asyncio.sleep(left)
        raise AssertionError  # the pauses never end

    async def cancel(self) -> Task:
        """End the task with its grace period; a finished one stays as it is."""
        self.task = await self.client.call(calls.cancel(self.id))
        return self.task

    async def retry(self) -> Task:
        """Run a finished task again as a new attempt."""
        self.task = await self.client.call(calls.retry(self.id))
        return self.task

    async def follow(self) -> AsyncIterator[TaskUpdate]:
        """Yield what changes until the task has ended; survives breaks of the connection."""
        async for event in self.client.stream(f"/tasks/{self.id}/follow", lambda: False):
            update = update_of(event)
            if update is None:
                continue
            if update.task is not None:
                self.task = update.task
            yield update
            if update.final:
                return

    async def logs(self, *, follow: bool = False, stream: str = "output", run: UUID | None = None) -> AsyncIterator[str]:
        """Yield the log as text; with *follow* until the task has ended and its log is complete."""
        reader = LogReader(self.id, stream, run=run)
        while True:
            text = await self.client.run(reader.read())
            if text:
                yield text
                continue
            if reader.final or not follow:
                return
            await asyncio.sleep(LOG_PAUSE_SECONDS)

    async def notebook(self) -> dict[str, Any]:
        """The executed notebook so far, as JSON of format 4."""
        return (await self.client.call(calls.notebook(self.id))).value or {}

    async def outputs(self) -> list[OutputFile]:
        """Files that the task gave back."""
        return await self.client.call(calls.outputs(self.id))

    async def download(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Save all outputs below *folder* and return where they are; an existing other file keeps its name."""
        places = []
        for output in await self.outputs():
            target = target_of(Path(folder), output)
            if not await asyncio.to_thread(already_there, target, output):
                with Arrival(target, output) as arrival:
                    if not arrival.complete:
                        await self.client.fetch(calls.output_path(self.id, output.sha256), arrival)
                    target = await asyncio.to_thread(arrival.publish)
            places.append(target)
        return places

    async def bill(self) -> CostOfTask:
        """What the task cost so far."""
        return CostOfTask.model_construct(**dict(await self.client.call(calls.task_bill(self.id))))

    async def events(self) -> Listing[TaskEvent]:
        """What happened, oldest first."""
        return Listing(await self.client.call(calls.events(self.id)), events_frame)

    async def decision(self) -> Any:
        """Why the task was placed where it is, or not yet."""
        return await self.client.call(calls.decision(self.id))
