"""Parameters: what a notebook declares, what fits, and that no value becomes code."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_lab.runner import RunnerError
from tessera_lab.runner.literals import assignments
from tessera_lab.runner.parameters import Parameter, check, coerce_text, infer, inject, unknown

TEXT = st.text(alphabet=st.characters(exclude_categories=()))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


def book(source: str, *, tag: str = "parameters", language: str | None = None) -> dict[str, Any]:
    metadata = {"kernelspec": {"language": language}} if language else {}
    cell = {"cell_type": "code", "metadata": {"tags": [tag]}, "source": source.splitlines(keepends=True), "outputs": []}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [cell]}


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return math.isnan(left) if math.isnan(right) else (left == right and math.copysign(1, left) == math.copysign(1, right))
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@given(VALUES)
def test_a_value_comes_back_equal_from_its_python_source(value: Any) -> None:
    source = assignments({"x": value}, "python")
    namespace: dict[str, Any] = {}
    exec(source.encode("utf-8"), namespace)
    assert same(namespace["x"], value)
    assert set(namespace) == {"x", "__builtins__"}


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0")) | st.integers() | st.booleans())
def test_a_value_comes_back_equal_from_its_bash_source(value: Any) -> None:
    source = assignments({"x": value}, "bash") + '\nprintf "%s|" "$x"'
    found = subprocess.run(["bash"], input=source.encode(), capture_output=True, check=True).stdout.decode()
    assert found == (value if isinstance(value, str) else json.dumps(value)) + "|"


def test_a_list_becomes_a_bash_array() -> None:
    source = assignments({"x": ["a b", 1, True, None, "$(id)"]}, "bash") + '\nprintf "%s|" "${x[@]}"'
    assert subprocess.run(["bash", "-c", source], capture_output=True, check=True, text=True).stdout == "a b|1|true||$(id)|"


@pytest.mark.parametrize(
    ("language", "value", "literal"),
    [
        ("R", None, "x <- NULL"),
        ("R", True, "x <- TRUE"),
        ("R", 3, "x <- 3L"),
        ("R", 2**40, "x <- 1099511627776"),
        ("R", -math.inf, "x <- -Inf"),
        ("R", 1e16, "x <- 1e+16"),
        ("R", 'a"\\\n\x01漢', 'x <- "a\\"\\\\\\n\\u0001漢"'),
        ("R", {"a b": [1, "c"]}, 'x <- list("a b" = list(1L, "c"))'),
        ("julia", None, "x = nothing"),
        ("julia", False, "x = false"),
        ("julia", math.nan, "x = NaN"),
        ("julia", "$(run(`id`))", 'x = "\\$(run(`id`))"'),
        ("julia", {"k": [1, 2.5]}, 'x = Dict{String,Any}("k" => Any[1, 2.5])'),
    ],
)
def test_literals_of_other_languages(language: str, value: Any, literal: str) -> None:
    assert assignments({"x": value}, language) == literal


@pytest.mark.parametrize(
    ("language", "name", "value", "code"),
    [
        ("python", "x; import os", 1, "parameter.name"),
        ("python", "class", 1, "parameter.name"),
        ("python", "a.b", 1, "parameter.name"),
        pytest.param("python", "x", 10**5000, "parameter.type", id="python-long"),
        ("python", "x", (1, 2), "parameter.type"),
        ("R", "TRUE", 1, "parameter.name"),
        ("R", "x <- 1; y", 1, "parameter.name"),
        ("R", "x", 2**60, "parameter.type"),
        ("R", "x", "a\0", "parameter.type"),
        ("R", "x", {"": 1}, "parameter.type"),
        ("julia", "end", 1, "parameter.name"),
        ("julia", "x", "\ud800", "parameter.type"),
        ("bash", "PATH", "x", "parameter.name"),
        ("bash", "x", {"a": 1}, "parameter.type"),
        ("bash", "x", [[1]], "parameter.type"),
        ("bash", "x", "a\0", "parameter.type"),
        ("cobol", "x", 1, "parameter.language"),
    ],
)
def test_what_has_no_literal_is_refused(language: str, name: str, value: Any, code: str) -> None:
    with pytest.raises(RunnerError) as refused:
        assignments({name: value}, language)
    assert refused.value.code == code
    json.dumps(refused.value.detail)


def test_a_value_nested_too_deep_is_refused() -> None:
    value: Any = 1
    for _ in range(60):
        value = [value]
    with pytest.raises(RunnerError) as refused:
        assignments({"x": value}, "python")
    assert refused.value.code == "parameter.type"


def test_declared_parameters_are_read_with_type_default_and_help() -> None:
    source = """
%matplotlib inline
import os
epochs = 3  # how many times
rate: float = 1  # learning rate
name = "a # b"
flag = True
layers = [64, 32]
options = {"a": -1.5}
shape = (2, 3)
seed = None
limit: int | None = None  # none is no limit
depth: "Optional[int]" = 4
ratio = float("inf")
old = 5  # type: float an old style
home = os.path.expanduser("~")
a = b = 1
x, y = 1, 2
epochs_twice = epochs * 2
for i in range(3):
    inner = i
