"""What the SDK raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.reasons import Reason


class TesseraError(Exception):
    """Whatever went wrong, in terms of the person who asked.

    Attributes:
        code: stable token for programs, such as ``quota.cards`` or ``snapshot.too_large``.
        message: what happened, in the caller's language.
        hint: what to do about it; may be empty.
        status: HTTP status of the answer; None when the refusal came before any request, or no answer came.
        reasons: typed reasons of a refusal, the most important first.
        errors: problems of single fields, as ``{"field": …, "message": …}``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        status: int | None = None,
        *,
        reasons: Sequence[Reason] = (),
        errors: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status
        self.reasons = list(reasons)
        self.errors = list(errors)

    def __str__(self) -> str:
        details = "".join(f"\n  {error.get('field', '')}: {error.get('message', '')}" for error in self.errors)
        return f"{self.message}{details}" + (f"\n{self.hint}" if self.hint else "")

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data, for ``--json`` and for same-origin pages."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "status": self.status,
            "reasons": [reason.model_dump(mode="json") for reason in self.reasons],
            "errors": self.errors,
        }


def error_of_response(response: httpx.Response) -> TesseraError:
    """Read a refusal: ``application/problem+json`` of the service, or whatever a proxy on the way said."""
    status = response.status_code
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        return TesseraError(
            problem["code"],
            _text(problem.get("detail")) or _text(problem.get("title")) or problem["code"],
            _text(problem.get("hint")),
            status,
            reasons=_reasons(problem.get("reasons")),
            errors=[error for error in problem.get("errors") or [] if isinstance(error, dict)],
        )
    if status in (401, 403):
        return TesseraError(
            "auth.refused",
            _("The service did not accept the token."),
            _("Sign in again with `tessera login`, or restart the workspace to get a new token."),
            status,
        )
    if status in (502, 503, 504):
        return TesseraError(
            "service.unavailable",
            _("The service does not answer at the moment (HTTP {status}).", status=status),
            _("Running tasks go on. Try again in a minute; if it stays so, tell your administrator."),
            status,
        )
    return TesseraError("http.error", _("The service answered with HTTP {status}.", status=status), "", status)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _reasons(value: object) -> list[Reason]:
    found = []
    for item in value if isinstance(value, list) else []:
        try:
            found.append(Reason.model_validate(item, extra="ignore"))
        except ValueError:
            # A reason of a newer service that this SDK cannot read must not hide the refusal itself.
            continue
    return found


def error_of_transport(error: httpx.HTTPError, url: str) -> TesseraError:
    """Say that no answer came from *url*."""
    return TesseraError(
        "service.unreachable",
        _("The service at {url} cannot be reached: {problem}.", url=url, problem=str(error) or type(error).__name__),
        _("Check the address (TESSERA_URL, or `tessera login`) and the network."),
    )
