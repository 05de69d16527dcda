"""Text that can be stored and sent on.

JSON can name characters which are no text: half a surrogate pair (``"\\ud800"``), which no UTF-8 has, and NUL, which PostgreSQL
does not store. Once such a string is in a task, every answer that carries it fails: its owner's list and the sync of the cluster
that is to run it. So it is refused at the door, whatever field it is in.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request

from tessera_hub.api.errors import Problem
from tessera_hub.i18n import gettext as _


async def storable(request: Request) -> None:
    """FastAPI dependency of all routes of the API: refuse a JSON body with characters that are no text.

    Raises:
        Problem: 422 ``request.invalid``; it names the field.
    """
    if not hasattr(request, "_json"):
        return  # no JSON was read: the bytes of files pass untouched
    body = await request.body()
    # Only an escape, a multi-byte sequence or another encoding than UTF-8 can bring such a character in.
    if body.isascii() and b"\\u" not in body and b"\0" not in body:
        return
    if (field := _unstorable(await request.json())) is not None:
        message = _("contains characters that are not text")
        errors = [{"field": field, "message": message}]
        raise Problem(422, "request.invalid", _("The request is not valid."), hint=f"{field}: {message}", errors=errors)


def _unstorable(document: Any) -> str | None:
    """Return the path of the first string that cannot be stored, None if all can; a bad key is named by its object."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            if not is_text(value):
                return path
        elif isinstance(value, dict):
            if not all(map(is_text, value)):
                return path
            waiting += [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}.{index}" if path else str(index), item) for index, item in enumerate(value)]
    return None


def is_text(value: str) -> bool:
    """Whether *value* has only characters that UTF-8 and PostgreSQL have."""
    if value.isascii():
        return "\0" not in value
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
