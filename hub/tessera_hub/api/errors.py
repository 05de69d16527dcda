"""Errors as ``application/problem+json`` (RFC 9457) with stable codes and texts in the reader's language."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tessera_hub.hubapi import HubError
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.wording import in_words
from tessera_hub.tasks.machine import TransitionError

log = structlog.get_logger(__name__)

MOST_ERRORS: Final = 100
LONGEST_FIELD: Final = 100
LONGEST_WORDS: Final = 1000
"""Of what a request has wrong, which may be as long as the request."""


class Problem(Exception):
    """An error that the caller may see: what happened, what to do, a stable code for programs.

    ``title`` and ``hint`` are already in the caller's language.
    """

    def __init__(
        self, status: int, code: str, title: str, *, hint: str = "", reasons: list[Reason] | None = None, **extra: Any
    ) -> None:
        super().__init__(f"{code}: {title}")
        self.status = status
        self.code = code
        self.title = title
        self.hint = hint
        self.reasons = reasons or []
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """Return the problem document."""
        body: dict[str, Any] = {
            "type": f"urn:tessera:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
        }
        if self.hint:
            body["hint"] = self.hint
        if self.reasons:
            body["reasons"] = [r.model_dump(mode="json") for r in self.reasons]
        return body | self.extra


def not_found(what: str = "") -> Problem:
    """The answer to everything that does not exist *or belongs to somebody else*: one text, so that ids cannot be probed."""
    return Problem(404, f"{what or 'resource'}.not_found", _("There is no such thing here, or you may not see it."))


def respond(problem: Problem) -> JSONResponse:
    """Return *problem* as an answer."""
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else None
    return JSONResponse(problem.body(), problem.status, headers=headers, media_type="application/problem+json")


def _field(where: Iterable[str | int]) -> str:
    """Return the name of a field; what a person's own keys make long is cut."""
    return ".".join(str(part) for part in where if part not in ("body", "query", "path", "header"))[:LONGEST_FIELD]


def install(app: FastAPI) -> None:
    """Make every error of *app* a problem document."""

    @app.exception_handler(Problem)
    async def _problem(_request: Request, error: Problem) -> JSONResponse:
        return respond(error)

    @app.exception_handler(TransitionError)
    async def _transition(_request: Request, error: TransitionError) -> JSONResponse:
        status = 404 if error.code == "run.unknown" else 409
        return respond(Problem(status, error.code, _("The run is not in a state that allows this.")))

    @app.exception_handler(HubError)
    async def _hub(_request: Request, error: HubError) -> JSONResponse:
        log.warning("hub_unavailable", error=str(error))
        title = _("JupyterHub cannot be asked who you are at the moment.")
        return respond(Problem(503, "hub.unavailable", title, hint=_("Try again in a few seconds.")))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"field": _field(e["loc"]), "message": in_words(e)[:LONGEST_WORDS]} for e in error.errors()[:MOST_ERRORS]]
        title = _("The request is not valid.")
        hint = "; ".join(": ".join(filter(None, (e["field"], e["message"]))) for e in found[:3])
        return respond(Problem(422, "request.invalid", title, hint=hint, errors=found))

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return respond(not_found())
        if error.status_code == 400:
            hint = _("Send JSON in UTF-8 that is not nested too deep.")
            return respond(Problem(400, "http.400", _("The request cannot be read."), hint=hint))
        return respond(Problem(error.status_code, f"http.{error.status_code}", str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody is there to read it; what had come of a file is kept

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected_error", path=request.url.path, exc_info=error)
        title = _("Something went wrong in the service.")
        hint = _("Tell the operator the request id {request_id}.", request_id=getattr(request.state, "request_id", "-"))
        return respond(Problem(500, "service.error", title, hint=hint))
