"""The hub's own pages in Tessera's look and the reader's language.

JupyterHub has no gettext, so each request's language is put into the context variable of :mod:`tessera_hub.i18n` before its
handler runs, and the templates get the translating function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from jupyterhub.handlers.base import BaseHandler
from markupsafe import Markup

from tessera_hub.i18n import choose_language, current_language, gettext, speak
from tessera_hub.installation import SERVICE_PREFIX
from tessera_hub.processes import SERVICE

LANGUAGE_COOKIE: Final = "tessera-language"
PORTAL: Final = Path(__file__).parent / "portal"
PERSON_SCOPES: Final = [
    "custom:tessera:tasks:read",
    "custom:tessera:tasks:submit",
    "custom:tessera:bills:read",
    f"access:services!service={SERVICE}",
]
"""What a person's token for the SDK and the command line needs."""

_prepared: Final = "_tessera_speaks"


def prepare_pages(c: Any) -> None:
    """Add templates and variables to the configuration and the language to every request."""
    c.JupyterHub.template_paths = [str(PORTAL / "hub_templates")]
    # In the page, not by a link to the service: the hub's pages look right when the service is down, too.
    style = Markup((PORTAL / "static" / "tessera.css").read_text("utf-8"))  # noqa: S704  # our own file
    c.JupyterHub.template_vars = {
        "_": lambda _user: gettext,
        "language": lambda _user: current_language(),
        "tessera_prefix": SERVICE_PREFIX,
        "tessera_style": style,
        "tessera_scopes": PERSON_SCOPES,
    }
    if getattr(BaseHandler, _prepared, False):
        return
    original = BaseHandler.prepare

    async def prepare(self: BaseHandler) -> None:
        chosen = self.get_cookie(LANGUAGE_COOKIE)
        speak(choose_language(self.request.headers.get("Accept-Language"), unquote(chosen) if chosen else None))
        await original(self)

    BaseHandler.prepare = prepare
    setattr(BaseHandler, _prepared, True)
