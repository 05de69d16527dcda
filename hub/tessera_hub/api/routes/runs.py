"""What a run's own token opens: its claim, logs, notebook, inputs and outputs, while it lives."""

from __future__ import annotations

import asyncio
import hmac
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from tessera_hub.api.auth import Ctx, bearer_token
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.api.routes.blobs import receive
from tessera_hub.i18n import gettext as _
from tessera_hub.manager.checkpoints import last_checkpoint
from tessera_hub.manager.tokens import run_token
from tessera_hub.schemas.bounds import safe_relative_path
from tessera_hub.schemas.protocol import ClaimRequest
from tessera_hub.schemas.stored import stored_spec
from tessera_hub.schemas.tasks import InputFile, Phase
from tessera_hub.store.blobs import is_full
from tessera_hub.store.notify import note, task_topic
from tessera_hub.store.runfiles import Stream
from tessera_hub.store.tables import Blob, RunCheckpoint, RunOutput, RunRow, TaskRow

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
LOG_PIECE_LIMIT = 8 << 20
NOTEBOOK_LIMIT = 128 << 20


async def _run(context: Context, request: Request, run_id: UUID) -> tuple[RunRow, TaskRow]:
    """Return the run whose token the request carries.

    Raises:
        Problem: 401 ``run.token``: wrong, of another lease, or the run has ended.
    """
    token = bearer_token(request) or ""
    async with context.store.read() as session:
        query = select(RunRow, TaskRow).join(TaskRow, TaskRow.id == RunRow.task_id).where(RunRow.id == run_id)
        found = (await session.execute(query, execution_options={"populate_existing": True})).first()
    if found is not None and found[0].lease_token is not None and not Phase(found[0].phase).final:
        right = run_token(context.settings.secret, run_id, found[0].lease_token)
        if hmac.compare_digest(right.encode(), token.encode()):
            return found[0], found[1]
    raise Problem(401, "run.token", _("This token does not belong to a living run."))


