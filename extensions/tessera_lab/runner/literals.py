"""JSON values as literals of a kernel's language. User text never becomes code: every value is encoded, every name is checked."""

from __future__ import annotations

import json
import keyword
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from tessera_lab.runner.errors import JsonValue, RunnerError

# CPython's parser refuses about 200 nested brackets; nothing sensible comes near.
_DEEPEST = 50
_EXACT_IN_DOUBLE = 2**53
_R_LARGEST_INTEGER = 2**31 - 1


def assignments(values: Mapping[str, JsonValue], language: str) -> str:
    """Source text that assigns every value to its name in ``language``, one a line, in the given order.

    Args:
        values: JSON values; floats may be nan or infinite.
        language: a kernel specification's language, in any case: python, r, julia, bash.

    Raises:
        RunnerError: ``parameter.language`` (no encoder for the language), ``parameter.name``, ``parameter.type`` (a value that
            the language has no literal for).
    """
    found = _LANGUAGES.get(language.lower())
    if found is None:
        known: list[JsonValue] = [*_LANGUAGES]
        message = f"parameters cannot be given to a notebook in {language}; only to {', '.join(map(str, known))}"
        raise RunnerError("parameter.language", message, {"language": language, "known": known})
    name_pattern, reserved, form, encode = found
    lines = []
    for name, value in values.items():
        if not (name_pattern.fullmatch(name) if name_pattern else name.isidentifier()) or name in reserved:
            raise RunnerError(
                "parameter.name", f"{name!r} is not a variable name in {language}", {"name": name, "language": language}
            )
        lines.append(form.format(name=name, value=encode(name, value, 0)))
    return "\n".join(lines)


def _refuse(name: str, value: JsonValue, problem: str) -> NoReturn:
    shown = repr(value)[:80]
    raise RunnerError(
        "parameter.type", f"parameter {name}: {problem}: {shown}", {"name": name, "value": shown, "expected": problem}
    )


def _deeper(name: str, value: JsonValue, depth: int) -> int:
    if depth >= _DEEPEST:
        _refuse(name, value, f"at most {_DEEPEST} levels of lists and dictionaries")
    return depth + 1


def _python(name: str, value: JsonValue, depth: int) -> str:
    # Exact types: a subclass could bring a repr of its own.
    if value is None or type(value) in (bool, str):
        return repr(value)
    if type(value) is int:
        try:
            return repr(value)
        except ValueError:
            _refuse(name, 0, "a whole number of at most 4300 digits")
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if type(value) is list:
        inner = _deeper(name, value, depth)
        return "[" + ", ".join(_python(name, item, inner) for item in value) + "]"
    if type(value) is dict:
        inner = _deeper(name, value, depth)
        return "{" + ", ".join(f"{_python(name, key, inner)}: {_python(name, item, inner)}" for key, item in value.items()) + "}"
    _refuse(name, value, "a JSON value")


def _escaped(name: str, text: str, extra: str = "") -> str:
    """A double-quoted string with the escapes that R and Julia share."""
    if "\0" in text:
        _refuse(name, text, "text without the character NUL")
    if any("\ud800" <= char <= "\udfff" for char in text):
        _refuse(name, text, "text of whole Unicode characters")
    parts = []
    for char in text:
        if char in '"\\' + extra:
            parts.append("\\" + char)
        elif char in "\n\t\r":
            parts.append({"\n": "\\n", "\t": "\\t", "\r": "\\r"}[char])
        elif not char.isprintable():
            parts.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
        else:
            parts.append(char)
    return '"' + "".join(parts) + '"'


def _r(name: str, value: JsonValue, depth: int) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case int() if abs(value) <= _R_LARGEST_INTEGER:
            return f"{value}L"
        case int() if abs(value) <= _EXACT_IN_DOUBLE:
            return str(value)
        case int():
            _refuse(name, value, "a whole number that R can hold exactly (up to 2^53)")
        case float():
            return "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")
        case str():
            return _escaped(name, value)
        case list():
            inner = _deeper(name, value, depth)
            return "list(" + ", ".join(_r(name, item, inner) for item in value) + ")"
        case dict():
            inner = _deeper(name, value, depth)
            if "" in value:
                _refuse(name, value, "a dictionary without an empty key")
            return "list(" + ", ".join(f"{_escaped(name, key)} = {_r(name, item, inner)}" for key, item in value.items()) + ")"


def _julia(name: str, value: JsonValue, depth: int) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")
        case str():
            return _escaped(name, value, extra="$")
        case list():
            inner = _deeper(name, value, depth)
            return "Any[" + ", ".join(_julia(name, item, inner) for item in value) + "]"
        case dict():
            inner = _deeper(name, value, depth)
            pairs = (f"{_escaped(name, key, extra='$')} => {_julia(name, item, inner)}" for key, item in value.items())
            return "Dict{String,Any}(" + ", ".join(pairs) + ")"


def _bash(name: str, value: JsonValue, depth: int) -> str:
    match value:
        case list() if depth == 0 and not any(isinstance(item, list | dict) for item in value):
            return "(" + " ".join(_bash(name, item, 1) for item in value) + ")"
        case list() | dict():
            _refuse(name, value, "text, a number, true or false, or a flat list, which is all a shell variable can hold")
        case str() if "\0" in value:
            _refuse(name, value, "text without the character NUL")
        case None:
            return "''"
        case str():
            return shlex.quote(value)
        case _:
            return json.dumps(value)


# fmt: off
_R_RESERVED: Final = frozenset({
    "if", "else", "repeat", "while", "function", "for", "next", "break", "TRUE", "FALSE", "NULL", "Inf", "NaN", "NA",
    "NA_integer_", "NA_real_", "NA_character_", "in",
})
_JULIA_RESERVED: Final = frozenset({
    "baremodule", "begin", "break", "catch", "const", "continue", "do", "else", "elseif", "end", "export", "false",
    "finally", "for", "function", "global", "if", "import", "let", "local", "macro", "module", "quote", "return", "struct",
    "true", "try", "using", "while",
})
# Names that mean something to the shell itself.
_BASH_RESERVED: Final = frozenset({
    "PATH", "IFS", "ENV", "BASH_ENV", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "SHELL", "UID", "EUID", "PPID", "SHELLOPTS",
    "BASHOPTS",
})
# fmt: on
_R_NAME: Final = re.compile(r"(?:[A-Za-z]|\.(?![0-9]))[A-Za-z0-9._]*")
_ASCII_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_KEYWORD: Final = frozenset(keyword.kwlist)

_Encoder = Callable[[str, JsonValue, int], str]
_LANGUAGES: Final[dict[str, tuple[re.Pattern[str] | None, frozenset[str], str, _Encoder]]] = {
    "python": (None, _NO_KEYWORD, "{name} = {value}", _python),
    "r": (_R_NAME, _R_RESERVED, "{name} <- {value}", _r),
    "julia": (_ASCII_NAME, _JULIA_RESERVED, "{name} = {value}", _julia),
    "bash": (_ASCII_NAME, _BASH_RESERVED, "{name}={value}", _bash),
}

COMMENT_SIGN: Final = "#"
