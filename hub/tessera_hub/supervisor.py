"""The processes of ``tessera up``: started together, restarted when one dies, stopped in order."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0
HEALTHY_SECONDS: Final = 30.0
"""A process that lived this long starts again at once and its pause begins anew."""
_PR_SET_PDEATHSIG: Final = 1


def _die_with_parent() -> Callable[[], None] | None:
    """Return what makes a child receive SIGTERM when we die (Linux), so that a killed ``tessera up`` leaves nothing behind."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the call
            os.kill(os.getpid(), signal.SIGTERM)

    return prepare


@dataclass(slots=True)
class Child:
    """One process: argv, environment on top of ours, and the file that takes its output."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_file: Path
    stop_seconds: float = 20.0
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    next_start: float = 0.0
    _log: IO[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process in a session of its own: signals of the terminal reach only us."""
        self.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._log is None:
            self._log = self.log_file.open("ab", buffering=0)
        self.process = subprocess.Popen(  # noqa: S603  # our own argv, no shell
            list(self.argv),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509  # this process has one thread
        )
        self.starts += 1
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def revive(self) -> int | None:
        """Start the process again if it died, after a pause that grows while it keeps dying; return its status if it just did."""
        if self.running:
            return None
        code = None
        now = time.monotonic()
        if self.process is not None:
            code, self.process = self.process.returncode, None
            self.pause = FIRST_PAUSE_SECONDS if now - self.started_at > HEALTHY_SECONDS else self.pause
            self.next_start = now + self.pause
            self.pause = min(self.pause * 2, LONGEST_PAUSE_SECONDS)
        if now >= self.next_start:
            self.start()
        return code

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after :attr:`stop_seconds`."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def last_lines(self, count: int = 15) -> list[str]:
        """Return the end of its output."""
        with contextlib.suppress(OSError):
            return self.log_file.read_text("utf-8", "replace").splitlines()[-count:]
        return []


class Supervisor:
    """Keeps *children* alive until told to stop; stops them in the order given."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = children

    def start(self) -> None:
        """Start all."""
        for child in self.children:
            child.start()

    def watch(self) -> list[tuple[Child, int]]:
        """Revive whichever died and return those that just did, with their status; call it a few times a second."""
        return [(child, code) for child in self.children if (code := child.revive()) is not None]

    def stop(self) -> None:
        """Stop all."""
        for child in self.children:
            child.stop()
