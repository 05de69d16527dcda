"""The commands of one Slurm: what is asked, and how its answers and refusals are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import structlog

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.slurm import jobs, nodes
from tessera_hub.proxy.drivers.slurm.columns import text_format
from tessera_hub.proxy.drivers.slurm.jobs import AnswerError, Job, PastJob
from tessera_hub.proxy.drivers.slurm.nodes import Node, Partition
from tessera_hub.proxy.drivers.slurm.transport import Answer, Transport, TransportError

log = structlog.get_logger(__name__)

MIN_JOB_AGE_SECONDS: Final = 300
"""Slurm's own default, slurm.conf(5)."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_UNREACHABLE: Final = re.compile(
    r"contact slurm controller|Socket timed out|slurm_load_\w+ error: Unable|Zero Bytes|temporarily unable to accept|"
    r"Slurm backup controller in standby|Protocol authentication error|Insane message|"
    r"Connection (refused|reset|timed out|aborted)|Broken pipe|(Network|Host) is (unreachable|down)|No route to host|"
    r"Communication (connection|shutdown) failure|Message (send|receive) failure",
    re.IGNORECASE,
)
_MIN_JOB_AGE: Final = re.compile(r"^MinJobAge\s*=\s*(\d+)", re.MULTILINE)
_GONE: Final = re.compile(r"Invalid job id|already completed|already completing|Job/step already", re.IGNORECASE)
_REFUSALS: Final = (
    (re.compile(r"time limit", re.IGNORECASE), "never.time_limit"),
    (
        re.compile(r"node configuration is not available|More processors requested|Memory required", re.IGNORECASE),
        "never.too_large",
    ),
    (re.compile(r"Invalid generic resource|gres", re.IGNORECASE), "never.no_card_class"),
    (re.compile(r"Node count specification invalid|node count", re.IGNORECASE), "never.gang_too_large"),
    (re.compile(r"violates accounting/QOS policy|association|limit", re.IGNORECASE), "quota.native"),
    (
        re.compile(r"Invalid account|Invalid qos|Access/permission denied|User's group not permitted", re.IGNORECASE),
        "cluster.refused",
    ),
    (re.compile(r"partition.*(inactive|not avail|down)", re.IGNORECASE), "cluster.nodes_down"),
)


def refusal(words: str) -> DriverError:
    """Return what Slurm's refusal of a job means."""
    text = words.replace("sbatch: error: ", "").replace("Batch job submission failed: ", "").strip()
    code = next((code for pattern, code in _REFUSALS if pattern.search(text)), "cluster.start_failed")
    return DriverError(code, f"Slurm: {text.splitlines()[-1] if text else 'no words'}"[:500])


