"""Upload and fetch the files of snapshots: content-addressed, resumable, per tenant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from tessera_hub.api.access import member_tenant
from tessera_hub.api.auth import Caller, Ctx, Reader, Submitter
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.resources import Strict
from tessera_hub.schemas.tasks import Sha256
from tessera_hub.store.blobs import BlobError
from tessera_hub.store.tables import Blob

router = APIRouter(tags=["files"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class Wanted(Strict):
    """Hashes to look for."""

    sha256: list[Sha256] = Field(max_length=20_000)


class Missing(Strict):
    """Those of the wanted that must be uploaded."""

    missing: list[Sha256]


def _tenant(caller: Caller, tenant: str | None) -> int:
    name = tenant or (next(iter(caller.tenants)) if len(caller.tenants) == 1 else "")
    found = member_tenant(caller, name)
    if found is None:
        title = _("Name the tenant whose store is meant; you belong to: {names}.", names=", ".join(sorted(caller.tenants)) or "-")
        raise Problem(403, "tenant.unknown", title)
    return found


@router.post("/blobs/missing")
async def missing(wanted: Wanted, caller: Submitter, context: Ctx, tenant: str | None = None) -> Missing:
    """Return which of the hashes the tenant's store lacks."""
    tenant_id = _tenant(caller, tenant)
    async with context.store.read() as session:
        have: set[str] = set()
        for start in range(0, len(wanted.sha256), 500):
            some = wanted.sha256[start : start + 500]
            query = select(Blob.sha256).where(Blob.tenant_id == tenant_id, Blob.complete.is_(True), Blob.sha256.in_(some))
            have.update((await session.scalars(query)).all())
    return Missing(missing=[digest for digest in dict.fromkeys(wanted.sha256) if digest not in have])


@router.head("/blobs/{sha256}")
async def uploaded(sha256: Digest, caller: Submitter, context: Ctx, tenant: str | None = None) -> Response:
    """Return in ``Upload-Offset`` how many bytes have arrived; 404 when none."""
    tenant_id = _tenant(caller, tenant)
    offset = context.blobs.offset(tenant_id, sha256)
    if offset is None:
        raise not_found("blob")
    complete = str(context.blobs.exists(tenant_id, sha256)).lower()
    return Response(headers={"Upload-Offset": str(offset), "Upload-Complete": complete})


async def receive(context: Context, request: Request, tenant_id: int, sha256: str, offset: int, size: int | None) -> Response:
    """Append the request's body to a blob and answer 204 with the new offset, 201 when it is complete.

    Raises:
        Problem: 409 ``blob.offset``, 413 ``blob.too_large``, 422 ``blob.hash_mismatch`` or ``blob.length``, 507 ``disk.full``.
    """
    announced = request.headers.get("Content-Length")  # none when it is sent in chunks: it ends where it ends
    length = size if size is not None or announced is None else int(announced) + offset
    limit = context.settings.snapshot_limit_bytes
    try:
        complete = await context.blobs.append(tenant_id, sha256, offset, length, request.stream(), limit=limit)
    except BlobError as error:
        status = {"blob.offset": 409, "blob.too_large": 413, "disk.full": 507}.get(error.code, 422)
        titles = {
            "blob.offset": _("The upload goes on at byte {offset}.", offset=error.offset),
            "blob.too_large": _("The file is larger than {limit} MiB.", limit=limit >> 20),
            "blob.hash_mismatch": _("The bytes do not have the announced hash; send the file again."),
            "blob.length": _("More bytes came than were announced; send the file again."),
            "disk.full": _("The service's disk is full; tell the operator."),
        }
        raise Problem(status, error.code, titles[error.code], offset=error.offset) from error
    if not complete:
        return Response(status_code=204, headers={"Upload-Offset": str(context.blobs.offset(tenant_id, sha256) or 0)})
    insert = sqlite_insert if context.store.sqlite else postgresql_insert
    stored = context.blobs.path(tenant_id, sha256).stat().st_size
    values = {"tenant_id": tenant_id, "sha256": sha256, "size": stored, "complete": True, "created_at": datetime.now(UTC)}
    async with context.store.write() as session:
        await session.execute(insert(Blob).values(**values).on_conflict_do_nothing())
    return Response(status_code=201, headers={"Upload-Offset": str(stored)})


@router.put("/blobs/{sha256}")
async def put(sha256: Digest, request: Request, caller: Submitter, context: Ctx, tenant: str | None = None) -> Response:
    """Upload a whole blob in one request."""
    return await receive(context, request, _tenant(caller, tenant), sha256, 0, None)


@router.patch("/blobs/{sha256}")
async def append(
    sha256: Digest,
    request: Request,
    caller: Submitter,
    context: Ctx,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0)],
    size: Annotated[int, Header(alias="Upload-Length", ge=0)],
    tenant: str | None = None,
) -> Response:
    """Append a piece at ``Upload-Offset``; ``Upload-Length`` is the length of the whole blob."""
    return await receive(context, request, _tenant(caller, tenant), sha256, offset, size)


@router.get("/blobs/{sha256}")
async def fetch_blob(sha256: Digest, caller: Reader, context: Ctx, tenant: str | None = None) -> StreamingResponse:
    """Return a complete blob of the tenant's store."""
    tenant_id = _tenant(caller, tenant)
    if not context.blobs.exists(tenant_id, sha256):
        raise not_found("blob")
    headers = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff", "ETag": f'"{sha256}"'}
    return StreamingResponse(context.blobs.read(tenant_id, sha256), media_type="application/octet-stream", headers=headers)
