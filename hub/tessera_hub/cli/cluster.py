"""``tessera cluster``: clusters for operators, through the API."""

from __future__ import annotations

import shlex
from typing import Any, Final

import click

from tessera_hub.client import TesseraClient, calls
from tessera_hub.i18n import gettext as _

from .output import connected, print_json, print_table
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
    """Add, list, drain and remove clusters. Needs the scope of an operator."""


@command.command("add")
@click.argument("name")
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="local", show_default=True, help="What runs the tasks there.")
@click.option("--workspaces", is_flag=True, help="Workspaces may start there.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Only for this tenant. May be repeated.")
@connected
def add(client: TesseraClient, name: str, kind: str, workspaces: bool, tenants: tuple[str, ...], as_json: bool) -> None:
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
