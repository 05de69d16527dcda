"""The shim: one small process per run that owns it, from the start of the runner to the record of its end.

Run as ``python -I shim.py CONTROL_DIR`` by the local driver; standard library only. It leaves the Proxy's session, so the run
outlives the Proxy. In CONTROL_DIR it reads ``launch.json`` and writes

* ``shim.pid.json``: pid, start ticks and boot id, made by ``link(2)``: whoever makes it is the only one that ever starts this
  run, dead or alive, so a Proxy that is killed while starting may safely start again;
* ``output.log``: what the runner prints, bounded;
* ``alive``: touched every two seconds, the best evidence of the end after a crash of the machine;
* ``suspends.jsonl``: when the run was stopped and continued;
* ``shim.json``: the end, by atomic rename.

Signals: SIGTERM stops the run with the grace in ``cancel.json`` (0: at once), SIGUSR1 suspends, SIGUSR2 continues.
The runner enforces the limits of time, memory and output; the shim is the backstop behind it, a little wider.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

SCHEMA: Final = 1
TAKEN: Final = 75
START_FAILED: Final = 70
TICK_SECONDS: Final = 0.25
ALIVE_SECONDS: Final = 2.0
KILL_SLACK_SECONDS: Final = 10.0
WALL_SLACK_SECONDS: Final = 60.0
OUTPUT_SLACK_BYTES: Final = 1 << 20
MEMORY_SLACK_MIB: Final = 256
CGROUP_UNIFIED: Final = Path("/sys/fs/cgroup")
MEMORY_GROUPS: Final = ((CGROUP_UNIFIED / "memory", "memory.limit_in_bytes"), (CGROUP_UNIFIED, "memory.max"))
CPU_GROUPS: Final = ((CGROUP_UNIFIED / "cpu", "cpu.shares"), (CGROUP_UNIFIED, "cpu.weight"))
"""Where the controllers are mounted and the file that sets the limit: cgroup version 1, version 2."""
PROCESSES_LIMIT: Final = 4096
"""Processes and threads of all that one person runs on this machine; beyond it their own code fails and not the machine."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def boot_id() -> str:
    """Return what names this boot of the machine; pids and ticks mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """Return (state letter, parent, start in clock ticks since boot) of a process, None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and brackets: fields are counted from the last bracket. Field 22 is the start.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def is_alive(pid: int, start_ticks: int, boot: str) -> bool:
    """Whether the process that had this pid and start in this boot still lives (a zombie does not)."""
    found = stat_of(pid)
    return found is not None and found[0] not in "ZX" and found[2] == start_ticks and boot == boot_id()


def descendants(root: int) -> dict[int, str]:
    """Return pid → state letter of everything below *root*."""
    states: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries several times a second
        if name.isdigit() and (found := stat_of(int(name))) is not None:
            states[int(name)] = found[0]
            children.setdefault(found[1], []).append(int(name))
    below: dict[int, str] = {}
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in below:
                below[child] = states[child]
                waiting.append(child)
    return below


