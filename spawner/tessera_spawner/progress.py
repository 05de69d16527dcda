"""What a person sees while the server starts."""

from __future__ import annotations

from typing import Any, Final

from tessera_hub.i18n import gettext, language


def _(message: str) -> str:
    """Mark *message* for the catalogue; it is translated when it is shown."""
    return message


STEPS: Final[dict[str, tuple[int, str]]] = {
    "reserved": (20, _("Resources are reserved.")),
    "starting": (40, _("The workspace is starting.")),
    "started": (70, _("The process runs; JupyterLab is loading.")),
}
"""Step → percent and sentence."""


def describe(step: str, code: str) -> dict[str, Any]:
    """Return the progress event of *step* in language *code*."""
    percent, message = STEPS[step]
    with language(code):
        return {"progress": percent, "message": gettext(message)}
