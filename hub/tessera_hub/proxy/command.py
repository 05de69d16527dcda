"""``tessera proxy``: run the agent of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tessera_hub.cards import CardClass, parse_simulated
from tessera_hub.i18n import gettext as _
from tessera_hub.proxy.errors import ProxyError

if TYPE_CHECKING:
    from tessera_hub.proxy.drivers.base import Driver
    from tessera_hub.schemas.tasks import InputFile

FENCED_STATUS: Final = 3


@click.command()
@click.option("--cluster", required=True, help="Name of the cluster at the service.")
@click.option("--url", required=True, help="Address of the service, https://hub.example.org/services/tessera.")
@click.option("--bootstrap-token-file", required=True, type=click.Path(path_type=Path), help="File with the cluster's token.")
@click.option("--driver", type=click.Choice(["local", "slurm", "kubernetes", "aws-batch"]), default="local", show_default=True)
@click.option("--settings", type=click.Path(path_type=Path), default=None, help="TOML file about the cluster.")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), default=None, help="Way to the cluster (Kubernetes); none: this pod's own."
)
@click.option("--data-dir", "--work-dir", type=click.Path(path_type=Path), help="Folder of the runs (local, Slurm).")
@click.option("--homes", type=click.Path(path_type=Path), default=None, help="Folder of the homes, for live folders.")
@click.option(
    "--environment",
    "environments",
    multiple=True,
    metavar="NAME=PYTHON",
    help="An environment and its Python, image or job definition.",
)
@click.option("--simulate-cards", "simulated", multiple=True, metavar="2xA100-80G,1xL4-24G", help="Cards that only count.")
@click.option("--memory-reserve-mib", type=int, default=1024, show_default=True, help="Memory kept for the machine itself.")
@click.option("--check", is_flag=True, help="Look at the cluster, print what it has, and end.")
def command(
    cluster: str,
    url: str,
    bootstrap_token_file: Path,
    driver: str,
    settings: Path | None,
    kubeconfig: Path | None,
    data_dir: Path | None,
    homes: Path | None,
    environments: tuple[str, ...],
    simulated: tuple[str, ...],
    memory_reserve_mib: int,
    check: bool,
) -> None:
    """Run the agent of a cluster."""
    from tessera_hub.logs import configure_logging
    from tessera_hub.proxy.agent import Agent
    from tessera_hub.proxy.connection import Connection
    from tessera_hub.proxy.drivers.base import DriverError

    configure_logging()
    try:
        token = bootstrap_token_file.read_text().strip()
        cards = tuple(parse_simulated(",".join(simulated))) if simulated else None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    known = {name: value for name, _equals, value in (item.partition("=") for item in environments)}
    given = Given(url, settings, kubeconfig, data_dir, homes, known, cards, memory_reserve_mib)
    try:
        found = DRIVERS[driver](given)
        if check:
            asyncio.run(_check(found))
            return
        agent = Agent(Connection(url, cluster), found, token)
        asyncio.run(_serve(agent.run()))
    except ProxyError as error:
        click.echo(_("The Proxy stops: {why}", why=str(error)), err=True)
        sys.exit(FENCED_STATUS)
    except DriverError as error:
        raise click.ClickException(_("The cluster cannot be used: {why}", why=error.message)) from error
    click.echo(_("The Proxy has stopped. Runs that go on without it: {count}.", count=agent.left_running), err=True)


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says about the driver."""

    url: str
    settings: Path | None
    kubeconfig: Path | None
    data_dir: Path | None
    homes: Path | None
    environments: Mapping[str, str]
    cards: tuple[tuple[CardClass, int], ...] | None
    memory_reserve_mib: int

    @property
    def folder(self) -> Path:
        """The folder of the runs.

        Raises:
            ProxyError: ``proxy.bad_option``: it was not given.
        """
        if self.data_dir is None:
            raise ProxyError("proxy.bad_option", "this driver needs --data-dir DIRECTORY, the folder of the runs")
        return self.data_dir.absolute()


def _local(given: Given) -> Driver:
    from tessera_hub.proxy.drivers.datasets import read_local
    from tessera_hub.proxy.drivers.launching import LocalOptions
    from tessera_hub.proxy.drivers.local import LocalDriver

    environments = {name: Path(python).absolute() for name, python in given.environments.items()}
    options = LocalOptions(
        data_dir=given.folder,
        homes=None if given.homes is None else given.homes.absolute(),
        environments={"default": Path(sys.executable), **environments},
        simulated=given.cards,
        memory_reserve_mib=given.memory_reserve_mib,
        service_url=given.url,
        datasets=read_local(given.settings),
    )
    return LocalDriver(options)


def _kubernetes(given: Given) -> Driver:
    from tessera_hub.proxy.drivers.kubernetes import kubernetes_driver
    from tessera_hub.proxy.drivers.kubernetes.settings import read_options

    return kubernetes_driver(read_options(given.settings, given.kubeconfig, given.environments, given.url))


def _slurm(given: Given) -> Driver:
    from tessera_hub.proxy.drivers.slurm import slurm_driver
    from tessera_hub.proxy.drivers.slurm.settings import read_settings

    if given.settings is None:
        raise ProxyError("proxy.bad_option", '--driver slurm needs --settings FILE; see the how-to "Connect a Slurm centre"')
    return slurm_driver(read_settings(given.settings), given.folder, given.url)


def _aws_batch(given: Given) -> Driver:
    from tessera_hub.proxy.drivers.aws_batch import aws_batch_driver
    from tessera_hub.proxy.drivers.aws_batch.settings import read_options

    if given.settings is None:
        raise ProxyError("proxy.bad_option", '--driver aws-batch needs --settings FILE; see the how-to "Connect AWS Batch"')
    return aws_batch_driver(read_options(given.settings, given.environments, given.url))


DRIVERS: Final[dict[str, Callable[[Given], Driver]]] = {
    "local": _local,
    "slurm": _slurm,
    "kubernetes": _kubernetes,
    "aws-batch": _aws_batch,
}


async def _check(driver: Driver) -> None:
    """Look at the cluster once and print its environments and pools."""
    await driver.start(lambda _lease: _NoInputs())
    try:
        inventory = await driver.inventory()
        click.echo(_("Driver {name}: {capabilities}", name=driver.name, capabilities=", ".join(sorted(driver.capabilities))))
        for name, detail in sorted(inventory.environments.items()):
            click.echo(_("Environment {name}: {kind}", name=name, kind=str(detail.get("kind", ""))))
        for name, dataset in sorted(inventory.datasets.items()):
            who = _("everybody") if dataset.tenants is None else ", ".join(dataset.tenants)
            click.echo(_("Data set {name}, for {who}", name=name, who=who))
        for pool in inventory.pools:
            amounts = ", ".join(f"{dimension} {pool.free[dimension]}/{total}" for dimension, total in pool.total.items())
            click.echo(_("Pool {name}, free/total: {amounts}", name=pool.name, amounts=amounts))
    finally:
        await driver.close()


class _NoInputs:
    """No run is begun by a look; one that a crash left half begun waits for the real Proxy."""

    async def fetch(self, directory: Path, files: Sequence[InputFile]) -> None:
        await asyncio.Event().wait()

    async def claim(self, who: str) -> None:
        await asyncio.Event().wait()


async def _serve(serving: object) -> None:
    task = asyncio.ensure_future(serving)  # type: ignore[call-overload]
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
