"""Sign-in of a browser through JupyterHub's OAuth (authorisation code with PKCE).

The state lives in a signed, short-lived cookie of its own, so that several tabs can sign in at once and no server memory
is needed. The access token is kept in an HttpOnly cookie limited to the service's path. Source: RFC 6749, RFC 7636,
JupyterHub "Services / HubOAuth".
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Annotated, Final
from urllib.parse import urlencode, urlsplit

import httpx
from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from tessera_hub.api.auth import TOKEN_COOKIE, Ctx
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem
from tessera_hub.i18n import gettext as _

STATE_SECONDS: Final = 600
TOKEN_COOKIE_SECONDS: Final = 14 * 86400

router = APIRouter(include_in_schema=False)


def _serializer(context: Context) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(context.settings.secret, salt="tessera-oauth-state")


def local_path(target: str, prefix: str) -> str:
    """Return *target* if it is a path of this service, else the service's start page: never redirect elsewhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not parts.path.startswith(prefix + "/") or target.startswith("//") or "\\" in target:
        return prefix + "/"
    return target


def login_redirect(context: Context, request: Request, target: str | None = None) -> RedirectResponse:
    """Send the browser to the hub's authorisation page, to come back to *target* (the current page if None)."""
    settings = context.settings
    wanted = target or request.url.path + (f"?{request.url.query}" if request.url.query else "")
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = urlencode(
        {
            "client_id": settings.oauth_client_id,
            "redirect_uri": f"{settings.prefix}/oauth_callback",
            "response_type": "code",
            "state": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
    )
    answer = RedirectResponse(f"{settings.hub_prefix}api/oauth2/authorize?{query}", 302)
    state = _serializer(context).dumps({"next": local_path(wanted, settings.prefix), "verifier": verifier})
    answer.set_cookie(
        f"tessera-state-{nonce}",
        state,
        max_age=STATE_SECONDS,
        path=settings.prefix,
        httponly=True,
        samesite="lax",
        secure=request.headers.get("X-Forwarded-Proto", request.url.scheme).startswith("https"),
    )
    return answer


@router.get("/oauth_callback")
async def callback(
    request: Request,
    context: Ctx,
    state: Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")],
    code: Annotated[str, Query(max_length=512)] = "",
    error: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """Exchange the code for a token and go on to the wanted page."""
    settings = context.settings
    cookie = f"tessera-state-{state}"
    try:
        kept = _serializer(context).loads(request.cookies.get(cookie, ""), max_age=STATE_SECONDS)
    except BadData:
        # The cookie ran out, or cookies are off: start again, once, at the start page.
        return login_redirect(context, request, f"{settings.prefix}/") if request.cookies else _refused("auth.no_cookies")
    if error or not code:
        return _refused("auth.denied")
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.post(
            f"{settings.hub_api_url.rstrip('/')}/oauth2/token",
            data={
                "client_id": settings.oauth_client_id,
                "client_secret": settings.hub_token,
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": f"{settings.prefix}/oauth_callback",
                "code_verifier": kept["verifier"],
            },
        )
    if answer.status_code != 200:
        return _refused("auth.denied")
    done = RedirectResponse(kept["next"], 302)
    secure = request.headers.get("X-Forwarded-Proto", request.url.scheme).startswith("https")
    done.set_cookie(
        TOKEN_COOKIE,
        answer.json()["access_token"],
        max_age=TOKEN_COOKIE_SECONDS,
        path=settings.prefix,
        httponly=True,
        samesite="lax",
        secure=secure,
    )
    done.delete_cookie(cookie, path=settings.prefix)
    return done


def _refused(code: str) -> Response:
    raise Problem(403, code, _("JupyterHub did not sign you in."), hint=_("Allow cookies for this site and try again."))


@router.get("/logout")
async def logout(context: Ctx) -> Response:
    """Forget the token and go on to the hub's own logout."""
    answer = RedirectResponse(f"{context.settings.hub_prefix}logout", 302)
    answer.delete_cookie(TOKEN_COOKIE, path=context.settings.prefix)
    return answer
