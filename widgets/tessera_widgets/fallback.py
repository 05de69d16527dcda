"""The last state of a view as plain HTML, for a saved notebook without its kernel."""

from __future__ import annotations

from html import escape
from typing import Any


def render(view: dict[str, Any]) -> str:
    """Return *view* as a small table; everything is escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(str(fact['name']))}</th><td>{escape(str(fact['value']))}</td></tr>"
        for fact in view.get("facts", [])
    )
    bars = "".join(
        f"<tr><th style='text-align:left'>{escape(str(group['title']))} · {escape(str(bar['name']))}</th>"
        f"<td>{escape(str(bar['text']))}</td></tr>"
        for group in view.get("groups", [])
        for bar in group["bars"] or [{"name": "", "text": group["note"]}]
    )
    log = view.get("log")
    tail = f"<pre style='max-height:16em;overflow:auto'>{escape(str(log))}</pre>" if log else ""
    title, state = escape(str(view.get("title", ""))), escape(str(view.get("state", "")))
    as_of = escape(f"{view.get('words', {}).get('as_of', '')} {view.get('as_of', '')}".strip())
    return f"<div><strong>{title}</strong> {state}<table>{rows}{bars}</table>{tail}<small>{as_of}</small></div>"
