"""What a command prints: a table for people, JSON for programs, and errors with an exit code."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, TypeVar
from uuid import UUID

import click
from pydantic import BaseModel
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tessera_hub.client import TaskHandle, TesseraClient, TesseraError
from tessera_hub.client.wording import amount, dimension, phase_text
from tessera_hub.i18n import current_language
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


READABLE_CELLS = 16
"""A column that would be narrower than this and than its content is left out."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    DONE = 0
    TASK_FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    NOT_SIGNED_IN = 4
    INTERRUPTED = 130


_PHASE_STYLE = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "bold red",
    Phase.CANCELLED: "yellow",
    Phase.PREEMPTED: "yellow",
    Phase.UNKNOWN: "magenta",
    Phase.RUNNING: "cyan",
}


def exit_code(error: TesseraError) -> ExitCode:
    """Return the exit code of a refusal."""
    if error.status == 401 or error.code in ("auth.refused", "client.not_configured"):
        return ExitCode.NOT_SIGNED_IN
    if error.code in ("service.unreachable", "service.unavailable", "hub.unavailable"):
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED


def connected(command: CommandT) -> CommandT:
    """Give a command ``--json`` and, as its first argument, a connected client; turn refusals into messages and exit codes.

    The command gets ``as_json``.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @functools.wraps(command)
    def run(*args: Any, as_json: bool, **options: Any) -> None:
        context = click.get_current_context()
        try:
            with TesseraClient(context.find_root().params.get("url"), speak=current_language()) as client:
                command(client, *args, as_json=as_json, **options)
        except TesseraError as error:
            fail(error, as_json=as_json)

    return run  # type: ignore[return-value]  # the wrapper takes the place of the command for click


def fail(error: TesseraError, *, as_json: bool) -> None:
    """Print *error* on standard error and end with its exit code."""
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}, ensure_ascii=False), err=True)
    else:
        click.echo(click.style(_("Error: "), fg="red", bold=True) + str(error), err=True)
        for excess in map(_most, error.reasons):
            if excess:
                click.echo(excess, err=True)
        for reason in error.reasons[1:]:
            click.echo(f"  {reason.message or reason.code}", err=True)
        click.echo(click.style(f"[{error.code}]", dim=True), err=True)
    sys.exit(exit_code(error))


def _most(reason: Reason) -> str:
    """Return what there is at most of what a refusal is about, empty if it does not say."""
    name, total = reason.detail.get("dimension"), reason.detail.get("total")
    if not isinstance(name, str) or not isinstance(total, int):
        return ""
    return _("{label}: at most {total}.", label=dimension(name), total=amount(name, total))


def print_json(value: Any) -> None:
    """Print models, or plain data, as JSON with an indent."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """Return *value* as JSON data."""
    if isinstance(value, TaskHandle):
        return value.task.model_dump(mode="json")
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Text | str]], *, right: Sequence[int] = (), empty: str) -> None:
    """Print a table as wide as its content or the terminal, or *empty* when it has no rows.

    Args:
        right: indices of columns of numbers.
        empty: what to do next.
    """
    lines = list(rows)
    if not lines:
        click.echo(empty)
        return
    out = console()
    kept = _columns_that_fit(headings, lines, out.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index in kept:
        table.add_column(headings[index], justify="right" if index in right else "left", overflow="ellipsis", no_wrap=True)
    for line in lines:
        table.add_row(*(line[index] for index in kept))
    out.print(table)


def _columns_that_fit(headings: Sequence[str], lines: Sequence[Sequence[Text | str]], width: int) -> list[int]:
    """Return the columns to show: in a narrow terminal the last ones are left out rather than all cut to pieces."""
    kept: list[int] = []
    used = -1
    for index, heading in enumerate(headings):
        widest = max(cell_len(heading), *(cell_len(str(line[index])) for line in lines))
        # The last one that fits in part may be cut, if enough of it is left to be read.
        if kept and used + 1 + min(widest, READABLE_CELLS) > width:
            break
        kept.append(index)
        used += 1 + widest
    return kept


def print_facts(facts: Iterable[tuple[str, Text | str]]) -> None:
    """Print names and values, one pair a line; an empty value is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, value)
    console().print(table)


def console() -> Console:
    """Return a console on standard output; redirected output is wide and plain, so that no line is cut."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, highlight=False, markup=False, width=None if terminal else 200)


def styled_phase(phase: Phase) -> Text:
    """Return the phase's name in its colour."""
    return Text(phase_text(phase), style=_PHASE_STYLE.get(phase, ""))


def short_id(identifier: UUID) -> str:
    """Return the first eight digits, which :func:`find_task` takes."""
    return str(identifier)[:8]


def find_task(client: TesseraClient, text: str) -> TaskHandle:
    """Return the task of an id, or of the beginning of one among the newest thousand.

    Raises:
        TesseraError: ``task.not_found`` or ``task.ambiguous``.
    """
    try:
        return client.task(UUID(text))
    except ValueError:
        # Not a whole id.
        pass
    start = text.lower()
    found = [task for task in client.tasks(limit=1000) if str(task.id).startswith(start)] if len(start) >= 4 else []
    if len(found) == 1:
        return found[0]
    if found:
        raise TesseraError(
            "task.ambiguous",
            _("Several tasks begin with {text}.", text=text),
            _("Give more digits: {names}.", names=", ".join(str(task.id) for task in found[:5])),
        )
    raise TesseraError(
        "task.not_found",
        _("There is no task {text}.", text=text),
        _("`tessera tasks` lists the tasks; give an id or at least its first four digits."),
    )
