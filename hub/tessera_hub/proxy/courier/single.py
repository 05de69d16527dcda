"""All of a courier in one container, where an engine gives a run no more: process 1 is root and keeps what user code may not see.

``prepare`` runs as a child; then everything of the run is given to its own user, who has the launcher and user code, and we
deliver. What user code could read of us as another user is nothing: no privileges can be gained below the launcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tessera_hub.proxy.courier.calls import UnreachableError, patiently
from tessera_hub.proxy.courier.channel import Channel, Listener
from tessera_hub.proxy.courier.delivering import Courier
from tessera_hub.proxy.courier.places import Places, read_document, write_atomic
from tessera_hub.proxy.courier.processes import descendants
from tessera_hub.proxy.courier.settings import Settings

NOT_ROOT: Final = 78
STOPPED: Final = 128 + signal.SIGTERM
SECRET: Final = ("AWS_", "ECS_", "TESSERA_COURIER")
"""Beginnings of the container's variables that user code does not get."""


def single(places: Places, settings: Settings, settings_file: Path, claimant: str, runner: Path) -> int:
    """Prepare, run and deliver; return the status to exit with, that of the run where it was started."""
    if os.geteuid() != 0:
        sys.stderr.write("[tessera] cluster.start_failed: the container must start as root, to run user code as another user\n")
        return NOT_ROOT
    return Single(places, settings, [sys.executable, "-I", sys.argv[0]]).run(settings_file, claimant, runner)


class Single:
    """One run in its container.

    Args:
        program: command line of the courier itself.
    """

    def __init__(self, places: Places, settings: Settings, program: list[str]) -> None:
        self.places = places
        self.settings = settings
        self.program = program
        self.channel = Channel(settings.order_url, settings.told_url)
        self.orders = places.root / "orders"
        self.child: subprocess.Popen[bytes] | None = None
        self.stopped = threading.Event()
        self.began_at: str | None = None

    def run(self, settings_file: Path, claimant: str, runner: Path) -> int:
        """Go through the parts."""
        self.orders.mkdir(mode=0o755, exist_ok=True)
        signal.signal(signal.SIGTERM, lambda *_: self._ask_child())
        listener = Listener(self.channel, self.settings.poll_seconds, self._obey)
        listener.start()
        report = self.places.root / "prepared.json"
        prepare = ["prepare", "--root", str(self.places.root), "--settings", str(settings_file), "--claimant", claimant]
        status = self._start([*self.program, *prepare, "--report", str(report)]).wait()
        if status == 0 and not self.stopped.is_set():
            with contextlib.suppress(UnreachableError, ValueError):
                self._obey(self.channel.read())
        if self.stopped.is_set() or status != 0:
            listener.end()
            words = read_document(report) or {}
            self._last_words({"phase": "refused", "stopped": self.stopped.is_set(), **words})
            return STOPPED if self.stopped.is_set() else status if status > 0 else 128 - status
        hand_over(self.places, self.settings.user)
        return self._launch(listener, runner)

    def _launch(self, listener: Listener, runner: Path) -> int:
        # Told before it is true: who hears nothing of a start may take it that no user code ran.
        self.began_at = datetime.now(UTC).isoformat()
        patiently(lambda: self.channel.tell(self._standing()))
        arguments = ["launch", "--root", str(self.places.root), "--runner", str(runner), "--order", str(self.orders / "order")]
        child = self._start([*self.program, *arguments, "--confined"], self.settings.user)
        if self.stopped.is_set():
            self._ask_child()
        courier = Courier(
            self.places,
            self.settings,
            over=lambda: child.poll() is not None,
            tell=lambda line: listener.tell(self._standing(json.loads(line))),
        )
        courier.follow()
        self._end_all_below()
        listener.end()
        status = child.returncode if child.returncode >= 0 else 128 - child.returncode
        courier.finish()
        self._last_words(self._standing() | {"phase": "ended", "exit_code": status, "report": json.loads(courier.report())})
        return status

    def _standing(self, told: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"phase": "began", "began_at": self.began_at, **(told or {})}

    def _start(self, argv: list[str], user: int | None = None) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}
        if user is not None:
            environment |= {"HOME": str(self.places.run), **self.settings.variables}
        self.child = subprocess.Popen(  # noqa: S603 - ourselves
            argv, env=environment, user=user, group=user, extra_groups=None if user is None else [], stdin=subprocess.DEVNULL
        )
        return self.child

    def _obey(self, order: dict[str, Any]) -> None:
        """Show an order to the launcher; before it, an order to end means that it shall not come."""
        write_atomic(self.orders / "order", order)
        (self.orders / "order").chmod(0o644)
        if order.get("why") and self.began_at is None:
            self.stopped.set()
            self._ask_child()

    def _ask_child(self) -> None:
        """The container is being ended: what prepares goes, what runs is stopped by its launcher."""
        if self.began_at is None:
            self.stopped.set()
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGTERM)

    def _end_all_below(self) -> None:
        """End what user code left behind, also where it ended its own launcher."""
        while below := descendants(os.getpid()):
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.02)

    def _last_words(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(UnreachableError):
            patiently(lambda: self.channel.tell(document), self.settings.room_seconds)


def hand_over(places: Places, user: int) -> None:
    """Give the run's folders to its user; no user code has run, so nothing in them is foreign yet."""
    for top in (places.run, places.control):
        for folder, folders, names in os.walk(top):
            for name in (*folders, *names):
                os.chown(Path(folder, name), user, user, follow_symlinks=False)
        os.chown(top, user, user, follow_symlinks=False)
