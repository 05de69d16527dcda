"""The owner of the runner, in a pod process 1 of the container in which user code runs."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from tessera_hub.proxy.courier import mpi
from tessera_hub.proxy.courier.company import Company, await_company, join
from tessera_hub.proxy.courier.places import Places, write_atomic
from tessera_hub.proxy.courier.processes import descendants

TAKEN: Final = 75
TICK_SECONDS: Final = 0.2
KILL_SLACK_SECONDS: Final = 10.0
OUTPUT_SLACK_BYTES: Final = 1 << 20
DEFAULT_OUTPUT_BYTES: Final = 64 << 20
PIECE: Final = 1 << 16
PR_SET_CHILD_SUBREAPER: Final = 36
_OF_ONE_START: Final = ("exit.json", "stop.json", "preempt-notice")
"""What runner and launcher leave of a start, in the run's folder."""
PR_SET_NO_NEW_PRIVS: Final = 38
PERSONS_PATH: Final = "TESSERA_PATH"
"""Variable with the ``PATH`` that the program is to have: an engine looks for our own Python by a container's ``PATH``."""


@dataclass(frozen=True)
class Several:
    """How a part of several finds the others: the file that names them, and our own name in it.

    Attributes:
        slots: processes that each part has room for.
    """

    company: Path
    uid: str
    framework: str
    slots: int = 1

    @classmethod
    def of(cls, company: Path | None, uid: str, framework: str, slots: int) -> Self | None:
        """Return it; None for a run of one part."""
        return None if company is None else cls(company, uid, framework, slots)