class Slurm:
    """One Slurm behind a transport.

    Attributes:
        version: (23, 11); (0, 0) while it is not known.
        min_job_age: seconds for which the controller remembers a job that has ended.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.version: tuple[int, int] = (0, 0)
        self.min_job_age = MIN_JOB_AGE_SECONDS
        self._json = True

    async def _call(self, *argv: str, account: str | None = None, data: bytes = b"") -> Answer:
        """Run one command.

        Raises:
            TransportError: Slurm's controller, or the machine that knows it, cannot be reached.
        """
        answer = await self.transport.run(argv, account=account, data=data)
        if answer.status and _UNREACHABLE.search(answer.errors):
            raise TransportError(answer.errors.splitlines()[-1])
        return answer

    async def look(self) -> None:
        """Find out the version, and how long the controller remembers what has ended.

        Raises:
            TransportError: there is no Slurm.
        """
        answer = await self._call("sinfo", "--version")
        match = _VERSION.search(answer.text)
        if answer.status or match is None:
            raise TransportError(f"sinfo --version: {answer.errors or answer.text.strip() or answer.status}")
        self.version = int(match[1]), int(match[2])
        configured = _MIN_JOB_AGE.search((await self._call("scontrol", "show", "config")).text)
        self.min_job_age = int(configured[1]) if configured else MIN_JOB_AGE_SECONDS

    async def jobs(self) -> list[Job]:
        """Return all jobs that the controller remembers, ended ones too.

        Raises:
            TransportError: it cannot be reached.
        """
        if self._json:
            answer = await self._call("squeue", "--json", "--states=all")
            if answer.status == 0:
                try:
                    return jobs.parse_jobs(answer.text)
                except AnswerError as error:
                    log.warning("slurm_json_not_read", error=str(error))
            self._json = False
            log.info("slurm_without_json", words=answer.errors[:200])
        answer = await self._call("squeue", "-h", "--array", "--states=all", "-O", text_format(jobs.TEXT_FIELDS))
        if answer.status:
            raise TransportError(f"squeue: {answer.errors}")
        return jobs.parse_text(answer.text)

    async def past(self, run_id: str, account: str | None) -> list[PastJob]:
        """Return what the accounting database knows of a run's jobs; nothing where there is no database.

        Asked under the run's *account*: ``sacct`` shows people their own jobs only, so nobody else's of the same name either.

        Raises:
            TransportError: there is a database, and it does not answer.
        """
        argv = ("sacct", "-n", "-P", "-X", f"--name={run_id}", "--starttime=now-30days", "-o", jobs.SACCT_FIELDS)
        answer = await self._call(*argv, account=account)
        return [] if answer.status else [job for job in jobs.parse_accounting(answer.text) if job.name == run_id]

    async def nodes(self) -> list[Node]:
        """Return all nodes.

        Raises:
            TransportError: the controller cannot be reached.
        """
        if self._json:
            argv = ("sinfo", "--json") if self.version < (23, 2) else ("scontrol", "show", "nodes", "--json")
            answer = await self._call(*argv)
            if answer.status == 0:
                try:
                    return nodes.parse_nodes(answer.text)
                except AnswerError as error:
                    log.warning("slurm_json_not_read", error=str(error))
        answer = await self._call("sinfo", "-h", "-N", "-O", text_format(nodes.TEXT_FIELDS))
        if answer.status:
            raise TransportError(f"sinfo: {answer.errors}")
        return nodes.parse_text(answer.text)

    async def partitions(self) -> list[Partition]:
        """Return all partitions in Slurm's order.

        Raises:
            TransportError: the controller cannot be reached.
        """
        answer = await self._call("scontrol", "show", "partition", "-o")
        if answer.status:
            raise TransportError(f"scontrol show partition: {answer.errors}")
        return nodes.parse_partitions(answer.text)

    async def submit(self, options: Sequence[str], script: str, arguments: Sequence[str], account: str | None) -> str:
        """Submit a batch job and return its number.

        Raises:
            TransportError: whether it was taken is not known.
            DriverError: it was refused.
        """
        answer = await self._call("sbatch", "--parsable", *options, script, *arguments, account=account)
        job_id = answer.text.strip().partition(";")[0]
        if answer.status or not job_id.isdigit():
            raise refusal(answer.errors or answer.text)
        return job_id

    async def cancel(self, job_id: str, name: str, account: str | None) -> None:
        """End a job, waiting or running; one that is over is no error.

        With its *name*, since a controller that lost its last seconds gives their numbers to other jobs.

        Raises:
            TransportError: the controller cannot be reached.
        """
        self._expect(await self._call("scancel", "--quiet", f"--name={name}", job_id, account=account), "scancel")

    async def signal(self, job_id: str, name: str, account: str | None, *, batch: bool) -> None:
        """Send a signal to the batch script of a running job, or to its steps; one that does not run is no error.

        Raises:
            TransportError: the controller cannot be reached.
        """
        options = ["--quiet", *(["--batch"] if batch else []), f"--signal={name}"]
        self._expect(await self._call("scancel", *options, job_id, account=account), f"scancel --signal={name}")

    async def suspend(self, job_id: str) -> None:
        """Stop a running job (needs an operator's rights)."""
        self._expect(await self._call("scontrol", "suspend", job_id), "scontrol suspend")

    async def resume(self, job_id: str) -> None:
        """Let a suspended job go on."""
        self._expect(await self._call("scontrol", "resume", job_id), "scontrol resume")

    @staticmethod
    def _expect(answer: Answer, what: str) -> None:
        if answer.status and not _GONE.search(answer.errors):
            log.warning("slurm_refused", command=what, words=answer.errors[:300])
