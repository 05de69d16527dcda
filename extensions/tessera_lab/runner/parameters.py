"""A notebook's parameters: what it declares, whether given values fit, and the cell that sets them.

Follows papermill's tags: the cell tagged ``parameters`` holds the defaults, a cell tagged ``injected-parameters`` right after
it (or at the top) the values of this run. Source: papermill documentation, "Parameterize". The cell is read as syntax and never
executed.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.literals import COMMENT_SIGN, assignments

PARAMETERS_TAG: Final = "parameters"
INJECTED_TAG: Final = "injected-parameters"

_TYPES: Final = ("str", "int", "float", "bool", "list", "dict")
_ANNOTATIONS: Final = {"List": "list", "Dict": "dict", "Sequence": "list", "Mapping": "dict", "tuple": "list", "Tuple": "list"}
_TYPE_COMMENT: Final = re.compile(r"^type:\s*([A-Za-z]+)\S*\s*(.*)$")
_LARGEST_EXACT: Final = 2**53
_TRUE: Final = {"true", "yes", "on", "1"}
_FALSE: Final = {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Parameter:
    """One parameter that a notebook declares.

    Attributes:
        name: the variable.
        type: ``str``, ``int``, ``float``, ``bool``, ``list``, ``dict``, or ``None`` when anything goes.
        default: the JSON value in the notebook; ``None`` also when it is computed, see ``source``.
        help: the comment behind the assignment.
        nullable: whether ``None`` may be given.
        source: the default as written, at most 200 characters.
        computed: the default is not a plain value, so that only `source` can be shown.
    """

    name: str
    type: str | None
    default: JsonValue = None
    help: str = ""
    nullable: bool = False
    source: str = ""
    computed: bool = False

    def as_json(self) -> dict[str, JsonValue]:
        """The parameter as strict JSON; a default that JSON cannot hold (nan, infinity) is left to ``source``."""
        return {
            "name": self.name,
            "type": self.type,
            "default": self.default if _is_strict(self.default) else None,
            "help": self.help,
            "nullable": self.nullable,
            "source": self.source,
            "computed": self.computed,
        }


def infer(notebook: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that a notebook declares, in their order in the cell.

    A type comes from an annotation, else from papermill's ``# type: int`` comment, else from the default. A notebook in another
    language than Python, without the cell, or with a cell that is no Python, declares none that we can tell.

    Args:
        notebook: the notebook as parsed JSON (format 4).
    """
    index = find_tagged(notebook, PARAMETERS_TAG)
    if index is None or notebook_language(notebook) not in (None, "python"):
        return []
    source = _without_magics(cell_source(notebook["cells"][index]))
    try:
        tree = ast.parse(source)
        comments = _trailing_comments(source)
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return []
    found: dict[str, Parameter] = {}
    for statement in tree.body:
        annotation: ast.expr | None = None
        if isinstance(statement, ast.Assign):
            value, targets = statement.value, statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            value, targets, annotation = statement.value, [statement.target], statement.annotation
        else:
            continue
        comment = comments.get(statement.end_lineno or 0, "")
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = _parameter(target.id, annotation, value, comment, source)
    return list(found.values())


def check(values: Mapping[str, JsonValue], declared: Iterable[Parameter]) -> dict[str, JsonValue]:
    """The values fitted to what is declared: an int becomes a float where a float is meant, 3.0 becomes 3 where an int is meant.

    Names that the notebook does not declare pass, as with papermill.

    Raises:
        RunnerError: ``parameter.type``, with name, expected type and value in ``detail``.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    fitted: dict[str, JsonValue] = {}
    for name, value in values.items():
        parameter = by_name.get(name)
        fitted[name] = value if parameter is None else _fitted(parameter, value)
    return fitted


def unknown(values: Mapping[str, JsonValue], declared: Iterable[Parameter]) -> list[str]:
    """The names in ``values`` that the notebook does not declare, in their order."""
    names = {parameter.name for parameter in declared}
    return [name for name in values if name not in names]


def coerce_text(text: str, parameter: Parameter | None) -> JsonValue:
    """The value that a person means by ``text`` on a command line or in a form field.

    Without a declared type, text that is JSON is taken as JSON (``3``, ``true``, ``[1, 2]``), anything else as text.

    Raises:
        RunnerError: ``parameter.type``: the text is no value of the declared type.
    """
    if parameter is None or parameter.type is None:
        try:
            return _parsed_json(text)
        except ValueError:
            return text
    stripped = text.strip()
    if parameter.nullable and stripped in ("None", "null", ""):
        return None
    try:
        match parameter.type:
            case "str":
                return text
            case "int":
                return int(stripped)
            case "float":
                return float(stripped)
            case "bool":
                if stripped.lower() in _TRUE | _FALSE:
                    return stripped.lower() in _TRUE
            case _:
                value = _parsed_json(stripped)
                if type(value).__name__ == parameter.type:
                    return value
    except ValueError:
        pass
    raise _misfit(parameter, text)


def inject(notebook: dict[str, Any], values: Mapping[str, JsonValue], language: str) -> dict[str, Any]:
    """A copy of the notebook with the cell that sets ``values``, in papermill's place; unchanged when there are no values.

    Args:
        language: the kernel's language, see :func:`tessera_lab.runner.literals.assignments`.

    Raises:
        RunnerError: ``parameter.language``, ``parameter.name`` or ``parameter.type``.
    """
    if not values:
        return notebook
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [INJECTED_TAG]},
        "outputs": [],
        "source": f"{COMMENT_SIGN} Parameters\n{assignments(values, language)}",
    }
    if (notebook.get("nbformat", 4), notebook.get("nbformat_minor", 0)) >= (4, 5):
        cell["id"] = uuid.uuid4().hex[:8]
    cells = list(notebook["cells"])
    injected = find_tagged(notebook, INJECTED_TAG)
    declared = find_tagged(notebook, PARAMETERS_TAG)
    if injected is not None:
        cells[injected] = cell
    else:
        cells.insert(0 if declared is None else declared + 1, cell)
    return {**notebook, "cells": cells}


def find_tagged(notebook: Mapping[str, Any], tag: str) -> int | None:
    """Position of the first code cell with ``tag``."""
    for index, cell in enumerate(notebook.get("cells", ())):
        if isinstance(cell, Mapping) and cell.get("cell_type") == "code":
            tags = cell.get("metadata", {}).get("tags", ())
            if isinstance(tags, list | tuple) and tag in tags:
                return index
    return None


def notebook_language(notebook: Mapping[str, Any]) -> str | None:
    """The language that the notebook's metadata names, in small letters."""
    metadata = notebook.get("metadata", {})
    for section, field in (("kernelspec", "language"), ("language_info", "name")):
        value = metadata.get(section, {}).get(field)
        if isinstance(value, str) and value:
            return value.lower()
    return None