async def _body(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise Problem(413, "body.too_large", _("The request is too large."))
    return bytes(data)


@router.post("/claim")
async def claim(run_id: UUID, body: ClaimRequest, request: Request, context: Ctx) -> dict[str, Any]:
    """Claim the run before any user code: the first wins, a repeat by the same *who* succeeds.

    409 ``claimed.elsewhere`` for a loser, ``run.stale_lease`` for an old lease.
    """
    run, _task = await _run(context, request, run_id)
    if body.lease_token != run.lease_token:
        raise Problem(409, "run.stale_lease", _("The run is not in a state that allows this."))
    async with context.store.write() as session:
        await session.execute(
            update(RunRow)
            .where(RunRow.id == run_id, RunRow.lease_token == body.lease_token, RunRow.claimed_by.is_(None))
            .values(claimed_by=body.who[:255], claimed_at=datetime.now(UTC))
            .execution_options(synchronize_session=False)
        )
        row = await session.get(RunRow, run_id, populate_existing=True)
    if row is None or row.claimed_by != body.who[:255] or row.lease_token != body.lease_token:
        raise Problem(409, "claimed.elsewhere", _("Another process already runs this attempt."))
    return {"claimed_by": row.claimed_by}


@router.put("/logs/{stream}")
async def put_log(
    run_id: UUID, stream: Stream, request: Request, context: Ctx, offset: Annotated[int, Query(ge=0)]
) -> dict[str, int]:
    """Write log bytes at *offset*; the answer says from where to go on."""
    run, task = await _run(context, request, run_id)
    if stream.startswith("part-") and int(stream[5:]) >= stored_spec(task.spec).roles[0].replicas:
        raise not_found("log")
    data = await _body(request, LOG_PIECE_LIMIT)
    try:
        end = await asyncio.to_thread(context.run_files.write_log, run.id, stream, offset, data)
    except OSError as error:
        if not is_full(error):
            raise
        raise Problem(507, "disk.full", _("The service's disk is full; tell the operator.")) from error
    return {"end": end}


@router.put("/notebook")
async def put_notebook(run_id: UUID, request: Request, context: Ctx) -> dict[str, str]:
    """Replace the executed notebook so far."""
    run, task = await _run(context, request, run_id)
    data = await _body(request, NOTEBOOK_LIMIT)
    try:
        etag = await asyncio.to_thread(context.run_files.write_notebook, run.id, data)
    except OSError as error:
        if not is_full(error):
            raise
        raise Problem(507, "disk.full", _("The service's disk is full; tell the operator.")) from error
    async with context.store.write() as session:
        await session.execute(
            update(RunRow).where(RunRow.id == run_id).values(notebook_etag=etag).execution_options(synchronize_session=False)
        )
        note(session, task_topic(task.id))
    return {"etag": etag}


@router.get("/inputs")
async def inputs(run_id: UUID, request: Request, context: Ctx) -> list[InputFile]:
    """Return the manifest of the snapshot."""
    _row, task = await _run(context, request, run_id)
    return stored_spec(task.spec).inputs.files


@router.get("/inputs/{sha256}")
async def input_file(
    run_id: UUID, sha256: Digest, request: Request, context: Ctx, wanted: Annotated[str | None, Header(alias="Range")] = None
) -> StreamingResponse:
    """Return the bytes of one input of this run or of its last checkpoint, from the offset of ``Range: bytes=n-``."""
    row, task = await _run(context, request, run_id)
    named = {file.sha256 for file in stored_spec(task.spec).inputs.files}
    if sha256 not in named and row.attempt > 1:
        async with context.store.read() as session:
            named |= {file.sha256 for file in await last_checkpoint(session, task.id, row.attempt)}
    if sha256 not in named or not context.blobs.exists(task.tenant_id, sha256):
        raise not_found("input")
    first = re.match(r"bytes=([0-9]{1,18})-", wanted or "")
    offset = int(first[1]) if first else 0
    status = 206 if offset else 200
    body = context.blobs.read(task.tenant_id, sha256, offset)
    return StreamingResponse(body, status_code=status, media_type="application/octet-stream")


@router.head("/outputs/{sha256}")
async def output_offset(run_id: UUID, sha256: Digest, request: Request, context: Ctx) -> Response:
    """Return in ``Upload-Offset`` how many bytes have arrived; 404 when none."""
    _row, task = await _run(context, request, run_id)
    offset = context.blobs.offset(task.tenant_id, sha256)
    if offset is None:
        raise not_found("output")
    return Response(headers={"Upload-Offset": str(offset)})


@router.patch("/outputs/{sha256}")
async def append_output(
    run_id: UUID,
    sha256: Digest,
    request: Request,
    context: Ctx,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0)],
    size: Annotated[int, Header(alias="Upload-Length", ge=0)],
) -> Response:
    """Append a piece of an output."""
    _row, task = await _run(context, request, run_id)
    return await receive(context, request, task.tenant_id, sha256, offset, size)


@router.put("/outputs/{sha256}")
async def name_output(
    run_id: UUID,
    sha256: Digest,
    request: Request,
    context: Ctx,
    path: Annotated[str, Query(min_length=1, max_length=1024)],
    mode: Annotated[int, Query(ge=0, le=0o777)] = 0o644,
    kind: Annotated[Literal["output", "checkpoint"], Query()] = "output",
) -> Response:
    """Give a complete output its path, or a file its place in the checkpoint; a repeat changes nothing."""
    _row, task = await _run(context, request, run_id)
    try:
        safe_relative_path(path)
    except ValueError as error:
        raise Problem(422, "request.invalid", _("The request is not valid."), hint=str(error)) from error
    if not context.blobs.exists(task.tenant_id, sha256):
        raise not_found("output")
    insert = sqlite_insert if context.store.sqlite else postgresql_insert
    stored = context.blobs.path(task.tenant_id, sha256).stat().st_size
    async with context.store.write() as session:
        blob = {"tenant_id": task.tenant_id, "sha256": sha256, "size": stored, "complete": True, "created_at": datetime.now(UTC)}
        await session.execute(insert(Blob).values(**blob).on_conflict_do_nothing())
        values = {"run_id": run_id, "path": path, "sha256": sha256, "size": stored, "mode": mode}
        statement = insert(RunOutput if kind == "output" else RunCheckpoint).values(**values)
        changed = {"sha256": sha256, "size": stored, "mode": mode}
        await session.execute(statement.on_conflict_do_update(index_elements=["run_id", "path"], set_=changed))
    return Response(status_code=204)
