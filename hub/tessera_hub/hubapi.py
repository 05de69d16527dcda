"""What the service asks JupyterHub: who is this token, who belongs to which group, start and stop a server.

Answers about people are kept for at most :data:`CACHE_SECONDS` from the moment the hub was asked, also where one answer is
made from another, so a removed member or revoked token is out within that time. The service's own token needs
``read:users:groups``, ``read:groups``, ``read:users:name``, ``list:users`` and, for workspaces, ``servers`` (see
:mod:`tessera_hub.jupyterhub`). Source: JupyterHub 6 REST API.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx

CACHE_SECONDS: Final = 30.0
PAGES: Final = "application/jupyterhub-pagination+json"
GROUPS_AT_ONCE: Final = 200
TENANT_PROPERTY: Final = "tessera.tenant"
"""Property of a hub group that makes it a tenant; its value, when a string, is the tenant's name."""


class HubError(Exception):
    """JupyterHub did not answer, or refused the service itself. Nobody is signed in on such an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token belongs to, as the hub says."""

    kind: str
    name: str
    created: str
    admin: bool
    scopes: frozenset[str]
    groups: tuple[str, ...]


@dataclass(slots=True)
class _Cache:
    seconds: float
    entries: dict[str, tuple[float, Any]] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        found = self.entries.get(key)
        return found[1] if found and time.monotonic() - found[0] < self.seconds else None

    def put(self, key: str, value: Any, asked: float) -> None:
        """Keep *value*, which the hub was *asked* for at that moment."""
        if len(self.entries) > 10_000:
            now = time.monotonic()
            self.entries = {k: v for k, v in self.entries.items() if now - v[0] < self.seconds}
        self.entries[key] = (asked, value)

    def forget_former(self, name: str, created: str) -> None:
        """Drop the identities of an account of this *name* that was made at another time: it is gone."""
        former = [
            key
            for key, (_asked, kept) in self.entries.items()
            if isinstance(kept, Identity) and kept.name == name and kept.kind == "user" and kept.created != created
        ]
        for key in former:
            del self.entries[key]


class HubApi:
    """The hub's REST API, asynchronously, with the service's token."""

    def __init__(self, api_url: str, token: str, *, cache_seconds: float = CACHE_SECONDS, timeout: float = 10.0) -> None:
        self.api_url = api_url.rstrip("/")
        self._token = token
        self._client = httpx.AsyncClient(timeout=timeout)
        self.cache_seconds = cache_seconds
        self._cache = _Cache(cache_seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self, method: str, path: str, *, token: str | None = None, json: Any = None, accept: str = "application/json"
    ) -> httpx.Response:
        """Call the hub; a 4xx is returned, not raised.

        Raises:
            HubError: no answer, or a 5xx.
        """
        headers = {"Authorization": f"token {token or self._token}", "Accept": accept}
        try:
            answer = await self._client.request(method, f"{self.api_url}{path}", headers=headers, json=json)
        except httpx.HTTPError as error:
            raise HubError(f"JupyterHub does not answer at {self.api_url}: {type(error).__name__}") from error
        if answer.status_code >= 500:
            raise HubError(f"JupyterHub answered {answer.status_code} to {method} {path}", answer.status_code)
        return answer

    async def identify(self, token: str) -> Identity | None:
        """Return whose *token* it is, None when the hub does not know it."""
        key = "token:" + hashlib.sha256(token.encode()).hexdigest()
        if (found := self._cache.get(key)) is not None:
            return found or None
        asked = time.monotonic()
        answer = await self.request("GET", "/user", token=token)
        if answer.status_code in (401, 403, 404):
            self._cache.put(key, False, asked)
            return None
        model = answer.json()
        kind, name = model.get("kind", "user"), model["name"]
        created, groups, admin = "", tuple(model.get("groups") or ()), bool(model.get("admin"))
        if kind == "user":
            # Asked anew with every new token: what is kept may be of an account that was deleted and made again since.
            person = await self._ask_user(name)
            if person is None:
                return None
            created, groups, admin = person["created"], tuple(person["groups"]), bool(person.get("admin"))
        identity = Identity(kind, name, created, admin, frozenset(model.get("scopes") or ()), groups)
        self._cache.put(key, identity, asked)
        return identity

    async def user(self, name: str) -> dict[str, Any] | None:
        """Return the hub's model of user *name* (``created``, ``groups``, ``admin``, ``servers``), None if there is none."""
        if (found := self._cache.get(f"user:{name}")) is not None:
            return found or None
        return await self._ask_user(name)

    async def _ask_user(self, name: str) -> dict[str, Any] | None:
        asked = time.monotonic()
        answer = await self.request("GET", f"/users/{quote(name, safe='')}")
        if answer.status_code == 404:
            self._cache.put(f"user:{name}", False, asked)
            return None
        if answer.status_code != 200:
            raise HubError(f"the service's token may not read users: {answer.status_code}", answer.status_code)
        model: dict[str, Any] = answer.json()
        self._cache.forget_former(name, model["created"])
        self._cache.put(f"user:{name}", model, asked)
        return model

    async def tenant_groups(self) -> dict[str, str]:
        """Return hub group → tenant name for the groups that are tenants."""
        if (found := self._cache.get("groups")) is not None:
            tenants: dict[str, str] = found
            return tenants
        asked = time.monotonic()
        tenants = {}
        for group in await self._all_groups():
            value = (group.get("properties") or {}).get(TENANT_PROPERTY)
            if value:
                tenants[group["name"]] = value if isinstance(value, str) else group["name"]
        self._cache.put("groups", tenants, asked)
        return tenants

    async def _all_groups(self) -> list[dict[str, Any]]:
        """Return every group, page by page: without pages the hub cuts the list short after 200."""
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None:
            answer = await self.request("GET", f"/groups?offset={offset}&limit={GROUPS_AT_ONCE}", accept=PAGES)
            if answer.status_code != 200:
                raise HubError(f"the service's token may not read groups: {answer.status_code}", answer.status_code)
            page = answer.json()
            if isinstance(page, list):  # a hub that knows no pages
                return page
            found += page["items"]
            following = page["_pagination"]["next"]
            offset = following and int(following["offset"])
        return found

    def forget(self) -> None:
        """Drop everything cached (an operator changed users or groups through us)."""
        self._cache.entries.clear()
