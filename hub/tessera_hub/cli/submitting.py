"""``tessera submit`` and ``tessera estimate``."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tessera_hub.client import SubmitOptions, TaskHandle, TaskOptions, TesseraClient
from tessera_hub.client.wording import amount, dimension, duration, money, rate
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.capacity import Estimate

from .following import follow_task
from .output import connected, print_facts, print_json, print_table, short_id

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _parameters(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Read ``name=value``; a value that is JSON is taken as that, anything else as text."""
    found: dict[str, Any] = {}
    for item in values:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(_("{value} is not of the form name=value.", value=repr(item)))
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _variables(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in values:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise click.BadParameter(_("{value} is not of the form name=value.", value=repr(item)))
        found[name] = text
    return found


_TASK_OPTIONS = [
    click.option("-p", "--parameter", "parameters", multiple=True, callback=_parameters, metavar="NAME=VALUE",
                 help="Value of the notebook's parameters cell; JSON or text. May be repeated."),
    click.option("--name", help="Name in lists; by default the file's."),
    click.option("--cpu", metavar="CORES", help="Processor cores, such as 2, 0.5 or 500m."),
    click.option("--memory", metavar="SIZE", help="Memory, such as 4GiB."),
    click.option("--cards", metavar="CARDS", help="Cards, such as 1, 0.5 or A100-80G:0.5."),
    click.option("--card-model", metavar="CLASS", help="Card class, such as A100-80G."),
    click.option("--card-memory", metavar="SIZE", help="Memory on the card; by default in proportion to the share."),
    click.option("--nodes", type=click.IntRange(1), help="Equal parts of a script that start together; 1 by default."),
    click.option("--framework", type=click.Choice(["none", "pytorch", "tensorflow", "mpi"]),
                 help="Whose variables the parts read to find each other."),
    click.option("--kind", type=click.Choice(["script", "training", "finetune", "service"]),
                 help="What lists call a script; a service runs until it is stopped."),
    click.option("--port", type=click.IntRange(1024, 65535), help="Where a service listens; 8080 by default."),
    click.option("--queue", metavar="PATH", help="Queue below the tenant."),
    click.option("--tenant", metavar="NAME", help="Tenant that pays, if you belong to several."),
    click.option("--cluster", multiple=True, metavar="NAME", help="Only this cluster. May be repeated."),
    click.option("--environment", metavar="NAME", help="Software environment."),
    click.option("--dataset", "datasets", multiple=True, metavar="NAME",
                 help="Data set that it reads, at $TESSERA_DATASETS/NAME. May be repeated."),
    click.option("--kernel", metavar="NAME", help="Kernel of the notebook; by default the one it was saved with."),
    click.option("--policy", type=click.Choice(["fifo", "most-idle", "lowest-price"]), help="How a cluster is chosen."),
    click.option("--priority", type=click.IntRange(0, 100), help="Priority, 0 to 100."),
    click.option("--max-run-seconds", type=click.IntRange(1), help="Longest run in seconds."),
    click.option("--retries", type=click.IntRange(0, 20), help="How often a failed run is tried again."),
    click.option("--preemptible", is_flag=True, default=None, help="May be stopped for more urgent work."),
    click.option("--variable", "variables", multiple=True, callback=_variables, metavar="NAME=VALUE",
                 help="Environment variable of the run, never a secret. May be repeated."),
]  # fmt: skip


def task_options(command: CommandT) -> CommandT:
    """Give a command the options that describe a task, as one argument ``options``."""

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> None:
        names = TaskOptions.__annotations__
        options = {name: given.pop(name) for name in list(given) if name in names}
        options["cluster"] = list(options["cluster"]) or None
        options["datasets"] = list(options["datasets"]) or None
        command(*args, options={name: value for name, value in options.items() if value is not None}, **given)

    for option in reversed(_TASK_OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]  # the wrapper takes the place of the command for click


def snapshot_options(command: CommandT) -> CommandT:
    """Give a command the options that say what goes along: ``include``, ``folder`` and, in ``options``, ``output_folder``."""
    for option in (
        click.option("--output-folder", metavar="PATH", help="Folder of the workspace for the results."),
        click.option("--folder", is_flag=True, help="The whole folder of the file goes along."),
        click.option(
            "--include",
            multiple=True,
            metavar="PATH",
            help="File or folder that goes along, relative to the file's folder. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def submit_options(options: dict[str, Any], include: tuple[str, ...], *, folder: bool) -> SubmitOptions:
    """Return the options of a submit.

    Raises:
        click.UsageError: both the whole folder and parts of it.
    """
    if folder and include:
        raise click.UsageError(_("Choose either --folder or --include."))
    wanted: SubmitOptions = {**options, "include": "folder" if folder else list(include) or "notebook"}  # type: ignore[typeddict-item]
    return wanted


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@task_options
@snapshot_options
@click.option("--at", metavar="TIME", help="Not before this time, such as 2026-12-01T02:00.")
@click.option("--idempotency-key", metavar="KEY", help="Two submits with one key are one task.")
@click.option("--dry-run", is_flag=True, help="Check everything and start nothing.")
@click.option("-f", "--follow", is_flag=True, help="Print the output until the task ends.")
@connected
def submit(
    client: TesseraClient,
    file: Path,
    options: dict[str, Any],
    include: tuple[str, ...],
    folder: bool,
    idempotency_key: str | None,
    dry_run: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Run a notebook or script as a task on a snapshot of its files.

    With --follow the exit code says how the task ended: 0 if it succeeded, 1 otherwise.
    """
    wanted = submit_options(options, include, folder=folder)
    if idempotency_key:
        wanted["idempotency_key"] = idempotency_key
    if dry_run:
        result = client.dry_run(file, **wanted)
        if as_json:
            print_json(result)
        else:
            print_estimate(result.estimate)
        return
    task = client.submit(file, **wanted)
    if not as_json:
        _say_submitted(task)
    if follow:
        sys.exit(follow_task(task, as_json=as_json))
    if as_json:
        print_json(task)


def _say_submitted(task: TaskHandle) -> None:
    click.echo(_("Submitted {name} as task {identifier}.", name=task.task.name, identifier=task.id))
    click.echo(_("See `tessera show {identifier}`.", identifier=short_id(task.id)), err=True)


@click.command()
@task_options
@connected
def estimate(client: TesseraClient, options: dict[str, Any], as_json: bool) -> None:
    """Say what a task would cost, when it would start, and what it does to the quota."""
    found = client.estimate(**options)
    if as_json:
        print_json(found)
    else:
        print_estimate(found)


def print_estimate(estimate: Estimate) -> None:
    """Print an estimate for people."""
    verdicts = {"now": _("Starts now"), "wait": _("Has to wait"), "never": _("Can never start")}
    verdict = verdicts[estimate.verdict]
    if estimate.position is not None:
        verdict += " · " + _("position {position} in the queue", position=estimate.position.position)
    cost = ""
    if estimate.high_micro is not None:
        high = money(estimate.high_micro, estimate.currency)
        low = money(estimate.low_micro or 0, estimate.currency)
        cost = f"{low} – {high}"
        if estimate.seconds_high:
            cost = _("{cost} for up to {time}", cost=cost, time=duration(estimate.seconds_high))
    print_facts(
        [
            (_("Start"), verdict),
            *((_("Reason"), reason.message or reason.code) for reason in estimate.reasons),
            (_("Price"), rate(estimate.nano_per_hour, estimate.currency)),
            (_("Cost"), cost),
            (_("Clusters"), ", ".join(estimate.clusters)),
        ]
    )
    print_table(
        [_("Resource"), _("Used afterwards"), _("Limit")],
        (
            [
                dimension(line.dimension),
                amount(line.dimension, line.used),
                _("none") if line.limit is None else amount(line.dimension, line.limit),
            ]
            for line in estimate.quota_after
        ),
        right=(1, 2),
        empty="",
    )
