"""Tokens of Proxies and runs. Nothing secret is stored: sessions by hash, run tokens are recomputed."""

from __future__ import annotations

import hashlib
import hmac
import re
from uuid import UUID


def token_hash(token: str) -> str:
    """Return how a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def session_token(secret: bytes, cluster_id: int, epoch: int, instance: str) -> str:
    """Return the token of a session; the epoch in it tells a fenced Proxy from a wrong token.

    It follows from the agent's ``instance``, so that a repeated request for the same session finds that session again and does
    not fence the agent by its own echo.
    """
    mac = hmac.new(secret, f"session\0{cluster_id}\0{epoch}\0{instance}".encode(), hashlib.sha256).hexdigest()
    return f"s1.{cluster_id}.{epoch}.{mac}"


def epoch_of(token: str) -> int | None:
    """Return the epoch a session token was made for."""
    found = re.fullmatch(r"s1\.[^.]+\.([0-9]{1,18})\.[^.]+", token)
    return int(found[1]) if found else None


def run_token(secret: bytes, run_id: UUID, lease_token: str) -> str:
    """Return the run's own token: good while the run lives under this lease."""
    mac = hmac.new(secret, f"run\0{run_id}\0{lease_token}".encode(), hashlib.sha256).hexdigest()
    return f"r1.{run_id}.{mac}"
