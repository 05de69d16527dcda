"""Who calls, and what they may do.

A program sends a hub token (``Authorization: Bearer …`` or ``token …``); a browser has the cookie that
:mod:`tessera_hub.api.oauth` set after the hub's login. Both are checked against the hub (cached for at most 30 s), never
against anything in the request. An unsafe method with the cookie must also carry the header ``X-Tessera-Request``, which
another site cannot send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from tessera_hub.api.context import Context, context_of
from tessera_hub.api.errors import Problem
from tessera_hub.hubapi import HubError, Identity
from tessera_hub.i18n import gettext as _
from tessera_hub.quota.tenants import Standing, synchronise

TOKEN_COOKIE: Final = "tessera-token"
REQUEST_HEADER: Final = "X-Tessera-Request"

RECHECK_SECONDS: Final = 1.0
"""How often a stream asks whether its caller may still see it."""

READ: Final = "custom:tessera:tasks:read"
SUBMIT: Final = "custom:tessera:tasks:submit"
BILLS: Final = "custom:tessera:bills:read"
OPERATE: Final = "custom:tessera:operate"
SPAWNER: Final = "custom:tessera:spawner"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    principal_id: int
    kind: str
    name: str
    admin: bool
    scopes: frozenset[str]
    tenants: dict[str, int]
    by_cookie: bool
    groups: frozenset[str] = frozenset()
    """Groups at the hub."""

    @property
    def operator(self) -> bool:
        """May see and change every tenant's things."""
        return self.has(OPERATE)

    @property
    def actor(self) -> str:
        """Name in events and audit."""
        return f"{self.kind}:{self.name}"

    def has(self, scope: str) -> bool:
        """Whether the token carries *scope*, plain or limited to this very person."""
        return scope in self.scopes or f"{scope}!user={self.name}" in self.scopes or f"{scope}!user" in self.scopes


def bearer_token(request: Request) -> str | None:
    """Return the token of the ``Authorization`` header, if any."""
    scheme, _space, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() in ("bearer", "token") and value.strip() else None


async def identify(request: Request) -> Caller:
    """FastAPI dependency: the caller.

    Raises:
        Problem: 401 ``auth.required`` or ``auth.invalid_token``; 403 ``auth.cross_site``.
    """
    found = await identify_optional(request)
    if found is None:
        title = _("Sign in, or send a token of JupyterHub.")
        raise Problem(401, "auth.required", title, hint=_("Create a token on the hub's Token page."))
    return found


async def identify_optional(request: Request) -> Caller | None:
    """Return the caller, None if nobody is signed in (a wrong or expired token is still refused)."""
    context = context_of(request)
    token, by_cookie = bearer_token(request), False
    if token is None and (cookie := request.cookies.get(TOKEN_COOKIE)):
        token, by_cookie = cookie, True
    if token is None:
        return None
    identity = await context.hub.identify(token)
    if identity is None:
        if by_cookie:
            return None
        title = _("This token is wrong, expired or revoked.")
        raise Problem(401, "auth.invalid_token", title, hint=_("Create a new token on the hub's Token page."))
    if by_cookie and request.method not in ("GET", "HEAD", "OPTIONS") and not _same_site(request):
        raise Problem(403, "auth.cross_site", _("The request does not come from a page of this service."))
    standing = await _standing(context, identity)
    return Caller(
        standing.principal_id,
        identity.kind,
        identity.name,
        identity.admin,
        identity.scopes,
        standing.tenants,
        by_cookie,
        frozenset(identity.groups),
    )


def _same_site(request: Request) -> bool:
    """A custom header cannot be sent cross-origin without CORS; a form post is told by what the browser says of its page.

    ``Sec-Fetch-Site`` comes only over HTTPS or from this machine, ``Origin`` with every form post.
    """
    if REQUEST_HEADER in request.headers or request.headers.get("Sec-Fetch-Site") == "same-origin":
        return True
    origin = urlsplit(request.headers.get("Origin", "")).netloc
    return bool(origin) and "Sec-Fetch-Site" not in request.headers and origin == request.headers.get("Host")


_standings: dict[tuple[int, Identity, tuple[str, ...]], tuple[float, Standing]] = {}


async def _standing(context: Context, identity: Identity) -> Standing:
    groups = await context.hub.tenant_groups()
    # With everything it follows from in the key, a kept standing is never older than the hub's answers themselves.
    key = (id(context), identity, tuple(groups.get(g, "") for g in identity.groups))
    found = _standings.get(key)
    if found is not None and time.monotonic() - found[0] < context.hub.cache_seconds:
        return found[1]
    async with context.store.write() as session:
        standing = await synchronise(session, context.settings.hub_api_url, identity, groups)
    if len(_standings) > 10_000:
        _standings.clear()
    _standings[key] = (time.monotonic(), standing)
    return standing


def needs(scope: str) -> Callable[[Request], Coroutine[Any, Any, Caller]]:
    """Return a dependency that gives the caller if its token has *scope*.

    Raises:
        Problem: 403 ``auth.scope``.
    """

    async def check(request: Request) -> Caller:
        caller = await identify(request)
        if not caller.has(scope):
            title = _("Your token lacks the permission {scope}.", scope=scope)
            raise Problem(403, "auth.scope", title, hint=_("Ask an administrator, or create a token with this scope."))
        return caller

    return check


class StillAllowed:
    """Asks again and again whether the caller of a stream may go on; a stream must not outlive a token or a membership."""

    def __init__(self, request: Request, caller: Caller, scope: str) -> None:
        self._request = request
        self._caller: Caller | None = caller
        self._scope = scope
        self._looked = time.monotonic()

    async def now(self) -> Caller | None:
        """Return the caller as the hub sees them now, None when the stream must end.

        The hub's answer is kept as everywhere; while the hub does not answer this waits, so that nothing is sent unchecked.
        """
        if time.monotonic() - self._looked < RECHECK_SECONDS:
            return self._caller
        while True:
            try:
                self._caller = await identify_optional(self._request)
                break
            except Problem:
                self._caller = None
                break
            except HubError:
                if context_of(self._request).store.notifier.closing:
                    return None
                await asyncio.sleep(RECHECK_SECONDS)
        if self._caller is not None and not self._caller.has(self._scope):
            self._caller = None
        self._looked = time.monotonic()
        return self._caller


Reader = Annotated[Caller, Depends(needs(READ))]
Submitter = Annotated[Caller, Depends(needs(SUBMIT))]
BillReader = Annotated[Caller, Depends(needs(BILLS))]
Operator = Annotated[Caller, Depends(needs(OPERATE))]
Spawner = Annotated[Caller, Depends(needs(SPAWNER))]
AnyCaller = Annotated[Caller, Depends(identify)]
Ctx = Annotated[Context, Depends(context_of)]
