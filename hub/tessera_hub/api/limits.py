"""How large a request may be: files come in pieces that are written as they come, all else is held in memory."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from tessera_hub.i18n import gettext as _

BODY_LIMIT_BYTES: Final = 32 << 20
"""A thousand tasks at once are a few of these MiB, the inventory of a thousand nodes one."""
_UPLOADS: Final = ("/blobs/", "/runs/")


def limited(receive: Receive, scope: Scope) -> Receive:
    """Return *receive* so that it refuses to read more than a request may have.

    Raises:
        HTTPException: 413, from what is returned.
    """
    if any(part in scope["path"] for part in _UPLOADS):
        return receive
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > BODY_LIMIT_BYTES:
            raise HTTPException(413, _("The request is larger than {mib} MiB.", mib=BODY_LIMIT_BYTES >> 20))
        return message

    return counted
