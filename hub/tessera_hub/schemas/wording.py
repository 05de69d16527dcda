"""What a schema found wrong, in the reader's language.

pydantic speaks English only and to programmers; a person who typed a number into a form, a notebook or a command reads this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera_hub.i18n import gettext as _

_NOT_WHOLE = frozenset({"int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number"})
_NOT_AN_OBJECT = frozenset({"dict_type", "model_type", "model_attributes_type"})


def in_words(error: Mapping[str, Any]) -> str:
    """Return one entry of ``ValidationError.errors()`` as a sentence's predicate, without the field's name."""
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in _NOT_WHOLE:
        return _("must be a whole number")
    if kind in _NOT_AN_OBJECT:
        return _("must be an object with named fields")
    if kind in ("enum", "literal_error"):
        return _("must be one of: {values}", values=str(context["expected"]).replace(" or ", ", "))
    if kind in ("too_short", "too_long"):
        return _too_many(kind, context)
    if kind.startswith("uuid"):
        return _("is not an identifier")
    if kind.startswith(("datetime", "timezone")):
        return _("is not a time with its time zone")
    words = {
        "missing": _("is missing"),
        "recursion_depth_exceeded": _("is nested too deep"),
        "extra_forbidden": _("is not known here; check how it is written"),
        "json_invalid": _("is not valid JSON"),
        "string_type": _("must be text"),
        "bool_type": _("must be true or false"),
        "bool_parsing": _("must be true or false"),
        "list_type": _("must be a list"),
        "string_pattern_mismatch": _("has characters or a form that are not allowed here"),
        "greater_than_equal": _("must be at least {limit}", limit=context.get("ge")),
        "greater_than": _("must be more than {limit}", limit=context.get("gt")),
        "less_than_equal": _("must be at most {limit}", limit=context.get("le")),
        "less_than": _("must be less than {limit}", limit=context.get("lt")),
        "string_too_short": _("must have at least {limit} characters", limit=context.get("min_length")),
        "string_too_long": _("must have at most {limit} characters", limit=context.get("max_length")),
    }
    return words.get(kind, str(error["msg"]))


def _too_many(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "too_short":
        return _("must have at least {limit} entries", limit=context["min_length"])
    return _("must have at most {limit} entries", limit=context["max_length"])
