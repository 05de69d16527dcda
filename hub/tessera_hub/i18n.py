"""Translated texts for pages, CLI and messages of the API.

English is the source. Catalogues are gettext ``.po`` files, one per component, under ``locale/<language>/LC_MESSAGES``;
they are read directly (no compiled ``.mo`` to forget), merged, and cached. The current language is a context variable,
so that a request in Chinese never leaks into one in English served by the same process.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Final

LANGUAGES: Final = ("en", "zh_CN")
"""What the product speaks; ``en`` needs no catalogue."""

LOCALE_DIRECTORY: Final = Path(__file__).parent / "locale"

_language: ContextVar[str] = ContextVar("tessera_language", default="en")


def read_catalogue(path: Path) -> dict[str, str]:
    """Return msgid → msgstr of one ``.po`` file (singular messages; an empty or fuzzy msgstr is left out).

    Raises:
        ValueError: a line is not of the ``.po`` form; the message names file and line.
    """
    messages: dict[str, str] = {}
    fields: dict[str, str] = {}
    current = ""
    fuzzy = False
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], start=1):
        text = line.strip()
        if not text:
            if fields.get("msgid") and fields.get("msgstr") and not fuzzy:
                messages[fields["msgid"]] = fields["msgstr"]
            fields, current, fuzzy = {}, "", False
        elif text.startswith("#"):
            fuzzy = fuzzy or (text.startswith("#,") and "fuzzy" in text)
        else:
            if not text.startswith('"'):
                current, _, text = text.partition(" ")
                fields[current] = ""
            try:
                fields[current] += ast.literal_eval(text.strip())
            except (SyntaxError, ValueError, KeyError) as error:
                raise ValueError(f"{path}:{number}: not a .po line: {line!r}") from error
    return messages


@lru_cache(maxsize=8)
def catalogue(language: str) -> dict[str, str]:
    """Return all messages of *language*, merged over the components' files."""
    merged: dict[str, str] = {}
    for path in sorted((LOCALE_DIRECTORY / language / "LC_MESSAGES").glob("*.po")):
        merged.update(read_catalogue(path))
    return merged


def mark(message: str) -> str:
    """Mark *message* for the catalogue without translating it yet."""
    return message


def gettext(message: str, /, **values: object) -> str:
    """Return *message* in the current language with ``{name}`` fields filled from *values*."""
    language = _language.get()
    text = message if language == "en" else catalogue(language).get(message, message)
    return text.format(**values) if values else text


def current_language() -> str:
    """Return the language of this context, one of :data:`LANGUAGES`."""
    return _language.get()


@contextmanager
def language(code: str) -> Iterator[None]:
    """Speak *code* inside the block; an unknown code falls back to English."""
    token = _language.set(code if code in LANGUAGES else "en")
    try:
        yield
    finally:
        _language.reset(token)


def choose_language(accept_language: str | None, explicit: str | None = None) -> str:
    """Pick the language for a request: an explicit choice (query, cookie), else the best of ``Accept-Language``."""
    if explicit:
        return "zh_CN" if explicit.replace("-", "_").lower().startswith("zh") else "en"
    ranked: list[tuple[float, int, str]] = []
    for position, part in enumerate((accept_language or "").split(",")):
        tag, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        ranked.append((-weight, position, tag.strip().lower()))
    for weight, _position, tag in sorted(ranked):
        if weight == 0.0:
            continue
        if tag.startswith("zh"):
            return "zh_CN"
        if tag.startswith("en"):
            return "en"
    return "en"


def language_from_environment() -> str:
    """Return the language of a terminal by ``TESSERA_LANGUAGE``, ``LC_ALL``, ``LC_MESSAGES``, ``LANG``, in this order."""
    for name in ("TESSERA_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return choose_language(None, value)
    return "en"


def speak(code: str) -> None:
    """Set the language of the current context for good (a CLI, the start of a request handler)."""
    _language.set(code if code in LANGUAGES else "en")
