"""Asking the hub service for a reservation and telling it how the server fares."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import httpx

from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.workspaces import Reservation


class ReservationError(Exception):
    """The service did not answer as expected; ``stale`` means the reservation is not ours any more."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


ANSWER_SECONDS: Final = 8.0
"""Less than the ten seconds after which the hub shows a waiting page instead of what went wrong."""


@cache
def trusted() -> ssl.SSLContext:
    """Return the certificates that are trusted, read once: it takes tens of milliseconds, in which the hub does nothing else."""
    return httpx.create_ssl_context()


class ReservationClient:
    """Calls of a spawner to the service."""

    def __init__(self, service_url: str, token: str, *, timeout: float = ANSWER_SECONDS) -> None:
        self._base = f"{service_url.rstrip('/')}/api/v1/spawner/reservations"
        self._headers = {"Authorization": f"token {token}"}
        self._timeout = timeout

    async def find(self, user: str, server: str) -> Reservation:
        """Return the reservation of the named server.

        Raises:
            ReservationError: no answer, or not the expected one.
        """
        try:
            async with httpx.AsyncClient(timeout=self._timeout, headers=self._headers, verify=trusted()) as client:
                answer = await client.get(self._base, params={"user": user, "server": server})
        except httpx.HTTPError as error:
            raise ReservationError(f"{self._base}: {type(error).__name__}") from error
        if answer.status_code != 200:
            raise ReservationError(f"{self._base}: {answer.status_code} {answer.text[:300]}")
        return Reservation.model_validate(answer.json(), context=STORED)

    async def report(
        self,
        reservation: Reservation,
        phase: str,
        *,
        native_id: str = "",
        reason: str = "",
        detail: dict[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Report the phase of the server, which it reached *at* (now if None).

        Raises:
            ReservationError: no answer; ``stale`` when the run ended or belongs to somebody else by now.
        """
        body = {
            "phase": phase,
            "lease_token": reservation.lease_token,
            "native_id": native_id or None,
            "reason": reason or None,
            "detail": detail or {},
            "at": (at or datetime.now(UTC)).isoformat(),
        }
        url = f"{self._base}/{reservation.run_id}/state"
        try:
            async with httpx.AsyncClient(timeout=self._timeout, headers=self._headers, verify=trusted()) as client:
                answer = await client.post(url, json=body)
        except httpx.HTTPError as error:
            raise ReservationError(f"{url}: {type(error).__name__}") from error
        if answer.status_code in (404, 409):
            raise ReservationError(f"{url}: {answer.status_code} {answer.text[:300]}", stale=True)
        if answer.status_code >= 300:
            raise ReservationError(f"{url}: {answer.status_code} {answer.text[:300]}")
