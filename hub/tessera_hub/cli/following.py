"""Following a task in the terminal: its output on standard output, its states on standard error."""

from __future__ import annotations

import json
import time

import click

from tessera_hub.client import TaskHandle, TesseraError
from tessera_hub.client.following import LOG_PAUSE_SECONDS, LogReader, Watch
from tessera_hub.client.wording import money, phase_text, situation
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Phase, Task

from .output import ExitCode, short_id

PATIENCE_SECONDS = 600.0
"""How long a service that does not answer is waited for; the task goes on meanwhile."""

LOG_AFTER_END_SECONDS = 20.0
"""How long the rest of the output is waited for after the end of a task."""


def follow_task(task: TaskHandle, *, as_json: bool) -> ExitCode:
    """Print output and states until the task ends; return the exit code.

    With *as_json* one object a line: ``{"task": …}`` for a state, ``{"log": "text"}`` for output.
    """
    printer = _Printer(as_json=as_json)
    try:
        end = _follow(task, printer)
    except KeyboardInterrupt:
        click.echo(
            _("\nThe task goes on. Follow it again with: tessera logs -f {identifier}", identifier=short_id(task.id)), err=True
        )
        return ExitCode.INTERRUPTED
    printer.end(end)
    return ExitCode.DONE if end.phase is Phase.SUCCEEDED else ExitCode.TASK_FAILED


def _follow(task: TaskHandle, printer: _Printer) -> Task:
    watch, reader = Watch(task.id), LogReader(task.id, run=task.task.run_id)
    if not task.task.phase.final:
        printer.state(task.task)
    silent_since: float | None = None
    ended_at: float | None = None
    while True:
        try:
            changed = task.client.run(watch.look())
            if changed is not None:
                if changed.run_id != reader.run:
                    # A new attempt begins a new log.
                    reader = LogReader(task.id, run=changed.run_id)
                task.task = changed
                if not changed.phase.final:
                    printer.state(changed)
            text = task.client.run(reader.read())
            silent_since = None
        except TesseraError as error:
            if error.code not in ("service.unreachable", "service.unavailable", "hub.unavailable"):
                raise
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                printer.note(error.message)
            if now - silent_since > PATIENCE_SECONDS:
                raise
            text = ""
        if text:
            printer.output(text)
            continue
        if task.task.phase.final and silent_since is None:
            ended_at = ended_at or time.monotonic()
            if reader.final or time.monotonic() - ended_at > LOG_AFTER_END_SECONDS:
                # Its last output stands before the end.
                printer.state(task.task)
                return task.task
        time.sleep(LOG_PAUSE_SECONDS)


class _Printer:
    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last: tuple[Phase, str] | None = None
        self._line_open = False

    def state(self, task: Task) -> None:
        if self._as_json:
            click.echo(json.dumps({"task": task.model_dump(mode="json")}, ensure_ascii=False))
            return
        seen = (task.phase, situation(task))
        if seen != self._last:
            self._last = seen
            self.note(" · ".join(part for part in (phase_text(task.phase), seen[1]) if part))

    def output(self, text: str) -> None:
        if self._as_json:
            click.echo(json.dumps({"log": text}, ensure_ascii=False))
            return
        click.echo(text, nl=False)
        self._line_open = not text.endswith("\n")

    def note(self, text: str) -> None:
        if self._as_json:
            click.echo(json.dumps({"note": text}, ensure_ascii=False))
            return
        if self._line_open:
            click.echo()
            self._line_open = False
        click.echo(click.style(f"▸ {text}", dim=True), err=True)

    def end(self, task: Task) -> None:
        if not self._as_json and task.cost is not None:
            self.note(_("Cost: {amount}", amount=money(task.cost.micro, task.cost.currency)))
