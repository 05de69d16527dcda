"""What a person sees while the server starts."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tessera_hub.i18n import gettext, language
from tessera_hub.schemas.reasons import Reason
from tessera_hub.tasks.reasons import localised


def _(message: str) -> str:
    """Mark *message* for the catalogue; it is translated when it is shown."""
    return message


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell.

    Attributes:
        percent: how far the start is.
        text: English source of the sentence; empty: the *reason* says it.
        fields: of the sentence.
        reason: why it waits.
        raw: the engine's own words, shown small.
    """

    percent: int
    text: str = ""
    fields: Mapping[str, str | int] = field(default_factory=dict)
    reason: Reason | None = None
    raw: str = ""


STEPS: Final[dict[str, Notice]] = {
    "reserved": Notice(20, _("Resources are reserved.")),
    "starting": Notice(40, _("The workspace is starting.")),
    "started": Notice(70, _("The process runs; JupyterLab is loading.")),
}
"""Step → what is told."""


def describe(notice: Notice, code: str) -> dict[str, Any]:
    """Return the progress event of *notice* in language *code*."""
    with language(code):
        if notice.reason is not None:
            message = localised(notice.reason.model_copy(update={"message": ""})).message
        else:
            message = gettext(notice.text, **notice.fields)
    event: dict[str, Any] = {"progress": notice.percent, "message": message}
    if notice.raw:
        event["html_message"] = f'{html.escape(message)} <small class="t-soft">{html.escape(notice.raw)}</small>'
    return event
