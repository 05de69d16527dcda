"""What the Lab front end asks this server itself: parameters, snapshots, submits and the way back of outputs."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

from jupyter_server.base.handlers import JupyterHandler
from tornado import web

from tessera_hub.client import TesseraError, calls
from tessera_hub.client.recurring import check_recurring, recurs, send_recurring
from tessera_hub.i18n import gettext as _
from tessera_lab.passing import PassHandler, TesseraHandler
from tessera_lab.placement import problem
from tessera_lab.streaming import StreamHandler
from tessera_lab.workspace import describe_parameters, find_file, make_submission, take_stock


class LocalHandler(TesseraHandler):
    """Base of the handlers that look at files."""

    def body(self) -> dict[str, Any]:
        """The request's JSON object, in characters that UTF-8 has: half a surrogate pair could not be sent on."""
        try:
            body = json.loads(self.request.body.decode() or "null")
            json.dumps(body, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise TesseraError("request.invalid", _("The request is not valid."), status=422)
        return body

    def path_in(self, body: dict[str, Any]) -> str:
        """The path that the body names."""
        path = body.get("path")
        if not isinstance(path, str):
            raise TesseraError("request.invalid", _("The request is not valid."), status=422)
        return path


class ParametersHandler(LocalHandler):
    """What a notebook declares."""

    @web.authenticated
    async def get(self) -> None:
        """Return parameters, kernel and the number of code cells."""
        try:
            file = find_file(self.gate.root, self.get_query_argument("path", ""), allow_hidden=self.gate.allow_hidden)
            self.answer(await asyncio.to_thread(describe_parameters, file))
        except TesseraError as error:
            self.refuse(error)


class PreviewHandler(LocalHandler):
    """What would be sent."""

    @web.authenticated
    async def post(self) -> None:
        """Return the files, or why they cannot be sent."""
        limit = self.gate.snapshot_limit_bytes
        try:
            body = self.body()
            snapshot = await asyncio.to_thread(
                take_stock, self.gate.root, self.path_in(body), body.get("include"), limit, allow_hidden=self.gate.allow_hidden
            )
        except TesseraError as error:
            if not error.code.startswith("snapshot.") or error.status == 404:
                self.refuse(error)
                return
            self.answer({"files": [], "total_bytes": 0, "limit_bytes": limit, "refused": problem(error)})
            return
        files = [{"path": file.path, "size": file.size} for file in snapshot.files]
        self.answer({"files": files, "total_bytes": snapshot.total_bytes, "limit_bytes": limit, "refused": None})


class SubmitHandler(LocalHandler):
    """Run as job."""

    @web.authenticated
    async def post(self) -> None:
        """Make the snapshot, upload what is missing, submit; a repeat with the same key is the same task.

        A specification with a cron expression becomes a recurring task.
        """
        try:
            body = self.body()
            path = self.path_in(body)
            key = body.get("idempotency_key") or uuid4().hex
            snapshot = await asyncio.to_thread(
                take_stock,
                self.gate.root,
                path,
                body.get("include"),
                self.gate.snapshot_limit_bytes,
                allow_hidden=self.gate.allow_hidden,
            )
            submission = await asyncio.to_thread(make_submission, snapshot, path, body.get("spec"), str(key))
            client = self.client()
            again = recurs(submission.spec)
            if body.get("dry_run"):
                checked = await (
                    client.run(check_recurring(submission.spec)) if again else client.call(calls.dry_run(submission.spec))
                )
                self.answer(checked.model_dump(mode="json"))
                return
            if again:
                made = await client.run(send_recurring(submission))
                self.set_status(201)
                self.answer(made.model_dump(mode="json"))
                return
            handle = await client.submit_prepared(submission)
            self.set_status(201)
            self.answer(handle.task.model_dump(mode="json"))
        except TesseraError as error:
            self.refuse(error)


class StatusHandler(TesseraHandler):
    """Whether the service answers, and what this workspace holds."""

    @web.authenticated
    async def get(self) -> None:
        """Return the state; never an error."""
        self.answer(await self.gate.status())


class UsageHandler(TesseraHandler):
    """What this workspace uses."""

    @web.authenticated
    async def get(self) -> None:
        """Return use and limits, and when the workspace is stopped if nothing is done in it."""
        used = await asyncio.to_thread(self.gate.meter.read)
        stops_at = self.gate.idleness and self.gate.idleness.stops_at
        self.answer({**used, "stops_at": stops_at.isoformat() if stops_at else None})


class PlaceHandler(TesseraHandler):
    """Outputs back to the workspace."""

    @web.authenticated
    async def post(self, task_id: str) -> None:
        """Place the outputs of one task and return where they are."""
        try:
            placed = await self.gate.placer.place(self.client(), str(UUID(task_id)))
            self.answer({"placed": placed})
        except TesseraError as error:
            self.refuse(error)
        except OSError as error:
            message = _("The outputs cannot be written: {problem}.", problem=error.strerror or error)
            self.refuse(TesseraError("placement.disk", message, _("Make room, then try again; what arrived is kept."), 507))


UUID_PATTERN = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"


def routes(gate: Any) -> list[tuple[str, type[JupyterHandler], dict[str, Any]]]:
    """Return all routes of the extension."""
    arguments = {"gate": gate}
    return [
        (r"/tessera/api/local/parameters", ParametersHandler, arguments),
        (r"/tessera/api/local/snapshot-preview", PreviewHandler, arguments),
        (r"/tessera/api/local/submit", SubmitHandler, arguments),
        (r"/tessera/api/local/status", StatusHandler, arguments),
        (r"/tessera/api/local/usage", UsageHandler, arguments),
        (rf"/tessera/api/local/outputs/({UUID_PATTERN})/place", PlaceHandler, arguments),
        (rf"/tessera/api/stream/(events|tasks/{UUID_PATTERN}/follow)", StreamHandler, arguments),
        (r"/tessera/api/v1/(.+)", PassHandler, arguments),
    ]
