"""``tessera cluster``: clusters for operators, through the API."""

from __future__ import annotations

import shlex
import time
from typing import Any, Final

import click

from tessera_hub.client import TesseraClient, TesseraError, calls
from tessera_hub.client.wording import amount, dimension
from tessera_hub.i18n import gettext as _

from .output import connected, print_facts, print_json, print_table
from .places import state_text

_FOLDER: Final = ("--data-dir", "DIRECTORY")
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "local": _FOLDER,
    "slurm": ("--settings", "SETTINGS.toml", *_FOLDER),
    "kubernetes": ("--kubeconfig", "KUBECONFIG", "--environment", "default=IMAGE"),
    "aws-batch": ("--settings", "SETTINGS.toml"),
}
"""Kind of cluster → what its Proxy needs."""
_COLUMNS = ("name", "driver", "state", "draining", "last_contact_at", "workspaces", "live_runs")


@click.group("cluster")
def command() -> None:
    """Add, show, drain and remove clusters. Needs the scope of an operator."""


@command.command("add")
@click.argument("name")
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="local", show_default=True, help="What runs the tasks there.")
@click.option("--workspaces", is_flag=True, help="Workspaces may start there.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Only for this tenant. May be repeated.")
@click.option(
    "--wait", type=click.IntRange(0), default=0, metavar="SECONDS", help="Until its Proxy has told what it has; show it."
)
@connected
def add(
    client: TesseraClient, name: str, kind: str, workspaces: bool, tenants: tuple[str, ...], wait: int, as_json: bool
) -> None:
    """Register a cluster and print the token its Proxy begins with. The token is shown once."""
    answer = client.call(calls.add_cluster(name, workspaces=workspaces, tenants=list(tenants) or None))
    answer["command"] += ["--driver", kind, *KINDS[kind]]
    if as_json:
        print_json(answer)
        return
    click.echo(
        _("Cluster {name} is registered. Put the token below into a file that only its owner can read;", name=name), err=True
    )
    click.echo(_("it is shown only now. Then start the Proxy where it can reach the engine:"), err=True)
    click.echo("  " + shlex.join(answer["command"]), err=True)
    click.echo(answer["bootstrap_token"])
    if wait:
        _show(_first_inventory(client, name, wait))


def _first_inventory(client: TesseraClient, name: str, seconds: int) -> dict[str, Any]:
    click.echo(_("Waiting for the Proxy of {name} …", name=name), err=True)
    deadline = time.monotonic() + seconds
    while (found := client.call(calls.cluster(name)))["inventory"] is None:
        if time.monotonic() > deadline:
            raise TesseraError(
                "cluster.silent",
                _("The Proxy of {name} has not told what it has within {seconds} s.", name=name, seconds=seconds),
                _(
                    "What it prints says why; with --check it looks at the cluster without the hub. {name} stays registered.",
                    name=name,
                ),
            )
        time.sleep(1)
    return found


def _show(cluster: dict[str, Any]) -> None:
    inventory = cluster["inventory"]
    print_facts(
        [
            (_("Cluster"), cluster["name"]),
            (_("Kind"), cluster["driver"]),
            (_("State"), state_text(cluster["state"])),
            (_("Version"), cluster["agent_version"]),
            (_("Running"), str(cluster["live_runs"])),
            (_("Tenants"), ", ".join(cluster["tenants"] or ())),
            (_("Environments"), ", ".join(sorted(inventory["environments"])) if inventory else ""),
        ]
    )
    pools = inventory["pools"] if inventory else []
    print_table(
        [_("Pool"), _("Nodes"), _("Resource"), _("Free"), _("Total"), _("Used by others")],
        (
            [
                pool["name"] if first else "",
                str(sum(shape["count"] for shape in pool["shapes"])) if first else "",
                dimension(line),
                *(amount(line, vector.get(line, 0)) for vector in (pool["free"], pool["total"], pool["foreign"])),
            ]
            for pool in pools
            for first, line in zip((True, *[False] * len(pool["total"])), sorted(pool["total"]), strict=False)
        ),
        right=(1, 3, 4, 5),
        empty=_("Its Proxy has not told yet what it has."),
    )


@command.command("show")
@click.argument("name")
@connected
def show(client: TesseraClient, name: str, as_json: bool) -> None:
    """Show one cluster: its Proxy, its environments, and what is free of which pool of nodes."""
    found = client.call(calls.cluster(name))
    if as_json:
        print_json(found)
    else:
        _show(found)


@command.command("manifest")
@click.option("--prefix", default="tessera", show_default=True, help="Of the namespaces; the Proxy's namespace_prefix.")
@click.option("--kubelets", is_flag=True, help="With the right to ask each node's kubelet what runs use.")
def manifest(prefix: str, *, kubelets: bool) -> None:
    """Print what a Proxy may do in a Kubernetes cluster, for kubectl apply -f -."""
    from tessera_hub.proxy.drivers.kubernetes.permissions import manifest as objects

    print_json({"apiVersion": "v1", "kind": "List", "items": objects(prefix, kubelets=kubelets)})


@command.command("list")
@connected
def list_clusters(client: TesseraClient, as_json: bool) -> None:
    """List the registered clusters."""
    found = client.call(calls.clusters())
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Cluster"), _("Kind"), _("State"), _("Draining"), _("Last contact"), _("Workspaces"), _("Running")],
        ([_cell(cluster, name) for name in _COLUMNS] for cluster in found),
        right=(6,),
        empty=_("No cluster is connected. An operator adds one with: tessera cluster add NAME"),
    )


def _cell(cluster: dict[str, Any], name: str) -> str:
    value = cluster.get(name)
    if name == "state":
        return state_text(str(value))
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return "" if value is None else str(value)


@command.command("drain")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Take new runs again.")
@connected
def drain(client: TesseraClient, name: str, undo: bool, as_json: bool) -> None:
    """Send no new runs to a cluster; those that run go on."""
    answer = client.call(calls.change_cluster(name, draining=not undo))
    if as_json:
        print_json(answer)
    else:
        click.echo(_("{name} takes new runs again.", name=name) if undo else _("{name} takes no new runs.", name=name))


@command.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def remove(client: TesseraClient, name: str, yes: bool, as_json: bool) -> None:
    """Remove a cluster that has no runs."""
    if not yes:
        click.confirm(_("Remove cluster {name}?", name=name), abort=True, err=True)
    client.call(calls.remove_cluster(name))
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(_("{name} is removed.", name=name))
