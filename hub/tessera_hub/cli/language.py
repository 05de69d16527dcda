"""Help and messages of click in the language of the terminal."""

from __future__ import annotations

import copy
import importlib
import inspect
from typing import Final

import click

from tessera_hub.i18n import current_language
from tessera_hub.i18n import gettext as _

_CLICK_MODULES: Final = (
    "click.core",
    "click.decorators",
    "click.exceptions",
    "click.formatting",
    "click.parser",
    "click.termui",
    "click.types",
)


def localised(command: click.Command) -> click.Command:
    """Return a copy of *command* whose help is in the current language; the command itself stays English."""
    spoken = copy.copy(command)
    for name in ("help", "short_help", "epilog"):
        if text := getattr(command, name):
            setattr(spoken, name, _(inspect.cleandoc(text)))
    spoken.params = [_parameter(parameter) for parameter in command.params]
    if isinstance(command, click.Group) and isinstance(spoken, click.Group):
        spoken.commands = {name: localised(child) for name, child in command.commands.items()}
    return spoken


def _parameter(parameter: click.Parameter) -> click.Parameter:
    if not isinstance(parameter, click.Option) or not parameter.help:
        return parameter
    spoken = copy.copy(parameter)
    spoken.help = _(parameter.help)
    return spoken


def translate_click() -> None:
    """Let click's own messages ("Missing argument", "Usage") come from our catalogue.

    click asks the C library's catalogues by ``gettext``, and no Chinese ones are shipped with it; its modules look the function
    up under the name ``_``, which is replaced here once, before anything is parsed.
    """
    if current_language() == "en":
        return
    for name in _CLICK_MODULES:
        module = importlib.import_module(name)
        if hasattr(module, "_"):
            vars(module)["_"] = _
