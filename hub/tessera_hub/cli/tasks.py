"""``tessera tasks``, ``show``, ``logs``, ``cancel``, ``retry`` and ``outputs``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from tessera_hub.client import TesseraClient, TesseraError
from tessera_hub.client.wording import duration, memory, money, phase_text, progress, rate, resources, situation
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Phase, Task, TaskDetail, TaskKind

from .following import follow_task
from .output import ExitCode, connected, exit_code, find_task, print_facts, print_json, print_table, short_id, styled_phase


@click.command()
@click.option("--all", "everybody", is_flag=True, help="Also tasks of others in your tenants.")
@click.option(
    "--phase",
    multiple=True,
    type=click.Choice([p.value for p in Phase], case_sensitive=False),
    help="Only this phase. May be repeated.",
)
@click.option("--kind", type=click.Choice([k.value for k in TaskKind]), help="Only this kind.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option("--search", metavar="TEXT", help="Only names with this text.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@connected
def tasks(
    client: TesseraClient,
    everybody: bool,
    phase: tuple[str, ...],
    kind: str | None,
    tenant: str | None,
    search: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List tasks, newest first."""
    found = client.tasks(phase=phase or None, kind=kind, tenant=tenant, mine=not everybody, search=search, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Task"), _("Name"), _("State"), _("Cluster"), _("Cells"), _("Resources"), _("Run time"), _("Cost"), _("Owner")],
        (
            [
                short_id(task.id),
                task.task.name,
                styled_phase(task.phase),
                task.task.cluster or "",
                progress(task.task.progress),
                resources(task.task.resources),
                run_time(task.task),
                money(task.task.cost.micro, task.task.cost.currency) if task.task.cost else "",
                task.task.owner,
            ]
            for task in found
        ),
        right=(4, 6, 7),
        empty=_("No tasks. Start one with: tessera submit notebook.ipynb"),
    )


def run_time(task: Task) -> str:
    """Return how long the latest run has run."""
    if task.started_at is None:
        return ""
    return duration(max(0, int(((task.finished_at or datetime.now(UTC)) - task.started_at).total_seconds())))


@click.command()
@click.argument("task")
@click.option("--events", is_flag=True, help="Also everything that happened.")
@connected
def show(client: TesseraClient, task: str, events: bool, as_json: bool) -> None:
    """Show one task."""
    handle = find_task(client, task)
    detail = handle.refresh()
    happened = handle.events() if events else None
    if as_json:
        print_json(detail if happened is None else {"task": detail, "events": list(happened)})
        return
    print_facts(_facts(detail))
    if happened is not None:
        print_table(
            [_("Time"), _("Event"), _("By"), _("Reason")],
            (
                [
                    local_time(event.at),
                    phase_text(event.phase_to) if event.phase_to else event.kind,
                    event.actor,
                    (event.reason.message or event.reason.code) if event.reason else "",
                ]
                for event in happened
            ),
            empty=_("Nothing happened yet."),
        )


def _facts(task: TaskDetail) -> list[tuple[str, str]]:
    cost = ""
    if task.cost is not None:
        cost = money(task.cost.micro, task.cost.currency)
        if not task.phase.final:
            cost += " · " + rate(task.cost.nano_per_hour, task.cost.currency)
    # The situation names the first reason; a success has only notes, such as files that were not kept.
    further = task.reasons if task.phase is Phase.SUCCEEDED else task.reasons[1:]
    return [
        (_("Task"), str(task.id)),
        (_("Name"), task.name),
        (_("State"), phase_text(task.phase)),
        (_("Situation"), situation(task)),
        *((_("Reason"), reason.message or reason.code) for reason in further),
        (_("File"), task.entry or ""),
        (_("Parameters"), ", ".join(f"{name}={value!r}" for name, value in task.spec.parameters.items())),
        (_("Owner"), task.owner),
        (_("Tenant"), task.tenant),
        (_("Queue"), task.queue),
        (_("Cluster"), task.cluster or ""),
        (_("Resources"), resources(task.resources)),
        (_("Attempts"), str(task.attempts)),
        (_("Submitted"), local_time(task.created_at)),
        (_("Started"), local_time(task.started_at)),
        (_("Ended"), local_time(task.finished_at)),
        (_("Run time"), run_time(task)),
        (_("Cost"), cost),
    ]


