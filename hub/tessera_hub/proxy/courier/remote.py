"""Starting programs in the other pods of a run: what ``ssh`` is to ``mpirun`` elsewhere, without a server in the image.

Only the first part of an MPI program's run starts the person's program. In every other pod the runner keeps a :class:`Listener`,
which starts what the agent (:func:`call`) asks it for, as the pod's own user and below the runner, so that the run's limits hold
for it. It answers the run's own pods, and of these only who has the run's key (:mod:`.sealed`). When the first part is over its
launcher says so (:func:`dismiss`), and the others end as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tessera_hub.proxy.courier.company import Company
from tessera_hub.proxy.courier.processes import descendants
from tessera_hub.proxy.courier.sealed import Sealed, SealError

PORT: Final = 23457
"""Where a listener listens; each pod has an address of its own, so it is free."""
READY, START, OUTPUT, ERROR, STATUS, OVER = b"r", b"s", b"o", b"e", b"x", b"v"
"""Kinds of frames. The called says ``READY``, which proves it; the caller ``START`` (JSON), or ``OVER`` (``1``: well; ``0``)."""
PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables that a program has from who started it: by them programs and libraries are found. The others are its own pod's."""
REACH_SECONDS: Final = 120.0
"""For a part to listen: engines show the list of all parts to one pod later than to another."""
HANDSHAKE_SECONDS: Final = 10.0
KILL_SECONDS: Final = 5.0
SESSIONS_AT_ONCE: Final = 256
FAILED: Final = 255
"""Status of the agent itself, as that of ``ssh``."""
STOPPED: Final = 128 + signal.SIGTERM
_VALUED: Final = "BbcDEeFIiJLlmOopQRSWw"
"""Options of ``ssh(1)`` that have a value. None of them has a meaning here."""
_PIECE: Final = 1 << 16
_TICK_SECONDS: Final = 0.2


# --- who asks ---------------------------------------------------------------------------------------------------------


def call(arguments: list[str], key: bytes, own_address: str) -> int:
    """Start a command in a part, by the arguments of ``ssh``, and return its status; ours is :data:`FAILED`."""
    words = _without_options(arguments)
    if len(words) < 2:
        sys.stderr.write("[tessera] usage: rsh [options of ssh] ADDRESS COMMAND…\n")
        return FAILED
    address, command = words[0], " ".join(words[1:])
    if address == own_address:
        os.execv("/bin/sh", ["sh", "-c", command])  # noqa: S606 - a launcher that does not know its own address
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        with _reach(address, own_address, REACH_SECONDS) as connection:
            sealed = _greeted(connection, key)
            sealed.send(START, json.dumps({"command": command, "environment": passed}).encode())
            return _relay(sealed)
    except (OSError, EOFError, SealError) as error:
        sys.stderr.write(f"[tessera] the part at {address}: {error}\n")
        return FAILED


def _without_options(arguments: list[str]) -> list[str]:
    words = list(arguments)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if len(option) == 2 and option[1] in _VALUED and words:
            words.pop(0)
    return words


def _relay(sealed: Sealed) -> int:
    sealed.connection.settimeout(None)
    while True:
        kind, content = sealed.receive()
        if kind == STATUS:
            return int(content)
        stream = sys.stdout if kind == OUTPUT else sys.stderr
        stream.buffer.write(content)
        stream.buffer.flush()


def dismiss(addresses: Iterable[str], own_address: str, key: bytes, seconds: float, *, well: bool) -> None:
    """Tell parts that the first one has ended; who cannot be reached in time learns it by the Proxy."""

    def tell(address: str) -> None:
        with contextlib.suppress(OSError, EOFError, SealError), _reach(address, own_address, seconds) as connection:
            sealed = _greeted(connection, key)
            sealed.send(OVER, b"1" if well else b"0")
            sealed.receive()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(tell, addresses))