def become_reaper() -> None:
    """Adopt orphaned descendants, so that none escapes the final kill (``prctl(2)``)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def write_atomic(path: Path, document: dict[str, Any]) -> None:
    """Replace *path* by the document so that a reader sees the old or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_document(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in *path*, None if there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def control_groups(name: str) -> list[Path]:
    """Return where the control groups of a run may be."""
    return list(dict.fromkeys(root / "tessera" / name for root, _file in (*MEMORY_GROUPS, *CPU_GROUPS)))


def cpu_weight(limit_file: str, millicores: int) -> str:
    """Return the share under contention of a group as its file wants it, by the kernel's and Kubernetes' own conversion."""
    shares = min(max(2, millicores * 1024 // 1000), 262_144)
    return str(shares if limit_file == "cpu.shares" else 1 + (shares - 2) * 9999 // 262_142)


class Cgroup:
    """The control groups of a run, where the machine lets us make them.

    Memory is capped; without a group the shim samples instead. Processors are weighted by what was asked for: whoever wants
    more than that gets what others leave idle, and no more.
    """

    def __init__(self, name: str, limit_mib: int | None, millicores: int | None = None) -> None:
        self.path: Path | None = None
        self.cpu: Path | None = None
        if os.geteuid() != 0:
            return
        if limit_mib is not None:
            self.path = self._make(name, MEMORY_GROUPS, lambda _file: str(limit_mib << 20))
        if millicores is not None:
            self.cpu = self._make(name, CPU_GROUPS, lambda file: cpu_weight(file, millicores))

    @staticmethod
    def _make(name: str, places: tuple[tuple[Path, str], ...], value: Callable[[str], str]) -> Path | None:
        for root, limit_file in places:
            path = root / "tessera" / name
            made = not path.exists()
            try:
                path.mkdir(parents=True, exist_ok=True)
                if root == CGROUP_UNIFIED and not (path / limit_file).exists():
                    (path.parent / "cgroup.subtree_control").write_text(f"+{limit_file.partition('.')[0]}")
                if limit_file.startswith("cpu."):
                    # All runs together weigh as much as the machine has processors, as Kubernetes does it with all pods.
                    (path.parent / limit_file).write_text(cpu_weight(limit_file, 1000 * (os.cpu_count() or 1)))
                (path / limit_file).write_text(value(limit_file))
            except OSError:
                if made:
                    with contextlib.suppress(OSError):
                        path.rmdir()
                continue
            return path
        return None

    def join(self) -> None:
        """Put the calling process in."""
        for path in (self.path, self.cpu):
            if path is not None:
                with contextlib.suppress(OSError):
                    (path / "cgroup.procs").write_text(str(os.getpid()))

    def oom_kills(self) -> int:
        """How often the kernel killed for memory in this group."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, TypeError):
                for line in (self.path / name).read_text().splitlines():  # type: ignore[operator]
                    key, _space, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        return 0

    def remove(self) -> None:
        """Give the groups back once they are empty."""
        for path in {path for path in (self.path, self.cpu) if path is not None}:
            _remove_group(path)


def _remove_group(path: Path) -> None:
    for _ in range(20):
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return


class Shim:
    """The run's owner after it has left the Proxy."""

    def __init__(self, control: Path, launch: dict[str, Any]) -> None:
        self.control = control
        self.orders = control
        self.launch = launch
        self.started_wall = datetime.now(UTC)
        self.started_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.child = 0
        self.status: int | None = None
        self.cause: str | None = None
        self.suspended_since: float | None = None
        self.suspended_seconds = 0.0
        self.kill_at: float | None = None
        self.peak_mib = 0
        self.written = 0
        self.signals: list[int] = []
        memory = launch.get("memory_mib")
        self.memory_limit: int | None = None if memory is None else memory + memory // 10 + MEMORY_SLACK_MIB
        self.cgroup = Cgroup(str(launch["run_id"]), self.memory_limit, launch.get("cpu_millicores"))

    def take(self) -> bool:
        """Become the only one that ever starts this run; False if somebody has before."""
        me = stat_of(os.getpid())
        document = {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "start_ticks": me[2] if me else 0,
            "boot_id": boot_id(),
            "started_at": self.started_wall.isoformat(timespec="milliseconds"),
            **self.launch.get("mark", {}),
        }
        draft = self.control / f".shim.pid.{os.getpid()}"
        write_atomic(draft, document)
        try:
            (self.control / "shim.pid.json").hardlink_to(draft)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def start(self) -> str | None:
        """Start the runner; the reason if it cannot be started."""
        self.reader, writer = os.pipe()
        failed_reader, failed_writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            self._become_runner(writer, failed_writer)
        os.close(writer)
        os.close(failed_writer)
        with os.fdopen(failed_reader, "rb") as file:
            problem = file.read().decode(errors="replace")
        os.set_blocking(self.reader, False)
        return problem or None

    def _become_runner(self, writer: int, failed: int) -> NoReturn:
        try:
            os.setsid()
            os.set_inheritable(failed, False)
            self.cgroup.join()
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o077)
            uid = self.launch.get("uid")
            if uid is not None:
                resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES_LIMIT, PROCESSES_LIMIT))
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            # After the change of identity, which clears it: no user code goes on unseen when the shim is killed.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.chdir(self.launch["cwd"])
            argv = self.launch["argv"]
            os.execve(argv[0], argv, self.launch["env"])  # noqa: S606
        except BaseException as error:  # noqa: BLE001 - told to the parent, then this copy ends
            os.write(failed, f"{type(error).__name__}: {error}".encode()[:2000])
        os._exit(127)

    def run(self) -> None:
        """Copy output, watch limits and signals until the runner and all below it are gone."""
        self.wake, wake_writer = os.pipe()
        for end in (self.wake, wake_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda received, _frame: self.signals.append(received))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if (self.orders / "cancel.json").exists():
            self.signals.append(signal.SIGTERM)  # it was asked for before we could hear it
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self.log = os.open(self.control / "output.log", flags, 0o600)
        last_alive = last_sample = 0.0
        while self.status is None:
            self._wait(TICK_SECONDS)
            self._reap()
            while self.signals:
                self._obey(self.signals.pop(0))
            now = time.monotonic()
            if now - last_alive >= ALIVE_SECONDS:
                last_alive = now
                self._touch_alive()
            if now - last_sample >= 1.0:
                last_sample = now
                self._check_limits(now)
            if self.kill_at is not None and now >= self.kill_at:
                self.kill_all()
        self.kill_all()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and self._copy():
            select.select([self.reader], [], [], 0.1)

    def _touch_alive(self) -> None:
        with contextlib.suppress(OSError):
            (self.control / "alive").touch(mode=0o600)

    def _wait(self, seconds: float) -> None:
        try:
            ready, _writable, _failed = select.select([self.reader, self.wake], [], [], seconds)
        except InterruptedError:
            return
        if self.wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)
        if self.reader in ready and not self._copy():
            time.sleep(0.02)  # the runner closed its output and goes on

    def _copy(self) -> bool:
        """Copy what there is; False at the end of the stream."""
        for _ in range(64):
            try:
                data = os.read(self.reader, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            room = int(self.launch["output_bytes"]) + OUTPUT_SLACK_BYTES - self.written
            with contextlib.suppress(OSError):  # a full disk loses log lines, never the run
                self.written += os.write(self.log, data[: max(room, 0)])
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.status = status
                self.peak_mib = max(self.peak_mib, usage.ru_maxrss // 1024)

    def _obey(self, number: int) -> None:
        if number == signal.SIGTERM:
            order = read_document(self.orders / "cancel.json") or {}
            grace = float(order.get("grace_seconds", self.launch["grace_seconds"]))
            self.cause = self.cause or "stopped"
            self._continue()
            if grace <= 0:
                self.kill_at = 0.0
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)
            limit = time.monotonic() + grace + KILL_SLACK_SECONDS
            self.kill_at = limit if self.kill_at is None else min(self.kill_at, limit)
        elif number == signal.SIGUSR1 and self.suspended_since is None and self.kill_at is None:
            self._signal_all(signal.SIGSTOP)
            self.suspended_since = time.monotonic()
            self._note_suspend("suspended")
        elif number == signal.SIGUSR2:
            self._continue()

    def _continue(self) -> None:
        if self.suspended_since is not None:
            self._signal_all(signal.SIGCONT)
            self.suspended_seconds += time.monotonic() - self.suspended_since
            self.suspended_since = None
            self._note_suspend("resumed")

    def _note_suspend(self, state: str) -> None:
        line = json.dumps({"at": self.now_text(), "state": state}) + "\n"
        with contextlib.suppress(OSError):  # a full disk loses the note, never the run
            descriptor = os.open(self.control / "suspends.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def _signal_all(self, number: int) -> None:
        """Repeat until nothing new appears, since a process may fork while the list is read."""
        done: set[int] = set()
        while fresh := set(descendants(os.getpid())) - done:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            done |= fresh

    def _check_limits(self, now: float) -> None:
        seconds = self.launch.get("max_seconds")
        if seconds is not None and self.suspended_since is None and self.kill_at is None:
            spent = time.clock_gettime(time.CLOCK_BOOTTIME) - self.started_boot - self.suspended_seconds
            if spent > seconds + self.launch["grace_seconds"] + WALL_SLACK_SECONDS:
                self.cause, self.kill_at = "limit.time", now
        if self.memory_limit is not None and self.cgroup.path is None and self.kill_at is None:
            used = self._resident_mib()
            self.peak_mib = max(self.peak_mib, used)
            if used > self.memory_limit + self.memory_limit // 2:
                self.cause, self.kill_at = "limit.memory", now

    def _resident_mib(self) -> int:
        pages = 0
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError, IndexError, ValueError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def kill_all(self) -> None:
        """Kill everything below and wait until it is gone."""
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            living = [pid for pid, state in descendants(os.getpid()).items() if state not in "ZX"]
            if not living:
                break
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.01)
        self._reap()

    def now_text(self) -> str:
        """The time by the wall clock of the start plus what has passed, so that a jump of the clock changes no duration."""
        passed = time.clock_gettime(time.CLOCK_BOOTTIME) - self.started_boot
        return (self.started_wall + timedelta(seconds=passed)).isoformat(timespec="milliseconds")

    def record(self, problem: str | None = None) -> None:
        """Write the end."""
        status = self.status
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        killed = code is not None and code < 0
        cause = "start_failed" if problem else self.cause
        if cause is None and killed and self.cgroup.oom_kills():
            cause = "limit.memory"
        document = {
            "schema": SCHEMA,
            "exit_code": None if killed else code,
            "signal": -code if killed and code is not None else None,
            "cause": cause,
            "problem": problem,
            "started_at": self.started_wall.isoformat(timespec="milliseconds"),
            "finished_at": self.now_text(),
            "peak_memory_mib": self.peak_mib,
        }
        while True:
            try:
                write_atomic(self.control / "shim.json", document)
            except FileNotFoundError:
                return  # the directory was taken away: nobody is left to tell
            except OSError:
                time.sleep(1.0)  # a full disk: the end must be told, so wait for room
            else:
                return


def main(arguments: list[str]) -> int:
    """Leave the Proxy's session, start the run and stay with it. The status tells the Proxy how the start went."""
    control = Path(arguments[0])
    launch = json.loads((control / "launch.json").read_bytes())
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answer = file.read()
        return {b"started": 0, b"taken": TAKEN}.get(answer, START_FAILED)
    os.close(reader)
    os.setsid()
    os.chdir("/")
    become_reaper()
    shim = Shim(control, launch)
    if not shim.take():
        os.write(writer, b"taken")
        return 0
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    problem = shim.start()
    if problem is None:
        os.write(writer, b"started")
        os.close(writer)
        shim.run()
    else:
        shim._reap()  # noqa: SLF001 - same module
    shim.record(problem)
    shim.cgroup.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
