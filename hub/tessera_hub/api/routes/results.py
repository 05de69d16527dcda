"""What a task gave: logs, the notebook as it grows, files, and all of it live."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sse_starlette import EventSourceResponse, ServerSentEvent

from tessera_hub.api.access import listed, own_task, owns
from tessera_hub.api.auth import READ, Caller, Ctx, Reader, StillAllowed
from tessera_hub.api.context import Context
from tessera_hub.api.errors import not_found
from tessera_hub.i18n import current_language, language
from tessera_hub.schemas.protocol import UsageSample
from tessera_hub.schemas.tasks import OutputFile, Phase
from tessera_hub.store.notify import task_topic, tenant_topic
from tessera_hub.store.runfiles import Stream
from tessera_hub.store.tables import RunOutput, RunRow, TaskRow, UsageSampleRow
from tessera_hub.tasks.views import TaskRecord, fetch, records, task_view

router = APIRouter(tags=["results"])
_EVENT_ID = re.compile(r"([0-9]{1,18})-([0-9a-f]{32})")

LOG_POLL_SECONDS = 0.25
"""How often a live page's stream looks at the log file; a file's length costs nothing to read."""
LOG_PIECE = 64 << 10
PING_SECONDS = 15


@router.get("/tasks/{task_id}/logs/{stream}")
async def logs(
    task_id: UUID,
    stream: Stream,
    caller: Reader,
    context: Ctx,
    offset: int = 0,
    limit: Annotated[int, Query(ge=1, le=4 << 20)] = 1 << 20,
    run: UUID | None = None,
) -> Response:
    """Return bytes of a log from *offset* (negative: from the end). ``X-Log-Final`` says that nothing will follow."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        run_row = record.run
        if run is not None:
            found = (await session.scalars(select(RunRow).where(RunRow.id == run, RunRow.task_id == task_id))).first()
            if found is None:
                raise not_found("run")
            run_row = found
    piece = await asyncio.to_thread(context.run_files.read_log, run_row.id, stream, offset, limit)
    final = Phase(run_row.phase).final
    headers = {"X-Log-Offset": str(piece.offset), "X-Log-End": str(piece.end), "X-Log-Final": str(final).lower()}
    # Never shown as a page: a log is what a tenant's program wrote.
    headers |= {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
    return Response(piece.data, media_type="text/plain; charset=utf-8", headers=headers)


@router.get("/tasks/{task_id}/notebook")
async def notebook(
    task_id: UUID, caller: Reader, context: Ctx, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return the executed notebook so far."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
    etag = f'"{record.run.notebook_etag}"'
    if record.run.notebook_etag and if_none_match == etag:
        return Response(status_code=304, headers={"ETag": etag})
    data = await asyncio.to_thread(context.run_files.read_notebook, record.run.id)
    if data is None:
        raise not_found("notebook")
    headers = {"ETag": etag, "Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/x-ipynb+json", headers=headers)


@router.get("/tasks/{task_id}/usage")
async def usage(task_id: UUID, caller: Reader, context: Ctx) -> list[UsageSample]:
    """Return what the latest run used of processors and memory, on average since the sample before, oldest first."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        query = select(UsageSampleRow).where(UsageSampleRow.run_id == record.run.id).order_by(UsageSampleRow.at)
        rows = (await session.scalars(query)).all()
    return [UsageSample(run_id=r.run_id, at=r.at, cpu_millicores=r.cpu_millicores, memory_mib=r.memory_mib) for r in rows]


@router.get("/tasks/{task_id}/outputs")
async def outputs(task_id: UUID, caller: Reader, context: Ctx) -> list[OutputFile]:
    """Return the files the latest run gave back."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        query = select(RunOutput).where(RunOutput.run_id == record.run.id).order_by(RunOutput.path)
        rows = (await session.scalars(query)).all()
    return [OutputFile(path=r.path, sha256=r.sha256, size=r.size, mode=r.mode, run_id=r.run_id) for r in rows]


@router.get("/tasks/{task_id}/outputs/{sha256}")
async def output(
    task_id: UUID, sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")], caller: Reader, context: Ctx
) -> StreamingResponse:
    """Return one file of the latest run."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        query = select(RunOutput).where(RunOutput.run_id == record.run.id, RunOutput.sha256 == sha256)
        row = (await session.scalars(query)).first()
    if row is None or not context.blobs.exists(record.task.tenant_id, sha256):
        raise not_found("output")
    headers = {
        "Content-Length": str(row.size),
        "ETag": f'"{sha256}"',
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    body = context.blobs.read(record.task.tenant_id, sha256)
    return StreamingResponse(body, media_type="application/octet-stream", headers=headers)


def _event(name: str, data: Any, event_id: str | None = None) -> ServerSentEvent:
    text = data if isinstance(data, str) else json.dumps(data)
    return ServerSentEvent(text, event=name, id=event_id)


@router.get("/tasks/{task_id}/follow")
async def follow(
    task_id: UUID,
    caller: Reader,
    context: Ctx,
    request: Request,
    offset: Annotated[int, Query(ge=0)] = 0,
    after: Annotated[str, Query(max_length=64)] = "",
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> EventSourceResponse:
    """Stream a task: ``task`` on every change, ``log`` with text as it comes, ``notebook`` when it grew, then ``end``.

    The id of an event is the log offset after it and the run whose log that is, so that a browser that reconnects goes on where
    it was, or begins with the log of a later run; who opens a new stream names the last one with ``after``.
    """
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
    start = _position(last_event_id or after, record.run.id, offset)
    allowed = StillAllowed(request, caller, READ)
    return EventSourceResponse(_follow(context, allowed, record, start, current_language()), ping=PING_SECONDS)


async def _follow(
    context: Context, allowed: StillAllowed, record: TaskRecord, offset: int, speaks: str
) -> AsyncIterator[ServerSentEvent]:
    etag: str | None = None
    pending = b""
    run_id = record.run.id
    with language(speaks), context.store.notifier.subscribe(task_topic(record.task.id)) as changes:
        first, looked = True, time.monotonic()
        while True:
            topics = await changes.wait(0 if first else LOG_POLL_SECONDS)
            caller = await allowed.now()
            if caller is None or not owns(caller, record.task):
                return
            # Cost ticks by itself; the row is read when something was said, and every few seconds in case a word was lost.
            if first or topics or time.monotonic() - looked > 5:
                looked = time.monotonic()
                async with context.store.read() as session:
                    record = await own_task(session, caller, record.task.id)
                if record.run.id != run_id:
                    run_id, offset, pending = record.run.id, 0, b""
                if (first or topics) and not Phase(record.run.phase).final:
                    yield _event("task", task_view(record).model_dump_json(), _event_id(offset - len(pending), run_id))
                if record.run.notebook_etag and record.run.notebook_etag != etag:
                    etag = record.run.notebook_etag
                    yield _event("notebook", {"etag": etag})
                first = False
            final = Phase(record.run.phase).final
            while True:
                piece = await asyncio.to_thread(context.run_files.read_log, run_id, "output", offset, LOG_PIECE)
                if not piece.data:
                    break
                text, pending = _whole_characters(pending + piece.data)
                offset = piece.offset + len(piece.data)
                body = {"stream": "output", "offset": offset, "run_id": str(run_id), "text": text}
                yield _event("log", body, _event_id(offset - len(pending), run_id))
            if final and pending:
                # A character that was cut at the very end is shown as what it is.
                body = {"stream": "output", "offset": offset, "run_id": str(run_id), "text": pending.decode(errors="replace")}
                pending = b""
                yield _event("log", body, _event_id(offset, run_id))
            if context.store.notifier.closing:
                return
            if final:
                # Only now: who shows states and output in the order they come shows the last line before the end.
                last = task_view(record).model_dump_json()
                yield _event("task", last, _event_id(offset, run_id))
                yield _event("end", last, _event_id(offset, run_id))
                return


def _event_id(offset: int, run_id: UUID) -> str:
    return f"{offset}-{run_id.hex}"


def _position(last_event_id: str, run_id: UUID, offset: int) -> int:
    """Return where the log goes on: behind the last event if that was of this run, at its beginning if of another."""
    found = _EVENT_ID.fullmatch(last_event_id)
    if found is None:
        return offset
    return int(found[1]) if found[2] == run_id.hex else 0


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """Decode UTF-8 and keep a character that is cut at the end for the next piece; wrong bytes are shown as such."""
    for cut in range(min(3, len(data)) + 1):
        head = data[: len(data) - cut]
        try:
            return head.decode(), data[len(head) :]
        except UnicodeDecodeError as error:
            if error.end < len(head) and error.reason != "unexpected end of data":
                break
    return data.decode(errors="replace"), b""


@router.get("/events")
async def everything(caller: Reader, context: Ctx, request: Request, mine: bool = False) -> EventSourceResponse:
    """Stream every change of the tasks the caller may list: ``task`` with the task, ``gap`` when some may have been missed."""
    allowed = StillAllowed(request, caller, READ)
    return EventSourceResponse(_everything(context, caller, allowed, mine, current_language()), ping=PING_SECONDS)


async def _everything(
    context: Context, first: Caller, allowed: StillAllowed, mine: bool, speaks: str
) -> AsyncIterator[ServerSentEvent]:
    prefixes = ("tenant/",) if first.operator else tuple(f"{tenant_topic(t)}/" for t in first.tenants.values())
    with language(speaks), context.store.notifier.subscribe(*prefixes, "*") as changes:
        yield _event("hello", {})
        while True:
            topics = await changes.wait(PING_SECONDS)
            caller = await allowed.now()
            if caller is None or context.store.notifier.closing:
                return
            if "*" in topics:
                yield _event("gap", {})
            ids = {UUID(t.rpartition("/")[2]) for t in topics if "/task/" in t}
            if not ids:
                continue
            query = records().where(TaskRow.id.in_(ids), listed(caller))
            if mine:
                query = query.where(TaskRow.principal_id == caller.principal_id)
            async with context.store.read() as session:
                found = await fetch(session, query)
            for record in found:
                task = task_view(record)
                if not owns(caller, record.task):
                    task.cost, task.entry = None, None
                yield _event("task", task.model_dump_json())
            await asyncio.sleep(0.2)  # a burst becomes one query