def _reach(address: str, own_address: str, seconds: float) -> socket.socket:
    """Connect from our own address, by which the other knows us, however many a pod has."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((address, PORT), min(seconds, HANDSHAKE_SECONDS), (own_address, 0))
        except socket.gaierror:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_TICK_SECONDS)


def _greeted(connection: socket.socket, key: bytes) -> Sealed:
    """Return the connection once the other end has proved that it is a part of this run."""
    sealed = Sealed(connection, key, caller=True)
    sealed.receive()
    return sealed


# --- who is asked -----------------------------------------------------------------------------------------------------


class Listener:
    """One part that starts what it is asked for, until the first part is over, or it is told to end.

    Args:
        company: all parts; nobody else is answered.
    """

    def __init__(self, company: Company, key: bytes) -> None:
        self.key = key
        self.allowed = frozenset(company.addresses)
        address = company.addresses[company.rank]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.server = socket.create_server((address, PORT), family=family, backlog=SESSIONS_AT_ONCE)
        self.sessions = threading.BoundedSemaphore(SESSIONS_AT_ONCE)
        self.over: bool | None = None
        self.asked_to_end = False

    def run(self) -> int:
        """Serve, and return the status to exit with."""
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_end())
        self.server.settimeout(_TICK_SECONDS)
        while self.over is None:
            # Told to end, programs have the grace to save what they have; the runner kills what is left of them after it.
            if self.asked_to_end and set(descendants(os.getppid())) <= {os.getpid()}:
                return STOPPED
            try:
                connection, (address, *_port) = self.server.accept()
            except TimeoutError:
                continue
            if address not in self.allowed or not self.sessions.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        if self.over:
            return 0
        # The end of a part that others had to follow is told like that of a part that was stopped: it is no failure of its own.
        os.kill(os.getppid(), signal.SIGTERM)
        deadline = time.monotonic() + KILL_SECONDS
        while not self.asked_to_end and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        return STOPPED

    def _ask_to_end(self) -> None:
        self.asked_to_end = True

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(HANDSHAKE_SECONDS)
                sealed = Sealed(connection, self.key, caller=False)
                sealed.send(READY)
                kind, content = sealed.receive()
                if kind == OVER:
                    sealed.send(STATUS, b"0")
                    self.over = content == b"1"
                elif kind == START:
                    _Session(sealed, json.loads(content)).run()
        except (OSError, EOFError, SealError, ValueError, KeyError) as error:
            sys.stderr.write(f"[tessera] a call was not answered: {error}\n")
        finally:
            self.sessions.release()


class _Session:
    """One command of a caller: it ends when the caller is gone."""

    def __init__(self, sealed: Sealed, wanted: dict[str, Any]) -> None:
        self.sealed = sealed
        given = {str(name): str(value) for name, value in wanted["environment"].items() if name in PASSED_ON}
        # A remote shell's command is a line for a shell: mpirun writes it so. Who may send one is the run's own program.
        self.process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", str(wanted["command"])],
            env={**os.environ, **given},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self) -> None:
        """Bring its output to the caller, then its status."""
        self.sealed.connection.settimeout(None)
        try:
            if self._copy():
                status = self.process.wait()
                self.sealed.send(STATUS, str(status if status >= 0 else 128 - status).encode())
        finally:
            self._end()

    def _copy(self) -> bool:
        """Copy until the output is closed; False when the caller is gone first."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with selectors.DefaultSelector() as watched:
            watched.register(self.process.stdout, selectors.EVENT_READ, OUTPUT)
            watched.register(self.process.stderr, selectors.EVENT_READ, ERROR)
            watched.register(self.sealed.connection, selectors.EVENT_READ)
            while len(watched.get_map()) > 1:
                for key, _events in watched.select():
                    if key.data is None:
                        return False  # a caller says nothing more: it is gone
                    data = os.read(key.fd, _PIECE)
                    if data:
                        self.sealed.send(key.data, data)
                    else:
                        watched.unregister(key.fileobj)
        return True

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(KILL_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
