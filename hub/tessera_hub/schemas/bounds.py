"""How much text, and which, a person may put into a task, so that every engine can carry it to the program as it is.

What was accepted once stays readable: who reads what is stored, or handed on from there, validates with the context
:data:`STORED`, and only the bounds that every version had are looked at.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from tessera_hub.i18n import gettext as _

STORED: Final = "stored"
"""Context of a validation of what was accepted before, perhaps by an older version with wider bounds."""
LONGEST_NAME: Final = 255
"""Bytes of a name in a path; what Linux's file systems take."""
LARGEST_VARIABLE: Final = (128 << 10) - 1
"""Bytes of ``NAME=value``, and of an argument; what Linux's ``execve(2)`` takes, less the NUL at the end (MAX_ARG_STRLEN)."""
LARGEST_VARIABLES: Final = 256 << 10
"""Bytes of all variables of a run together; etcd keeps them twice, in a job and in its pod, of 1.5 MiB each."""
LARGEST_PARAMETERS: Final = 256 << 10
"""Bytes of a task's parameters as JSON; Kubernetes keeps them in a Secret of 1 MiB."""


def is_stored(info: ValidationInfo) -> bool:
    """Whether what is read was accepted before."""
    return bool(info.context == STORED)


def _text(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    return value if is_stored(info) and isinstance(value, str) else check(value)


Name = Annotated[str, Field(min_length=1, max_length=120), WrapValidator(_text)]
LabelName = Annotated[str, Field(min_length=1, max_length=200), WrapValidator(_text)]
LabelValue = Annotated[str, Field(max_length=4096), WrapValidator(_text)]
SecretReference = Annotated[str, Field(max_length=200), WrapValidator(_text)]
DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,58}[a-z0-9])?$")]
"""The name of a folder in every run that reads it."""
MOST_DATASETS: Final = 1000
"""Data sets of a cluster."""
MOST_READ: Final = 20
"""Data sets that one task reads."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
_RESERVED: Final = ("TESSERA_", "LD_", "JUPYTERHUB_")
_BREAKS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of what steers a terminal or ends a line, and of halves of characters."""


def has_control(text: str) -> bool:
    """Whether *text* has a control character, a line break, or half of a character."""
    return not text.isprintable() and any(unicodedata.category(c) in _BREAKS for c in text)


def printable(text: str) -> str:
    """Return *text* if it steers nobody's terminal.

    Raises:
        ValueError: it has a control character or a line break.
    """
    if has_control(text):
        raise ValueError(_("must not contain control characters"))
    return text


def safe_relative_path(path: str, *, stored: bool = False) -> str:
    """Return *path* if it stays inside the folder it is relative to.

    Args:
        stored: it was accepted before; what steers a terminal is refused, but not every line break of Unicode.

    Raises:
        ValueError: absolute, contains ``..``, a control character, a backslash or an empty part, or a name that no file system
            takes.
    """
    parts = path.split("/")
    if any(len(p.encode(errors="replace")) > LONGEST_NAME for p in parts):
        raise ValueError(_("a name in a path has at most {limit} bytes", limit=LONGEST_NAME))
    steers = any(ord(c) < 32 for c in path) if stored else has_control(path)
    if not path or len(path) > 1024 or any(p in ("", ".", "..") for p in parts) or "\\" in path or steers:
        raise ValueError(_("must be a relative path inside the folder, without '..', '//', backslashes or control characters"))
    return path


def checked_path(path: str, info: ValidationInfo) -> str:
    """:func:`safe_relative_path` for a field of a schema."""
    return safe_relative_path(path, stored=is_stored(info))


def is_safe(path: str) -> bool:
    """Whether :func:`safe_relative_path` takes it."""
    try:
        safe_relative_path(path)
    except ValueError:
        return False
    return True


def check_variables(values: Mapping[str, str], *, stored: bool = False) -> None:
    """See whether a program can be given these variables.

    Args:
        stored: they were accepted before; their sizes are not looked at.

    Raises:
        ValueError: a name that is none or reserved, or a value that is too large or no text.
    """
    total = 0
    for key, value in values.items():
        named = _VARIABLE.match(key) if stored else _VARIABLE.fullmatch(key) and len(key) <= LONGEST_NAME
        if not named or "\0" in value:
            raise ValueError(_("{name} is not a name of an environment variable, or its value has a NUL", name=repr(key[:80])))
        if key.startswith(_RESERVED):
            raise ValueError(_("{name}: names beginning with TESSERA_, LD_ or JUPYTERHUB_ are reserved", name=repr(key)))
        size = len(key) + 1 + len(value.encode(errors="replace"))
        total += size
        if size > LARGEST_VARIABLE and not stored:
            raise ValueError(_too_long(key))
    if total > LARGEST_VARIABLES and not stored:
        raise ValueError(_("all together have at most {limit} bytes; put what is longer into a file", limit=LARGEST_VARIABLES))


def _too_long(name: str) -> str:
    return _("{name} has more than {limit} bytes; put what is longer into a file", name=name, limit=LARGEST_VARIABLE)


def check_arguments(values: Mapping[str, JsonValue]) -> None:
    """See whether a script can be given these parameters, each as ``--name=value``.

    Raises:
        ValueError: one is too long for an argument.
    """
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if len(name) + 3 + len(text.encode(errors="replace")) > LARGEST_VARIABLE:
            raise ValueError(_too_long(name))


def finite(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return *values* if JSON can say them: Python reads NaN and 1e999 as well, and a database reads such a row no more.

    Raises:
        ValueError: a number is none.
    """
    try:
        json.dumps(values, allow_nan=False)
    except ValueError as error:
        raise ValueError(_("a number must be finite")) from error
    return values


def check_parameters(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return *values* if a run can be told them.

    Raises:
        ValueError: they are too large, or no JSON.
    """
    if values and len(json.dumps(finite(values), ensure_ascii=False).encode(errors="replace")) > LARGEST_PARAMETERS:
        raise ValueError(_("all together have at most {limit} bytes; put what is longer into a file", limit=LARGEST_PARAMETERS))
    return values
