"""Where the service is, with which token, and when a request is tried again."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import platformdirs

from tessera_hub import __version__
from tessera_hub.i18n import gettext as _

from .errors import TesseraError

SERVICE_PATH: Final = "/services/tessera"
"""Where JupyterHub serves Tessera when an address names only the hub."""

CONNECT_RETRIES: Final = 2
"""Repeats of a connection that could not be opened at all; done by httpx, safe for every method."""

RETRY_STATUS: Final = frozenset({429, 502, 503, 504})
RETRY_DELAYS_SECONDS: Final = (0.3, 1.0, 2.5)
"""The retry rule: a call that may be repeated without effect (GET, HEAD, PUT of content-addressed bytes, or one with an
idempotency key) is tried again after these pauses when the connection broke or the answer was 429, 502, 503 or 504.
``Retry-After`` in seconds, up to :data:`RETRY_AFTER_MAX_SECONDS`, takes the place of the pause."""
RETRY_AFTER_MAX_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Connection:
    """Address and token of a service.

    ``url`` is the public address of the service (``https://hub.example.org/services/tessera``), without a slash at the end.
    """

    url: str
    token: str

    @property
    def api(self) -> str:
        """Base address of the API."""
        return f"{self.url}/api/v1"


def settings_file() -> Path:
    """Where ``tessera login`` keeps address and token: ``~/.config/tessera/client.toml`` on Linux."""
    return platformdirs.user_config_path("tessera") / "client.toml"


def normal_url(url: str) -> str:
    """Return the service's address for *url*; one that names only a hub gets the usual path.

    Raises:
        TesseraError: ``client.address``, not an http or https address, or with credentials in it.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise TesseraError(
            "client.address",
            _("{url} is not an address of a service.", url=repr(url)),
            _("It looks like https://hub.example.org/services/tessera."),
        )
    path = parts.path.rstrip("/").removesuffix("/api/v1")
    if path in ("", "/hub", "/hub/home", "/hub/login"):
        path = SERVICE_PATH
    return f"{parts.scheme}://{parts.netloc}{path}"


def find_connection(url: str | None = None, token: str | None = None, settings: Path | None = None) -> Connection:
    """Complete what is not given: environment first, then the settings file.

    Environment: ``TESSERA_URL``; ``TESSERA_TOKEN`` or, in a workspace, ``JUPYTERHUB_API_TOKEN``. A stored token is only ever
    sent to the address it was stored with.

    Raises:
        TesseraError: ``client.not_configured``, an address or a token is missing.
    """
    url = url or os.environ.get("TESSERA_URL") or None
    token = token or os.environ.get("TESSERA_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not (url and token):
        stored = read_settings(settings or settings_file())
        if stored is not None and (url is None or normal_url(url) == stored.url):
            url, token = stored.url, token or stored.token
    if not url or not token:
        raise TesseraError(
            "client.not_configured",
            _("No address or no token of a Tessera service is known here."),
            _("Run `tessera login`, or set TESSERA_URL and TESSERA_TOKEN."),
        )
    return Connection(normal_url(url), token)


def read_settings(path: Path) -> Connection | None:
    """Return what ``tessera login`` stored, or None when there is nothing.

    Raises:
        TesseraError: ``client.settings``, the file is not what ``tessera login`` writes.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        return Connection(normal_url(values["url"]), str(values["token"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise TesseraError(
            "client.settings",
            _("The settings in {path} cannot be read: {problem}.", path=path, problem=error),
            _("Remove the file and run `tessera login` again."),
        ) from error


def write_settings(connection: Connection, path: Path) -> None:
    """Store *connection*, readable by its owner only, in one step."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    # A JSON string of ASCII is a TOML basic string.
    text = f"url = {json.dumps(connection.url)}\ntoken = {json.dumps(connection.token)}\n"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def request_headers(connection: Connection, language: str) -> dict[str, str]:
    """Headers of every request."""
    return {
        "Authorization": f"token {connection.token}",
        "Accept-Language": language.replace("_", "-"),
        "User-Agent": f"tessera-client/{__version__}",
    }


def retry_pauses() -> Iterator[float]:
    """The pauses of the retry rule, in seconds."""
    return iter(RETRY_DELAYS_SECONDS)


def pause_for(response: httpx.Response, planned: float) -> float:
    """Seconds to wait before the next try of an answered request."""
    try:
        return min(max(float(response.headers["Retry-After"]), 0.0), RETRY_AFTER_MAX_SECONDS)
    except (KeyError, ValueError):
        return planned
