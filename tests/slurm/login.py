"""A real sshd on loopback: the login node of the Slurm centre."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import PEOPLE, SlurmCluster, free_ports


def key(path: Path) -> str:
    """Make a key pair and return its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


class LoginNode:
    """One sshd.

    Args:
        directory: where keys and configuration lie; root's.
        accounts: who may sign in, each with a key of their own in ``keys``.
    """

    def __init__(self, directory: Path, accounts: Sequence[str]) -> None:
        self.directory = directory
        self.accounts = accounts
        [self.port] = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        self.keys = directory / "keys"
        self.known_hosts = directory / "known_hosts"
        self.keys.mkdir()
        (directory / "authorized").mkdir()
        for account in accounts:
            (directory / "authorized" / account).write_text(key(self.keys / account))
        public = key(directory / "host")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        for path in (directory, directory / "authorized"):
            path.chmod(0o755)
        (directory / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/authorized/%u\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nMaxSessions 50\nMaxStartups 100\nAllowUsers {' '.join(accounts)}\n"
        )

    def start(self) -> None:
        """Start it."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([program, "-D", "-e", "-f", str(self.directory / "sshd_config")], stderr=log)
        deadline = time.monotonic() + 20
        while "Server listening" not in (self.directory / "log").read_text():
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def cut(self) -> None:
        """End it and all its connections."""
        for pid in self._sessions():
            os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None
        (self.directory / "log").write_text("")

    def freeze(self) -> None:
        """Let it and all its connections stay open and answer nothing; commands that it had started go on."""
        assert self.process is not None
        for pid in (self.process.pid, *self._sessions()):
            os.kill(pid, signal.SIGSTOP)

    def _sessions(self) -> list[int]:
        """Return the processes of its connections: each has one of root's, and below it one of the account's."""
        assert self.process is not None
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "comm").read_text().startswith("sshd"):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]


@contextmanager
def login_node(directory: Path, accounts: Sequence[str]) -> Iterator[LoginNode]:
    """A started sshd; people whose account is locked by its missing password may still use a key."""
    for account in accounts:
        pwd.getpwnam(account)
        subprocess.run(["usermod", "-p", "*", account], check=True, capture_output=True)
    node = LoginNode(directory, accounts)
    node.start()
    try:
        yield node
    finally:
        if node.process is not None:
            node.cut()


@pytest.fixture(scope="session")
def ssh_programs() -> None:
    """Fail with what to install where there is no sshd."""
    if shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None or shutil.which("ssh") is None:
        pytest.fail("sshd or ssh not found; on Debian: apt-get install openssh-server openssh-client", pytrace=False)


@pytest.fixture
def login(ssh_programs: None, slurm: SlurmCluster) -> Iterator[LoginNode]:
    # Below the cluster's folder, which people may pass through: sshd reads their keys as them.
    directory = Path(tempfile.mkdtemp(prefix="login-", dir=slurm.directory))
    with login_node(directory, PEOPLE) as node:
        yield node
    shutil.rmtree(directory)
