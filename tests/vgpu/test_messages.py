"""Every text that a VgpuError may show has its Chinese one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

import tessera_vgpu
from tessera_hub.i18n import LOCALE_DIRECTORY, read_catalogue
from tessera_vgpu.errors import VgpuError

CHINESE = read_catalogue(LOCALE_DIRECTORY / "zh_CN/LC_MESSAGES/vgpu.po")


def texts() -> Iterator[str]:
    for path in Path(tessera_vgpu.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "VgpuError":
                yield from (ast.literal_eval(argument) for argument in node.args[1:])


def fields(text: str) -> set[str]:
    return {name for _literal, name, _format, _conversion in Formatter().parse(text) if name}


@pytest.mark.parametrize("text", sorted(set(texts())))
def test_a_text_has_a_translation_with_its_places(text: str) -> None:
    assert fields(CHINESE[text]) == fields(text)


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = VgpuError("slots.locked", "Another node agent uses {folder}.", "Stop it.", folder="/x")
    assert str(error) == "Another node agent uses /x. Stop it."
    assert (error.code, error.message, error.hint, error.values) == (
        "slots.locked",
        "Another node agent uses /x.",
        "Stop it.",
        {"folder": "/x"},
    )
