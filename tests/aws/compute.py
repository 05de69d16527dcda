"""A double of Batch's compute environment, for tests only: it really runs the command of a submitted job.

moto keeps queues, jobs and objects, and answers as AWS does, but runs jobs in Docker or not at all. Here each job's command
becomes a process of this machine, in namespaces of its own as a container's process 1, with the variables that Batch gives; the
job goes through Batch's states at the times at which this really happens. It is no container: it sees this machine's files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moto.batch.models import Job

STOP_SECONDS = 8.0
"""Between the two signals with which a container is ended (ECS: 30)."""
TICK = 0.02
HOST_GONE = "Host EC2 (instance i-0123456789abcdef0) terminated."
TIMED_OUT = "Job attempt duration exceeded timeout"


class Compute:
    """What runs, and what a test wants of it.

    Attributes:
        folder: where the output of each job is kept.
        held: jobs stay RUNNABLE with this ``statusReason``; None: they start.
        taken: jobs whose instance is taken away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: str | None = None
        self.taken: set[str] = set()
        self.image_missing = False
        self.images: dict[str, str] = {}

    def install(self) -> None:
        """Let moto's jobs be run here."""
        compute, describe = self, Job.describe

        def described(job: Job) -> dict[str, Any]:
            found = describe(job)
            container = found.setdefault("container", {})
            if job.exit_code is not None:
                container["exitCode"] = job.exit_code
            if reason := getattr(job, "container_reason", None):
                container["reason"] = reason
            return found

        def terminate(job: Job, reason: str) -> None:
            if not job.stop and not job.job_stopped:
                job.said = reason
                job.stop = True

        def run(job: Job) -> None:
            compute.run(job)

        Job.run = run
        Job.describe = described
        Job.terminate = terminate

    def run(self, job: Job) -> None:
        """Take a job through its states."""
        for state in ("PENDING", "RUNNABLE"):
            time.sleep(TICK)
            job.status = state
        while self.held is not None and not job.stop:
            job.job_stopped_reason = self.held
            time.sleep(TICK)
        if job.stop:
            self.finish(job, False, job.said)
            return
        job.job_stopped_reason = None
        job.status = "STARTING"
        time.sleep(2 * TICK)
        if self.image_missing:
            job.container_reason = "CannotPullContainerError: pull access denied for tessera.test/absent"
            self.finish(job, False, "Task failed to start")
            return
        self.start(job)

    def start(self, job: Job) -> None:
        """Run the command to its end."""
        overrides = job.container_overrides
        # What Batch itself gives, the definition's image is this machine.
        environment = {"PATH": os.environ["PATH"], "AWS_BATCH_JOB_ID": job.job_id, "AWS_BATCH_JOB_ATTEMPT": "1"}
        scratch = Path(tempfile.mkdtemp(prefix="tessera-job-"))
        scratch.chmod(0o1777)
        environment["TMPDIR"] = str(scratch)  # a container's /tmp goes with it
        environment |= {entry["name"]: entry["value"] for entry in overrides.get("environment", ())}
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"]
        with (self.folder / f"{job.job_id}.log").open("wb") as log:
            process = subprocess.Popen(
                [*namespaces, *overrides["command"]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        job.job_started_at = datetime.now(UTC)
        job._start_attempt()
        job.status = "RUNNING"
        said = self.watch(job, process)
        self.keep_output(job)
        shutil.rmtree(scratch, ignore_errors=True)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        if job.job_id in self.taken:
            self.finish(job, False, HOST_GONE)
            return
        job.exit_code = code
        self.finish(job, code == 0, said or "Essential container in task exited")

    def watch(self, job: Job, process: subprocess.Popen[bytes]) -> str | None:
        """Wait for the end and bring it about as told; return what was said by who ended it."""
        longest = job._get_attempt_duration()
        deadline = None if longest is None else time.monotonic() + longest
        kill_at, said = None, None
        while process.poll() is None:
            now = time.monotonic()
            if job.job_id in self.taken:
                process.kill()
            if said is None and (job.stop or (deadline is not None and now > deadline)):
                said = job.said if job.stop else TIMED_OUT
                kill_at = now + STOP_SECONDS
                for child in children_of(process.pid):
                    os.kill(child, signal.SIGTERM)
            if kill_at is not None and now > kill_at:
                process.kill()
            time.sleep(TICK)
        return said

    def keep_output(self, job: Job) -> None:
        """Put what the container printed where the ``awslogs`` driver puts it."""
        group, stream, logs = job._log_group, job._stream_name, job._log_backend
        lines = (self.folder / f"{job.job_id}.log").read_text(errors="replace").splitlines()
        logs.ensure_log_group(group)
        logs.ensure_log_stream(group, stream)
        now = int(time.time() * 1000)
        if events := [{"timestamp": now, "message": line} for line in lines if line]:
            logs.put_log_events(group, stream, events)
        job.log_stream_name = stream

    def finish(self, job: Job, success: bool, why: str) -> None:
        """Put a job into its last state."""
        job.job_stopped_reason = why
        job._mark_stopped(success)


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for_threads(seconds: float = 15.0) -> None:
    """Wait until no job runs any more."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if isinstance(thread, Job):
            thread.join(max(deadline - time.monotonic(), 0.0))
