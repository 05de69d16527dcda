"""All commands in one table. Each is imported when it is used, so that the base install works without the hub's packages."""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import mark

from .language import localised

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "submit": ("tessera_hub.cli.submitting:submit", mark("Run a notebook or script as a task.")),
    "estimate": ("tessera_hub.cli.submitting:estimate", mark("Say what a task would cost and when it would start.")),
    "tasks": ("tessera_hub.cli.tasks:tasks", mark("List tasks, newest first.")),
    "show": ("tessera_hub.cli.tasks:show", mark("Show one task.")),
    "logs": ("tessera_hub.cli.tasks:logs", mark("Print the output of a task.")),
    "cancel": ("tessera_hub.cli.tasks:cancel", mark("End tasks.")),
    "retry": ("tessera_hub.cli.tasks:retry", mark("Run a task that ended again.")),
    "outputs": ("tessera_hub.cli.tasks:outputs", mark("List or download what a task gave back.")),
    "schedules": ("tessera_hub.cli.schedules:command", mark("Repeat a task by the clock.")),
    "bill": ("tessera_hub.cli.costs:bill", mark("Show what a task, a month or your work costs.")),
    "queues": ("tessera_hub.cli.places:queues", mark("Show queues and quotas.")),
    "clusters": ("tessera_hub.cli.places:clusters", mark("Show the connected clusters.")),
    "datasets": ("tessera_hub.cli.places:datasets", mark("Show the data sets that your tasks may read.")),
    "capacity": ("tessera_hub.cli.places:capacity", mark("Show what is free where, and its price.")),
    "login": ("tessera_hub.cli.session:login", mark("Store the address and a token of a service.")),
    "whoami": ("tessera_hub.cli.session:whoami", mark("Show who you are for the service.")),
    "up": ("tessera_hub.up:command", mark("Run Tessera on this machine.")),
    "demo": ("tessera_hub.demo:command", mark("Take the whole tour without a browser.")),
    "doctor": ("tessera_hub.doctor:command", mark("Check an installation and say what to do.")),
    "queue": ("tessera_hub.cli.queue:command", mark("Add queues and set quotas.")),
    "price": ("tessera_hub.cli.price:command", mark("Show and set prices.")),
    "cluster": ("tessera_hub.cli.cluster:command", mark("Add, show, drain and remove clusters.")),
    "proxy": ("tessera_hub.proxy.command:command", mark("Run the agent of a cluster.")),
    "service": ("tessera_hub.api.command:command", mark("Run the hub service.")),
    "vgpu": ("tessera_hub.cli.vgpu:command", mark("Share the cards of this node, look at slices, or simulate cards.")),
}
"""Name → where the command is, and one line about it."""

EXTRAS: Final = {"up": "all", "demo": "all", "doctor": "hub", "service": "hub", "proxy": "proxy", "vgpu": "node"}
"""What a command needs besides the base install."""


class CommandTable(click.Group):
    """A group whose commands come from :data:`COMMANDS`, in its order, in the current language."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            click.ClickException: its packages are not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        module, _colon, name = COMMANDS[cmd_name][0].partition(":")
        try:
            command: Any = getattr(importlib.import_module(module), name)
        except ImportError as error:
            extra = EXTRAS.get(cmd_name)
            if extra is None:
                raise
            raise click.ClickException(
                _(
                    "This command needs packages that are not installed ({name}). Install them with: {command}",
                    name=error.name or error,
                    command=f"pip install 'tessera-hub[{extra}]'",
                )
            ) from error
        return localised(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section(_("Commands")):
            formatter.write_dl([(name, _(about)) for name, (_where, about) in COMMANDS.items()])
