"""How a command reaches the centre: here under another account, or through SSH. Always argument lists, never shell text.

``ssh`` hands one string to the shell of the far side; it is made by :func:`shlex.join`, which quotes each argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from tessera_hub.proxy.drivers.slurm.settings import SlurmSettings, SshSettings

OUTPUT_BYTES: Final = 256 << 20
ERROR_BYTES: Final = 1 << 20


class TransportError(Exception):
    """The centre could not be reached, or a command did not answer in time. Whether it did anything is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left."""

    status: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        """Its output as text."""
        return self.output.decode(errors="replace")


class Transport(ABC):
    """Runs commands at the centre.

    Args:
        environment: variables of every command.
        seconds: most that one may take.
    """

    def __init__(self, environment: Mapping[str, str], seconds: float) -> None:
        self.environment = dict(environment)
        self.seconds = seconds

    @abstractmethod
    async def run(
        self, argv: Sequence[str], *, account: str | None = None, data: bytes = b"", file: Path | None = None
    ) -> Answer:
        """Run a command, under a person's *account* or the Proxy's own, with *data* or *file* as its input; return what it left.

        Raises:
            TransportError: the centre cannot be reached, or it took too long.
        """

    async def close(self) -> None:  # noqa: B027 - most have nothing to let go
        """Let the centre go."""

    async def _finish(self, process: asyncio.subprocess.Process, argv: Sequence[str], data: bytes | None) -> Answer:
        try:
            async with asyncio.timeout(self.seconds):
                assert process.stdout is not None
                assert process.stderr is not None
                output, errors, _nothing = await asyncio.gather(
                    _bounded(process.stdout, OUTPUT_BYTES), _bounded(process.stderr, ERROR_BYTES), _feed(process, data)
                )
                await process.wait()
        except TimeoutError as error:
            raise TransportError(f"{argv[0]} did not answer in {self.seconds:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return Answer(process.returncode or 0, output, errors.decode(errors="replace").strip())


async def _bounded(stream: asyncio.StreamReader, limit: int) -> bytes:
    """Return what comes, at most *limit* bytes: what answers may be a person's own shell."""
    found = bytearray()
    while piece := await stream.read(1 << 16):
        found += piece
        if len(found) > limit:
            raise TransportError(f"an answer of more than {limit} bytes")
    return bytes(found)


async def _feed(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    """Write a command's input; one that does not read it to its end is no error."""
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data or b"")
        await process.stdin.drain()
    process.stdin.close()


@contextlib.contextmanager
def _input(file: Path | None) -> Iterator[BinaryIO | None]:
    """Open a file to be a command's input."""
    if file is None:
        yield None
        return
    with file.open("rb") as opened:
        yield opened


async def _spawn(argv: Sequence[str], given: BinaryIO | None, **options: Any) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if given is None else given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            **options,
        )
    except OSError as error:
        raise TransportError(f"{argv[0]} cannot be run: {error.strerror}") from error


class LocalTransport(Transport):
    """Commands of this machine: as root under any account, else by sudo."""

    def __init__(self, environment: Mapping[str, str], seconds: float, *, sudo: bool) -> None:
        super().__init__(environment, seconds)
        self.sudo = sudo

    async def run(
        self, argv: Sequence[str], *, account: str | None = None, data: bytes = b"", file: Path | None = None
    ) -> Answer:
        """See :meth:`Transport.run`."""
        environment, full = dict(self.environment), list(argv)
        identity: dict[str, Any] = {}
        if account is not None and self.sudo:
            pairs = [f"{name}={value}" for name, value in environment.items()]
            full = ["sudo", "-n", "-u", account, "--", "env", *pairs, *argv]
        elif account is not None:
            found = pwd.getpwnam(account)
            groups = os.getgrouplist(account, found.pw_gid)
            identity = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}
            environment |= {"HOME": found.pw_dir, "USER": account, "LOGNAME": account}
        with _input(file) as given:
            process = await _spawn(full, given, env=environment, cwd="/", **identity)
        return await self._finish(process, argv, None if file else data)


