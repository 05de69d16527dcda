"""The public exception of the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClusterApiError(Exception):
    """The API server refused a call, or could not be reached (``status`` 0).

    Args:
        status: HTTP status.
        reason: ``Status.reason`` of the API server, such as ``AlreadyExists``, ``NotFound``, ``Expired``, ``Forbidden``.
        message: its words.
        details: ``Status.details``.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}"[:2000])
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})

    @property
    def unreachable(self) -> bool:
        """Whether a repeat later may succeed: no answer, overload, or a server that starts."""
        return self.status in (0, 429, 500, 502, 503, 504)
