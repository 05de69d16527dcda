"""``%%tessera`` sends a cell as a job, ``%tessera FILE`` a notebook or script; both through the SDK."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from IPython.core.error import UsageError

from tessera_hub.client import SubmitOptions, TaskHandle, TesseraClient, TesseraError, spoken_language
from tessera_hub.client.wording import money, phase_text, situation
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_lab.runner import RunnerError
from tessera_lab.runner.parameters import coerce_text

_CELL_FILE: Final = "cell.py"


class _Parser(argparse.ArgumentParser):
    """Tells a mistake as a usage error instead of ending the kernel."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage()}")


def _parser(name: str, *, takes_file: bool) -> _Parser:
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False)
    if takes_file:
        parser.add_argument("file")
    for option in ("--cards", "--cpu", "--memory", "--name", "--queue", "--cluster"):
        parser.add_argument(option)
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", dest="datasets")
    parser.add_argument("--kind", choices=["script", "training", "finetune", "service"])
    parser.add_argument("--port", type=int)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--framework", choices=["none", "pytorch", "tensorflow", "mpi"])
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    return parser


def submit_options(arguments: argparse.Namespace) -> SubmitOptions:
    """The options of a submit from the words of a magic.

    Raises:
        UsageError: a parameter is not ``NAME=VALUE``.
    """
    options: SubmitOptions = {}
    if arguments.cards is not None:
        options["cards"] = arguments.cards
    if arguments.cpu is not None:
        options["cpu"] = arguments.cpu
    if arguments.memory is not None:
        options["memory"] = arguments.memory
    if arguments.name is not None:
        options["name"] = arguments.name
    if arguments.queue is not None:
        options["queue"] = arguments.queue
    if arguments.cluster is not None:
        options["cluster"] = arguments.cluster
    if arguments.datasets:
        options["datasets"] = arguments.datasets
    if arguments.kind is not None:
        options["kind"] = arguments.kind
    if arguments.port is not None:
        options["port"] = arguments.port
    if arguments.nodes is not None:
        options["nodes"] = arguments.nodes
    if arguments.framework is not None:
        options["framework"] = arguments.framework
    parameters = {}
    for text in arguments.param:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(_("--param needs NAME=VALUE, not {text}", text=text))
        parameters[name] = coerce_text(value, None)
    if parameters:
        options["parameters"] = parameters
    return options


def submit_line(line: str) -> Any:
    """``%tessera FILE [options]``: run a notebook or script as a job; gives the task."""
    with language(spoken_language()):
        arguments = _words(_parser("%tessera", takes_file=True), line)
        return _submit(Path(arguments.file), arguments)


def submit_cell(line: str, cell: str) -> Any:
    """``%%tessera [options]``: run the cell's text as a script; gives the task. Variables of this kernel are not there."""
    with language(spoken_language()), tempfile.TemporaryDirectory(prefix="tessera-") as folder:
        arguments = _words(_parser("%%tessera", takes_file=False), line)
        path = Path(folder) / _CELL_FILE
        path.write_text(cell, encoding="utf-8")
        return _submit(path, arguments)


def _words(parser: _Parser, line: str) -> argparse.Namespace:
    try:
        return parser.parse_args(shlex.split(line))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _submit(path: Path, arguments: argparse.Namespace) -> Any:
    """Send, show where it stands, follow if asked to. A refusal is told without a traceback."""
    try:
        options = submit_options(arguments)
        client = TesseraClient()
        if arguments.dry_run:
            return client.dry_run(path, **options)
        task = client.submit(path, **options)
        if arguments.follow:
            _follow(task)
        else:
            _show(task)
    except (TesseraError, RunnerError) as error:
        hint = getattr(error, "hint", "")
        raise UsageError(f"{error.message} {hint}".strip() + f" ({error.code})") from error
    return task


def _follow(task: TaskHandle) -> None:
    """Write states and output until the task has ended. An interrupt of the kernel ends only the following."""
    last = ""
    try:
        for update in task.follow():
            if update.kind == "log" and update.data.get("stream", "output") == "output":
                sys.stdout.write(update.data["text"])
            elif update.task is not None:
                now = " · ".join(part for part in (phase_text(update.task.phase), situation(update.task)) if part)
                if now != last:
                    last = now
                    sys.stdout.write(f"▸ {now}\n")
    except KeyboardInterrupt:
        sys.stdout.write(
            "\n" + _("The task goes on. Follow it again with: {code}", code="for text in _.logs(follow=True): …") + "\n"
        )
        return
    if cost := task.task.cost:
        sys.stdout.write("▸ " + _("Cost: {amount}", amount=money(cost.micro, cost.currency)) + "\n")


def _show(task: TaskHandle) -> None:
    """Show the task live where the kernel has widgets."""
    try:
        from IPython.display import display

        from tessera_widgets import TaskView
    except ImportError:
        return
    display(TaskView(task))  # type: ignore[no-untyped-call]  # IPython has no types for it
