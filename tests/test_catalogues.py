"""Chinese texts are complete, none is left over, and their fields are those of the English source."""

from __future__ import annotations

import ast
import inspect
import re
import string
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from tessera_hub.cli.commands import COMMANDS
from tessera_hub.cli.language import _CLICK_MODULES
from tessera_hub.cli.root import root
from tessera_hub.i18n import LOCALE_DIRECTORY, catalogue, read_catalogue

REPOSITORY = Path(__file__).parent.parent
SOURCES = (
    "hub/tessera_hub",
    "spawner/tessera_spawner",
    "extensions/tessera_lab",
    "widgets/tessera_widgets",
    "billing/tessera_billing",
    "vgpu/tessera_vgpu",
)
FUNCTIONS = {"_", "gettext", "mark", "N_"}
IN_TEMPLATES = re.compile(r"""(?<![A-Za-z])(?:_|gettext)\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")


def files(*suffixes: str) -> Iterator[Path]:
    for source in SOURCES:
        for path in sorted((REPOSITORY / source).rglob("*")):
            if path.suffix in suffixes and "node_modules" not in path.parts and "labextension" not in path.parts:
                yield path


def called_with(tree: ast.AST) -> Iterator[str]:
    """Texts that are given to a translating function, also as a choice between two."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = (
                node.func.id
                if isinstance(node.func, ast.Name)
                else node.func.attr
                if isinstance(node.func, ast.Attribute)
                else ""
            )
            if name in FUNCTIONS:
                first = node.args[0]
                for part in (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value


def literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
            yield inspect.cleandoc(node.value)


def command_texts(command: click.Command) -> Iterator[str]:
    """Help of a command, its options and its sub-commands, as a terminal shows it."""
    for text in (command.help, command.short_help, command.epilog):
        if text:
            yield inspect.cleandoc(text)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            yield parameter.help
    for child in getattr(command, "commands", {}).values():
        yield from command_texts(child)


def own_commands() -> Iterator[click.Command]:
    yield root
    for where, _about in COMMANDS.values():
        module, _colon, name = where.partition(":")
        yield getattr(import_module(module), name)


def wanted() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files(".py"):
        for text in called_with(ast.parse(path.read_text("utf-8"))):
            found.setdefault(text, str(path.relative_to(REPOSITORY)))
    for path in files(".html", ".j2"):
        for match in IN_TEMPLATES.finditer(path.read_text("utf-8")):
            found.setdefault(ast.literal_eval(match[1]), str(path.relative_to(REPOSITORY)))
    for command in own_commands():
        for text in command_texts(command):
            found.setdefault(text, f"help of {command.name}")
    found.pop("", None)
    return found


def test_every_text_has_a_translation() -> None:
    have = catalogue("zh_CN")
    assert sorted((text, where) for text, where in wanted().items() if text not in have) == []


def test_no_translation_is_left_over() -> None:
    used = set(wanted())
    for path in files(".py"):
        # Texts that a table holds and a later call translates.
        used.update(literals(ast.parse(path.read_text("utf-8"))))
    of_click: set[str] = set()
    for name in _CLICK_MODULES:
        of_click.update(literals(ast.parse(inspect.getsource(import_module(name)))))
    left: list[tuple[str, str]] = []
    for path in sorted((LOCALE_DIRECTORY / "zh_CN" / "LC_MESSAGES").glob("*.po")):
        have = of_click if path.stem == "click" else used
        left += [(path.name, text) for text in read_catalogue(path) if text not in have]
    assert left == []


def fields(text: str) -> set[str]:
    return {name for _literal, name, _format, _conversion in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("path", sorted((LOCALE_DIRECTORY / "zh_CN" / "LC_MESSAGES").glob("*.po")), ids=lambda path: path.stem)
def test_a_translation_has_the_fields_of_its_source(path: Path) -> None:
    def comparable(text: str) -> Any:
        try:
            return fields(text)
        except ValueError:
            return "not a format"

    texts = read_catalogue(path)
    assert {s: t for s, t in texts.items() if comparable(s) != comparable(t)} == {}