def local_time(moment: datetime | None) -> str:
    """Return a time in the terminal's zone, with its offset from UTC."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends.")
@click.option(
    "--progress", "stream", flag_value="progress", default="output", help="The runner's progress instead of the output."
)
@click.option("--part", type=click.IntRange(0), default=0, help="Output of this part of a task of several nodes; 0 is the first.")
@connected
def logs(client: TesseraClient, task: str, follow: bool, stream: str | None, part: int, as_json: bool) -> None:
    """Print the output of a task.

    With --follow the exit code says how the task ended.
    """
    handle = find_task(client, task)
    if part and stream != "progress":
        stream = f"part-{part}"
    if follow and stream == "output":
        sys.exit(follow_task(handle, as_json=as_json))
    text = handle.logs(follow=follow, stream=stream or "output")
    if as_json:
        print_json({"task": str(handle.id), "log": "".join(text)})
        return
    for piece in text:
        click.echo(piece, nl=False)
    if follow:
        sys.exit(0 if handle.refresh().phase is Phase.SUCCEEDED else 1)


@click.command()
@click.argument("tasks", nargs=-1, required=True)
@connected
def cancel(client: TesseraClient, tasks: tuple[str, ...], as_json: bool) -> None:
    """End tasks, each with its grace period; a task that ended stays as it is."""
    ended: list[Task] = []
    worst = ExitCode.DONE
    for text in tasks:
        try:
            ended.append(find_task(client, text).cancel())
        except TesseraError as error:
            if len(tasks) == 1:
                raise
            click.echo(f"{text}: {error}", err=True)
            worst = max(worst, exit_code(error))
    if as_json:
        print_json(ended)
    else:
        for task in ended:
            click.echo(_("{identifier} {name}: {state}", identifier=short_id(task.id), name=task.name, state=_cancel_state(task)))
    sys.exit(worst)


def _cancel_state(task: Task) -> str:
    return phase_text(task.phase) if task.phase.final else _("ending")


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Print the output until the task ends.")
@connected
def retry(client: TesseraClient, task: str, follow: bool, as_json: bool) -> None:
    """Run a task that ended again, on the same files, as a new attempt.

    With --follow the exit code says how it ended.
    """
    handle = find_task(client, task)
    handle.retry()
    if follow:
        sys.exit(follow_task(handle, as_json=as_json))
    if as_json:
        print_json(handle)
    else:
        click.echo(_("{name} is in the queue again.", name=handle.task.name))


@click.command()
@click.argument("task")
@click.option(
    "-d",
    "--download",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save them below this folder; other files there stay.",
)
@connected
def outputs(client: TesseraClient, task: str, folder: Path | None, as_json: bool) -> None:
    """List what a task gave back, or download it."""
    handle = find_task(client, task)
    if folder is not None:
        places = handle.download(folder)
        if as_json:
            print_json({"placed": [str(place) for place in places]})
        for place in () if as_json else places:
            click.echo(str(place))
        return
    found = handle.outputs()
    if as_json:
        print_json(found)
        return
    print_table(
        [_("File"), _("Size"), "SHA-256"],
        ([output.path, _size(output.size), output.sha256[:12]] for output in found),
        right=(1,),
        empty=_("The task has given nothing back yet."),
    )


def _size(number_of_bytes: int) -> str:
    if number_of_bytes < 1024:
        return f"{number_of_bytes} B"
    return f"{number_of_bytes >> 10} KiB" if number_of_bytes < 1 << 20 else memory(number_of_bytes >> 20)
