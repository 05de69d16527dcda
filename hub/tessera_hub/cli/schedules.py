"""``tessera schedules``: tasks that come again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import click

from tessera_hub.client import TesseraClient, TesseraError
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.schedules import RecurringTask

from .output import connected, print_json, print_table, short_id
from .submitting import snapshot_options, submit_options, task_options
from .tasks import local_time


@click.group("schedules")
def command() -> None:
    """Repeat a task by the clock: add, list, pause, resume and remove schedules."""


@command.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cron", required=True, metavar="FIELDS", help="Five fields, such as '0 3 * * *' for every day at three.")
@click.option("--time-zone", default="UTC", show_default=True, metavar="ZONE", help="Zone of the fields, such as Asia/Shanghai.")
@task_options
@snapshot_options
@connected
def add(
    client: TesseraClient,
    file: Path,
    cron: str,
    time_zone: str,
    options: dict[str, Any],
    include: tuple[str, ...],
    folder: bool,
    as_json: bool,
) -> None:
    """Submit a notebook or script whenever it is due, always with the files as they are now."""
    made = client.schedules.add(file, cron, time_zone, **submit_options(options, include, folder=folder))
    if as_json:
        print_json(made)
    else:
        click.echo(_("Scheduled {name} as {identifier}.", name=made.spec.name, identifier=short_id(made.id)))
        click.echo(_("Next: {time}", time=local_time(made.next_at)))


@command.command("list")
@connected
def list_schedules(client: TesseraClient, as_json: bool) -> None:
    """List your schedules, with the next time and the last task."""
    found = client.schedules.all()
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Schedule"), _("Name"), _("Fields"), _("Zone"), _("State"), _("Next"), _("Last task")],
        (
            [
                short_id(schedule.id),
                schedule.spec.name,
                schedule.cron,
                schedule.time_zone,
                _("on") if schedule.enabled else _("paused"),
                local_time(schedule.next_at),
                short_id(schedule.last_task_id) if schedule.last_task_id else "",
            ]
            for schedule in found
        ),
        empty=_("No schedules. Make one with: tessera schedules add notebook.ipynb --cron '0 3 * * *'"),
    )


@command.command("pause")
@click.argument("schedule")
@connected
def pause(client: TesseraClient, schedule: str, as_json: bool) -> None:
    """Stop one for a while."""
    _changed(client.schedules.pause(_find(client, schedule)), as_json=as_json)


@command.command("resume")
@click.argument("schedule")
@connected
def resume(client: TesseraClient, schedule: str, as_json: bool) -> None:
    """Let one go on from now; what it missed is not made up for."""
    _changed(client.schedules.resume(_find(client, schedule)), as_json=as_json)


@command.command("remove")
@click.argument("schedule")
@connected
def remove(client: TesseraClient, schedule: str, as_json: bool) -> None:
    """Remove one; the tasks it submitted stay."""
    identifier = _find(client, schedule)
    client.schedules.remove(identifier)
    if as_json:
        print_json({"removed": str(identifier)})
    else:
        click.echo(_("{name} is removed.", name=short_id(identifier)))


def _changed(schedule: RecurringTask, *, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
    elif schedule.enabled:
        click.echo(_("Next: {time}", time=local_time(schedule.next_at)))
    else:
        click.echo(_("{name} is paused.", name=schedule.spec.name))


def _find(client: TesseraClient, text: str) -> UUID:
    """Return the id of a schedule by its beginning.

    Raises:
        TesseraError: ``schedule.not_found``, none or several begin so.
    """
    found = [schedule.id for schedule in client.schedules.all() if str(schedule.id).startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    raise TesseraError(
        "schedule.not_found",
        _("No schedule, or more than one, begins with {text}.", text=text),
        _("`tessera schedules list` shows them."),
    )