"""
    found = {parameter.name: parameter for parameter in infer(book(source))}
    assert found["epochs"] == Parameter("epochs", "int", 3, "how many times", False, "3", False)
    assert found["rate"] == Parameter("rate", "float", 1, "learning rate", False, "1", False)
    assert (found["name"].type, found["name"].default, found["name"].help) == ("str", "a # b", "")
    assert (found["flag"].type, found["flag"].default) == ("bool", True)
    assert (found["layers"].type, found["layers"].default) == ("list", [64, 32])
    assert (found["options"].type, found["options"].default) == ("dict", {"a": -1.5})
    assert (found["shape"].type, found["shape"].default) == ("list", [2, 3])
    assert (found["seed"].type, found["seed"].nullable) == (None, True)
    assert (found["limit"].type, found["limit"].nullable, found["limit"].help) == ("int", True, "none is no limit")
    assert (found["depth"].type, found["depth"].nullable) == ("int", True)
    assert (found["ratio"].type, found["ratio"].default) == ("float", math.inf)
    assert (found["old"].type, found["old"].help) == ("float", "an old style")
    assert (found["home"].type, found["home"].computed, found["home"].source) == (None, True, 'os.path.expanduser("~")')
    assert (found["a"].default, found["b"].default) == (1, 1)
    assert found["epochs_twice"].computed
    assert not {"x", "y", "i", "inner", "os"} & set(found)
    assert json.loads(json.dumps([p.as_json() for p in found.values()], allow_nan=False))[0]["name"] == "epochs"
    assert found["ratio"].as_json() | {"default": None, "source": 'float("inf")'} == found["ratio"].as_json()


@pytest.mark.parametrize(
    "notebook",
    [
        book("x = ("),
        book("x = 1", tag="other"),
        book("x = 1", language="R"),
        book("x = 1\0"),
        {"cells": []},
        {},
    ],
)
def test_a_notebook_without_readable_parameters_declares_none(notebook: dict[str, Any]) -> None:
    assert infer(notebook) == []


def test_reading_parameters_runs_nothing(tmp_path: Any) -> None:
    target = tmp_path / "ran"
    infer(book(f"x = open({str(target)!r}, 'w')\ny = __import__('os').system('touch {target}')"))
    assert not target.exists()


DECLARED = [
    Parameter("i", "int", 1),
    Parameter("f", "float", 1.0),
    Parameter("s", "str", ""),
    Parameter("b", "bool", False),
    Parameter("n", "int", None, nullable=True),
    Parameter("any", None, None),
]


def test_values_are_fitted_to_the_declared_types() -> None:
    fitted = check({"i": 3.0, "f": 2, "s": "x", "b": True, "n": None, "any": {"a": []}, "extra": 1}, DECLARED)
    assert fitted == {"i": 3, "f": 2.0, "s": "x", "b": True, "n": None, "any": {"a": []}, "extra": 1}
    assert (type(fitted["i"]), type(fitted["f"])) == (int, float)
    assert unknown(fitted, DECLARED) == ["extra"]


@pytest.mark.parametrize(
    ("name", "value"), [("i", "3"), ("i", 3.5), ("i", True), ("i", None), ("f", "1"), ("f", True), ("s", 1), ("b", 1)]
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RunnerError) as refused:
        check({name: value}, DECLARED)
    assert refused.value.code == "parameter.type"
    expected = {"i": "int", "f": "float", "s": "str", "b": "bool"}[name]
    assert refused.value.detail == {"name": name, "expected": expected, "value": repr(value)}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", "int", 3),
        (" -4 ", "int", -4),
        ("3", "float", 3.0),
        ("nan", "float", math.nan),
        ("3", "str", "3"),
        ("yes", "bool", True),
        ("False", "bool", False),
        ("[1, 2]", "list", [1, 2]),
        ('{"a": 1}', "dict", {"a": 1}),
        ("3", None, 3),
        ("abc", None, "abc"),
        ("true", None, True),
    ],
)
def test_text_of_a_command_line_becomes_a_value(text: str, kind: str | None, value: Any) -> None:
    assert same(coerce_text(text, Parameter("x", kind)), value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("three", "int"), ("3.5", "int"), ("x", "float"), ("2", "bool"), ("{}", "list"), ("[", "list"), ("1", "dict")],
)
def test_text_that_is_no_value_of_the_type_is_refused(text: str, kind: str) -> None:
    with pytest.raises(RunnerError) as refused:
        coerce_text(text, Parameter("x", kind))
    assert refused.value.code == "parameter.type"
    assert refused.value.detail == {"name": "x", "expected": kind, "value": repr(text)}


def test_text_without_a_declaration_is_json_or_text() -> None:
    assert coerce_text("[1", None) == "[1"
    assert coerce_text("null", None) is None
    assert coerce_text("[" * 100_000, None) == "[" * 100_000
    assert coerce_text("none it is", Parameter("x", "str", nullable=True)) == "none it is"
    assert coerce_text("None", Parameter("x", "int", nullable=True)) is None


def test_the_injected_cell_has_papermills_place_and_tag() -> None:
    first = inject(book("x = 1"), {"x": 2}, "python")
    assert [cell["metadata"]["tags"] for cell in first["cells"]] == [["parameters"], ["injected-parameters"]]
    second = inject(first, {"x": 3}, "python")
    assert [cell["source"] for cell in second["cells"][1:]] == ["# Parameters\nx = 3"]
    assert inject(book("x = 1", tag="none"), {"x": 2}, "python")["cells"][0]["metadata"]["tags"] == ["injected-parameters"]
    assert inject(book("x = 1"), {}, "cobol") == book("x = 1")
    nbformat.validate(
        nbformat.from_dict(inject({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}, {"x": 1}, "python"))
    )
    original = book("x = 1")
    inject(original, {"x": 2}, "python")
    assert original == book("x = 1")