class SshTransport(Transport):
    """Commands of a login node. One connection per account is kept (ControlMaster) and shared by its commands."""

    STATUS_OF_SSH = 255
    """What ssh itself ends with when there is no connection."""

    def __init__(self, environment: Mapping[str, str], seconds: float, ssh: SshSettings) -> None:
        super().__init__(environment, seconds)
        self.ssh = ssh
        self._sockets = tempfile.TemporaryDirectory(prefix="tessera-ssh-")
        self._masters: dict[str, asyncio.subprocess.Process] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def _command(self, sign_in: str) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ControlPath": f"{self._sockets.name}/%C",
            "ConnectTimeout": "10",
            "ServerAliveInterval": str(self.ssh.alive_seconds),
            "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "yes",
        }
        if self.ssh.known_hosts is not None:
            options["UserKnownHostsFile"] = self.ssh.known_hosts
        key = self.ssh.key if sign_in == self.ssh.user or self.ssh.keys is None else str(Path(self.ssh.keys, sign_in))
        if key is not None:
            options |= {"IdentityFile": key, "IdentitiesOnly": "yes"}
        pairs = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-T", "-p", str(self.ssh.port), "-l", sign_in, *pairs]

    async def _connect(self, sign_in: str) -> None:
        """Open the kept connection if there is none. It is a process of its own, since it would hold a command's pipes."""
        async with self._locks.setdefault(sign_in, asyncio.Lock()):
            process = self._masters.get(sign_in)
            if process is not None and process.returncode is None:
                return
            argv = [*self._command(sign_in), "-o", "ControlMaster=yes", "-N", "--", self.ssh.host]
            self._masters[sign_in] = process = await _spawn(argv, None, start_new_session=True)
            deadline = asyncio.get_running_loop().time() + self.seconds
            check = [*self._command(sign_in), "-O", "check", "--", self.ssh.host]
            while (await self._finish(await _spawn(check, None), ["ssh"], b"")).status != 0:
                if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    _output, errors = await process.communicate()
                    words = errors.decode(errors="replace").strip().splitlines()
                    raise TransportError(f"{self.ssh.host}: {words[-1] if words else 'no connection'}")
                await asyncio.sleep(0.05)

    async def run(
        self, argv: Sequence[str], *, account: str | None = None, data: bytes = b"", file: Path | None = None
    ) -> Answer:
        """See :meth:`Transport.run`."""
        pairs = [f"{name}={value}" for name, value in self.environment.items()]
        remote = ["env", *pairs, *argv]
        sign_in = account if account is not None and self.ssh.keys is not None else self.ssh.user
        if account is not None and account != sign_in:
            remote = ["sudo", "-n", "-u", account, "--", *remote]
        await self._connect(sign_in)
        command = [*self._command(sign_in), "-o", "ControlMaster=no", "--", self.ssh.host, shlex.join(remote)]
        with _input(file) as given:
            process = await _spawn(command, given, start_new_session=True)
        answer = await self._finish(process, argv, None if file else data)
        if answer.status == self.STATUS_OF_SSH:
            raise TransportError(f"{self.ssh.host}: {answer.errors or 'the connection was lost'}")
        return answer

    async def close(self) -> None:
        """End the kept connections."""
        for process in self._masters.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.communicate()
        self._masters.clear()
        self._sockets.cleanup()


def transport_of(settings: SlurmSettings) -> Transport:
    """Return the way to the centre that the settings name."""
    environment = {"PATH": settings.path, "LANG": "C.UTF-8", "SLURM_TIME_FORMAT": "%s"}
    if settings.slurm_conf is not None:
        environment["SLURM_CONF"] = settings.slurm_conf
    if settings.ssh is not None:
        return SshTransport(environment, settings.command_seconds, settings.ssh)
    return LocalTransport(environment, settings.command_seconds, sudo=settings.sudo)