def launch(
    places: Places, runner: Path, order: Path, heard: list[int], several: Several | None = None, *, confined: bool = False
) -> int:
    """Run the runner to its end and return its status; a run that was started before, dead or alive, is not started again.

    Args:
        heard: signals that have come already.
        confined: we are not process 1 and share the container with a more privileged one: what runs below us gains no
            privileges by any program of the image, and what loses its parent stays ours.
    """
    if confined:
        confine()
    try:
        os.close(os.open(places.started, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        sys.stderr.write("[tessera] claimed.elsewhere: this run was started before\n")
        return TAKEN
    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return Launcher(places, order, heard).run([sys.executable, "-I", str(runner), str(places.run)], several)


def serve(places: Places, runner: Path, order: Path, heard: list[int]) -> int:
    """Run the runner of a service to its end and return its status; the engine starts us again, and what was left is removed."""
    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    places.started.touch(mode=0o600)
    for left in (places.suspended, *(places.run / name for name in _OF_ONE_START)):
        with contextlib.suppress(FileNotFoundError):
            left.unlink()
    shutil.rmtree(places.run / "claim", ignore_errors=True)
    launcher = Launcher(places, order, heard)
    with contextlib.suppress(OSError):  # the output of all starts together has the room of one
        launcher.room -= (places.control / "output.log").stat().st_size
    return launcher.run([sys.executable, "-I", str(runner), str(places.run)])


def confine() -> None:
    """Take the right to gain privileges from us and all below us, and become the parent of orphans below us.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option in (PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER):
        if libc.prctl(option, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")


class Launcher:
    """One run's processes."""

    def __init__(self, places: Places, order: Path, heard: list[int]) -> None:
        self.places = places
        self.order = order
        run = json.loads((places.run / "run.json").read_bytes())
        limit = (run.get("limits") or {}).get("output_bytes") or DEFAULT_OUTPUT_BYTES
        self.room = int(limit) + OUTPUT_SLACK_BYTES
        self.grace = float(run.get("grace_seconds", 30))
        self.signals = heard
        self.stopping = False
        self.suspended = False
        self.shown = False
        self.kill_at: float | None = None
        self.obeyed: Any = None
        self.mpi: Company | None = None

    def run(self, argv: list[str], several: Several | None = None) -> int:
        """Start the runner, copy its output, obey orders and signals, and leave nothing behind."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: self.signals.append(received))
        environment = dict(os.environ)
        if PERSONS_PATH in environment:
            environment["PATH"] = environment.pop(PERSONS_PATH)
        if several is not None:
            company = await_company(several.company, several.uid, self._may_wait)
            if company is None:
                sys.stderr.write("[tessera] ended before all parts were there; nothing was started\n")
                return 128 + signal.SIGTERM
            environment |= join(company, self.places, several.framework, several.slots)
            if several.framework == "mpi":
                self.mpi = company
                environment |= mpi.variables(company, several.slots, self.places, environment)
                if company.rank > 0:
                    argv = [*argv, "--", *mpi.program_of_others(self.places, several.company, several.uid)]
        log = os.open(self.places.control / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.chdir(self.places.run)
        child = subprocess.Popen(  # noqa: S603 - the runner in its environment's Python
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        assert child.stdout is not None
        reader = child.stdout.fileno()
        os.set_blocking(reader, False)
        status: int | None = None
        while status is None:
            with contextlib.suppress(InterruptedError):
                if select.select([reader], [], [], TICK_SECONDS)[0] and not self._copy(reader, log):
                    time.sleep(0.02)  # the runner closed its output and goes on
            status = self._reap(child.pid)
            self._obey(child.pid)
            if self.suspended and not self.shown:
                self._copy(reader, log)  # what was written before the stop is in the log before the stop is shown
                self._show(True)
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self._signal_all(signal.SIGKILL)
        self._signal_all(signal.SIGKILL)
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and self._copy(reader, log):
            select.select([reader], [], [], 0.1)
        code = os.waitstatus_to_exitcode(status)
        code = code if code >= 0 else 128 - code
        with contextlib.suppress(OSError):
            write_atomic(self.places.control / "end.json", {"exit_code": code, "finished_at": datetime.now(UTC).isoformat()})
        if self.mpi is not None and self.mpi.rank == 0:
            mpi.dismiss_others(self.mpi, self.places, well=code == 0 and not self.stopping)
        return code

    def _may_wait(self) -> bool:
        """Wait a moment for the other parts; False when we were told to end."""
        time.sleep(TICK_SECONDS)
        return not self.signals and not self._ordered().get("why")

    def _ordered(self) -> dict[str, Any]:
        """The Proxy's present order; empty if there is none."""
        try:
            wanted = json.loads(self.order.read_text() or "{}")
        except (OSError, ValueError):
            return {}
        return wanted if isinstance(wanted, dict) else {}

    def _copy(self, reader: int, log: int) -> bool:
        """Copy what there is into the log and to our own output, which the engine keeps; False at the end of the stream."""
        while True:
            try:
                data = os.read(reader, PIECE)
            except BlockingIOError:
                return True
            if not data:
                return False
            data = data[: max(self.room, 0)]
            self.room -= len(data)
            with contextlib.suppress(OSError):  # a full disk loses log lines, never the run
                os.write(log, data)
            with contextlib.suppress(OSError):
                os.write(1, data)

    def _reap(self, child: int) -> int | None:
        """Collect ended processes, as process 1 must; the runner's status when it was among them."""
        status = None
        while True:
            try:
                pid, found = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid == child:
                status = found

    def _obey(self, child: int) -> None:
        """Follow the Proxy's order and the engine's signals."""
        while self.signals:
            self.signals.pop()
            self._stop(child, None, self.grace)
        try:
            text = self.order.read_text()
            wanted = json.loads(text) if text else {}
        except (OSError, ValueError):
            return
        if wanted == self.obeyed or not isinstance(wanted, dict):
            return
        self.obeyed = wanted
        if wanted.get("why") == "done":
            if self.mpi is not None:
                mpi.dismiss_own(self.mpi, self.places)
        elif wanted.get("why"):
            self._stop(child, str(wanted["why"]), float(wanted.get("grace_seconds", self.grace)))
        elif bool(wanted.get("suspended")) is not self.suspended:
            self._suspend(bool(wanted.get("suspended")))

    def _suspend(self, stopped: bool) -> None:
        self._signal_all(signal.SIGSTOP if stopped else signal.SIGCONT)
        self.suspended = stopped
        if not stopped:
            self._show(False)

    def _show(self, stopped: bool) -> None:
        """Tell the other parts of the courier whether the run is stopped."""
        self.shown = stopped
        with contextlib.suppress(OSError):
            if stopped:
                self.places.suspended.touch()
            else:
                self.places.suspended.unlink(missing_ok=True)

    def _stop(self, child: int, why: str | None, grace: float) -> None:
        if self.suspended:
            self._suspend(False)
        limit = time.monotonic() + (grace + KILL_SLACK_SECONDS if grace > 0 else 0.0)
        self.kill_at = limit if self.kill_at is None else min(self.kill_at, limit)
        if self.stopping or grace <= 0:
            return
        self.stopping = True
        if why in ("cancel", "preempt"):
            with contextlib.suppress(OSError):
                write_atomic(self.places.run / "stop.json", {"why": why, "grace_seconds": int(grace)})
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        """Signal everything below us; repeated until nothing new appears, since a process may fork while the list is read."""
        done: set[int] = set()
        while fresh := set(descendants(os.getpid())) - done:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            done |= fresh