def cell_source(cell: Mapping[str, Any]) -> str:
    """A cell's text; files hold it as one string or as lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _parameter(name: str, annotation: ast.expr | None, value: ast.expr, comment: str, source: str) -> Parameter:
    computed, default = False, None
    try:
        default = _literal(value)
    except ValueError:
        computed = True
    type_name, nullable = _annotated(annotation) if annotation is not None else (None, False)
    matched = _TYPE_COMMENT.match(comment)
    if matched and type_name is None:
        type_name = _type_name(matched[1])
    if matched:
        comment = matched[2].lstrip("# ")
    if not computed and default is None:
        nullable = True
    elif type_name is None and not computed:
        type_name = type(default).__name__
    text = (ast.get_source_segment(source, value) or "")[:200]
    return Parameter(name, type_name, default, comment, nullable, text, computed)


def _literal(node: ast.expr) -> JsonValue:
    """The JSON value that an expression writes down.

    Raises:
        ValueError: it is not one.
    """
    match node:
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)], keywords=[]):
            return float(text)
        case ast.Constant(value=None | bool() | int() | float() | str() as plain):
            return plain
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _literal(operand)
            if type(number) not in (int, float):
                raise ValueError("not a number")
            assert isinstance(number, int | float)
            return -number if isinstance(sign, ast.USub) else number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs: dict[str, JsonValue] = {}
            for key, value in zip(keys, values, strict=True):
                match key:
                    case ast.Constant(value=str() as text):
                        pairs[text] = _literal(value)
                    case _:
                        raise ValueError("not a JSON key")
            return pairs
    raise ValueError("not a JSON value")


def _annotated(node: ast.expr) -> tuple[str | None, bool]:
    """Type name and whether ``None`` is allowed, from an annotation such as ``list[int]``, ``int | None``, ``Optional[int]``."""
    match node:
        case ast.Constant(value=None):
            return None, True
        case ast.Constant(value=str() as text):
            try:
                return _annotated(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return None, False
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _type_name(name), False
        case ast.Subscript(value=outer, slice=inner):
            name = outer.id if isinstance(outer, ast.Name) else getattr(outer, "attr", "")
            if name == "Optional":
                return _annotated(inner)[0], True
            return _type_name(name), False
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            (first, first_null), (second, second_null) = _annotated(left), _annotated(right)
            # A union of two types is not checked; a union with None is.
            either = first if _is_none(right) else second if _is_none(left) else None
            return either, first_null or second_null
    return None, False


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _type_name(name: str) -> str | None:
    name = _ANNOTATIONS.get(name, name)
    return name if name in _TYPES else None


def _without_magics(source: str) -> str:
    """IPython's ``%`` and ``!`` lines are no Python; each becomes ``pass`` in its place."""
    return "\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", line) for line in source.split("\n"))


def _trailing_comments(source: str) -> dict[int, str]:
    """Comment text by line number, for lines that hold code before the comment."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            comments[token.start[0]] = token.string.lstrip("#").strip()
    return comments


def _fitted(parameter: Parameter, value: JsonValue) -> JsonValue:
    if parameter.type is None:
        return value
    if value is None:
        if parameter.nullable:
            return None
        raise _misfit(parameter, value)
    actual = type(value).__name__
    if actual == parameter.type:
        return value
    # type() and not isinstance(): True is an int to Python, not to a person.
    if parameter.type == "float" and type(value) is int and abs(value) <= _LARGEST_EXACT:
        return float(value)
    if parameter.type == "int" and type(value) is float and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return int(value)
    raise _misfit(parameter, value)


def _misfit(parameter: Parameter, value: JsonValue) -> RunnerError:
    shown = repr(value)[:80]
    detail: dict[str, JsonValue] = {"name": parameter.name, "expected": parameter.type, "value": shown}
    return RunnerError("parameter.type", f"parameter {parameter.name} must be {parameter.type}, not {shown}", detail)


def _parsed_json(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _is_strict(value: JsonValue) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_is_strict, value))
    if isinstance(value, dict):
        return all(map(_is_strict, value.values()))
    return True
