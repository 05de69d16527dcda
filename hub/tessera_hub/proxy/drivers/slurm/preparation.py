"""From a recorded lease to a job in Slurm: checks, inputs, claim, files, and a submit that happens once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import structlog

from tessera_hub.proxy.drivers.base import DriverError, InputSource
from tessera_hub.proxy.drivers.datasets import folders
from tessera_hub.proxy.drivers.launching import (
    LocalOptions,
    new_run_folder,
    note_inputs,
    run_document,
    run_environment,
)
from tessera_hub.proxy.drivers.results import checkpoint_directory
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.accounts import UnixAccount, account_of
from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tessera_hub.proxy.drivers.slurm.files import Files
from tessera_hub.proxy.drivers.slurm.inventory import Cards, class_named
from tessera_hub.proxy.drivers.slurm.jobs import Job, minutes
from tessera_hub.proxy.drivers.slurm.nodes import Node, Partition
from tessera_hub.proxy.drivers.slurm.records import Native, record
from tessera_hub.proxy.drivers.slurm.settings import EnvironmentSettings, PartitionSettings, SlurmSettings
from tessera_hub.proxy.drivers.slurm.submission import comment_of, job_arguments, job_options, launch_document, minutes_of
from tessera_hub.proxy.drivers.slurm.transport import TransportError
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, ResourceVector
from tessera_hub.schemas.tasks import SCRIPT_KINDS, TaskKind

T = TypeVar("T")
log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS: Final = 15.0


def held_by(lease: Lease) -> ResourceVector:
    """Return what a run holds, by dimension: what the hub granted and the estimate named, for all its parts."""
    role = lease.spec.roles[0]
    resources, request = role.resources, role.resources.cards
    found = {"cpu": resources.cpu_millicores * role.replicas, "memory": resources.memory_mib * role.replicas}
    name = None if request is None else lease.card_class or request.model
    if request is not None and name is not None:
        whole = class_named(name).memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
        memory = whole if request.mode is CardMode.WHOLE else request.memory_mib or whole
        found |= {f"cards/{name}": request.centi_cards * role.replicas, f"card_memory/{name}": memory * role.replicas}
    return found


class Preparation:
    """Makes jobs of leases.

    Attributes:
        partitions: the partitions in use, and *homes*: their nodes; kept up to date by the driver.
    """

    def __init__(self, settings: SlurmSettings, slurm: Slurm, files: Files, cards: Cards, service_url: str) -> None:
        self.settings = settings
        self.slurm = slurm
        self.files = files
        self.cards = cards
        secrets = None if settings.secrets is None else Path(settings.secrets)
        self.options = LocalOptions(Path("/"), secrets=secrets, variables=settings.variables, service_url=service_url)
        self.partitions: Sequence[PartitionSettings] = ()
        self.homes: Mapping[str, Sequence[Node]] = {}
        self.limits: Mapping[str, Partition] = {}

    def know(
        self, partitions: Sequence[PartitionSettings], homes: Mapping[str, Sequence[Node]], limits: Sequence[Partition]
    ) -> None:
        """Take in what a look at Slurm showed."""
        self.partitions, self.homes, self.limits = partitions, homes, {partition.name: partition for partition in limits}

    def environment_of(self, lease: Lease) -> EnvironmentSettings:
        """Return the environment of a lease, checked to be something that a batch job can run.

        Raises:
            DriverError: this centre can never run it, with a typed reason.
        """
        spec = lease.spec
        if spec.kind is not TaskKind.NOTEBOOK and spec.kind not in SCRIPT_KINDS:
            raise DriverError("never.no_cluster", f"a Slurm centre does not run kind {spec.kind.value}")
        if len(spec.roles) != 1:
            raise DriverError("never.gang_too_large", "a Slurm centre runs one role; its replicas are the ranks")
        if spec.kind is TaskKind.NOTEBOOK and spec.roles[0].replicas != 1:
            raise DriverError("never.gang_too_large", "a notebook runs in one part")
        if not spec.entry:
            raise DriverError("script.missing", "the task names no notebook or script")
        if spec.inputs.kind == "live":
            raise DriverError("inputs.live_refused", "this centre works on snapshots")
        found = self.settings.environments.get(spec.environment)
        if found is None:
            detail = {"environment": spec.environment, "known": sorted(self.settings.environments)}
            raise DriverError("environment.unknown", f"no environment {spec.environment}", detail)
        return found

    async def _check_environment(self, name: str, environment: EnvironmentSettings) -> None:
        """Look whether what the settings name is there.

        Raises:
            DriverError: ``cluster.environment``.
        """
        path = environment.image or environment.interpreter
        test = "-e" if environment.image is not None else "-x"
        # An interpreter that only a module brings is not seen from here.
        if environment.modules and environment.venv is None:
            return
        if (await self.slurm.transport.run(["test", test, path])).status:
            raise DriverError("cluster.environment", f"{path} is not there", {"environment": name})

    def partition_for(self, lease: Lease) -> PartitionSettings:
        """Return where a lease goes: the first partition with nodes of its card class that are large enough.

        Raises:
            DriverError: ``never.no_card_class`` or ``never.too_large``.
        """
        role = lease.spec.roles[0]
        name = lease.card_class or (role.resources.cards.model if role.resources.cards else None)
        wants_cards = role.resources.cards is not None
        wanted = minutes_of(lease, self.settings)
        in_time = [p for p in self.partitions if wanted is None or wanted <= (self._limit(p) or wanted)]
        if self.partitions and not in_time:
            raise DriverError("never.time_limit", f"no partition lets a job run for {wanted} minutes", {"minutes": wanted})
        suitable: list[tuple[bool, bool, int, PartitionSettings]] = []
        for partition in in_time:
            nodes = [n for n in self.homes.get(partition.name, ()) if not wants_cards or self._has(n, name)]
            most = self.limits[partition.name].max_nodes if partition.name in self.limits else None
            if most is not None and role.replicas > most:
                continue
            large = [
                n for n in nodes if n.cpus * 1000 >= role.resources.cpu_millicores and n.memory_mib >= role.resources.memory_mib
            ]
            if large:
                free = sum(n.cpus - n.cpus_used > 0 for n in large)
                plain = not wants_cards and not any(gres.name == "gpu" for n in large for gres in n.gres)
                suitable.append((not plain, free == 0, len(suitable), partition))
        if suitable:
            return min(suitable, key=lambda found: found[:3])[3]
        if wants_cards and not any(self._has(n, name) for nodes in self.homes.values() for n in nodes):
            raise DriverError(
                "never.no_card_class", f"no partition has a node with a card {name or 'at all'}", give_back=not self.homes
            )
        raise DriverError("never.too_large", "no partition has a node that is large enough", give_back=not self.homes)

    def _limit(self, partition: PartitionSettings) -> int | None:
        """Most minutes that a partition gives; None: any."""
        known = self.limits.get(partition.name)
        return None if known is None else known.max_minutes

    def _default(self, partition: PartitionSettings) -> int | None:
        """Minutes that a partition gives to a job that names none; None: not known, or no limit."""
        known = self.limits.get(partition.name)
        return None if known is None else minutes(known.detail.get("DefaultTime", "")) or known.max_minutes

    def _has(self, node: Node, name: str | None) -> bool:
        return any(gres.name == "gpu" and self.cards.class_of(gres.kind).name == name for gres in node.gres)

    async def prepare(self, run: RunDirectory, source: InputSource) -> None:
        """Check, bring the inputs, claim, and hand everything over.

        Raises:
            DriverError: it cannot or must not run here.
        """
        lease = run.lease
        environment = self.environment_of(lease)
        datasets = folders(lease, self.settings.datasets)
        account: UnixAccount = await self.patiently(lambda: account_of(lease.owner, self.settings, self.slurm.transport))
        await self.patiently(lambda: self._check_environment(lease.spec.environment, environment))
        partition = self.partition_for(lease)
        place = self.files.place(run)
        job_options(lease, partition=partition, settings=self.settings, cards=self.cards, place=place)  # refuses early
        interpreter = Path(environment.interpreter)
        variables = run_environment(lease, self.options, interpreter, Path(place.run), {})
        if "PATH" not in {**lease.spec.variables, **lease.spec.secrets}:
            variables["PATH"] = f"{variables['PATH']}:{self.settings.path}"
        if account.name is not None:
            variables |= {"USER": account.name, "LOGNAME": account.name}
        if lease.card_class is not None:
            variables["TESSERA_CARD_CLASS"] = lease.card_class
        work = await asyncio.to_thread(new_run_folder, run, None)
        await source.fetch(work, lease.spec.inputs.files)
        checkpoint = checkpoint_directory(run, live=False)
        if lease.checkpoint and checkpoint is not None:
            await source.fetch(checkpoint, lease.checkpoint)
        await source.claim(run.uid)
        owner = self.files.owner(account)
        run.write("launch.json", {"uid": owner.uid, "gid": owner.gid, "account": account.name})
        await asyncio.to_thread(note_inputs, run)
        run.put("run.json", run_document(lease, self.options.output_bytes, datasets))
        run.put("launch.json", launch_document(lease, self.options, place, environment, variables))
        await self.patiently(lambda: self.files.hand_over(run, account))
        run.write("prepared.json", {"at": datetime.now(UTC).isoformat(), "partition": partition.name})

    def account_name(self, run: RunDirectory) -> str | None:
        """Return the account that a prepared run has; None: the Proxy's own."""
        found = (run.read("launch.json") or {}).get("account")
        return None if found is None else str(found)

    def ours(self, run: RunDirectory, job: Job) -> bool:
        """Whether a job of the run's name is really of this run: by account and comment, since anybody may take a name."""
        account = self.account_name(run)
        return job.comment == comment_of(run.lease) and (account is None or job.user == account)

    async def submit(self, run: RunDirectory, native: Native) -> None:
        """Have a job for the run: the one that an earlier try made, else a new one.

        Raises:
            DriverError: Slurm refused it.
        """
        name = (run.read("prepared.json") or {}).get("partition")
        partition = next((p for p in self.partitions if p.name == name), PartitionSettings(name=str(name)))
        again = run.read("submitting.json") is not None
        pause = self.settings.poll_seconds
        while True:
            try:
                job_id = await self._found(run) if again else None
                if job_id is None:
                    # Only now: what has been taken out of the settings since ends no job that is there.
                    options, script, arguments = self._job(run, partition)
                    run.write("submitting.json", {"at": datetime.now(UTC).isoformat()})
                    again = True
                    job_id = await self.slurm.submit(options, script, arguments, self.account_name(run))
                break
            except TransportError as error:  # whether it arrived is not known: look before the next try
                log.warning("slurm_unreachable", run=str(run.lease.run_id), error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        native.job_id = job_id
        native.save(run)
        log.info("job_submitted", run=str(run.lease.run_id), job=job_id, partition=partition.name)

    def _job(self, run: RunDirectory, partition: PartitionSettings) -> tuple[list[str], str, list[str]]:
        """Return options, script and arguments of a run's job."""
        lease, place = run.lease, self.files.place(run)
        options = job_options(lease, self.settings, partition, self.cards, place, self._default(partition))
        read = folders(lease, self.settings.datasets).values()
        return options, place.script, job_arguments(lease, self.environment_of(lease), place, read)

    async def _found(self, run: RunDirectory) -> str | None:
        """Return the job that an earlier try made: the one that has begun, else the first that is there."""
        await self.files.refresh(run, ended=False)
        begun = record(run, "shim.pid.json")
        if begun is not None and str(begun.get("job_id", "")).isdigit():
            return str(begun["job_id"])
        jobs = [job for job in await self.slurm.jobs() if job.name == str(run.lease.run_id) and self.ours(run, job)]
        living = [job for job in jobs if not job.ended]
        if living or jobs:
            return min(living or jobs, key=lambda job: int(job.job_id)).job_id
        past = await self.slurm.past(str(run.lease.run_id), self.account_name(run))
        # One without an end is a job that the controller has lost since: it never comes.
        return next((job.job_id for job in past if job.end), None)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat *call* while the centre cannot be reached: its outage ends nothing."""
        while True:
            try:
                return await call()
            except TransportError as error:
                log.warning("slurm_unreachable", error=str(error))
                await asyncio.sleep(self.settings.poll_seconds)
