"""A real sshd on loopback: the login node of the Slurm centre."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import free_ports


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
        assert self.process is not None
        mark = str(self.process.pid)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[1] == mark:
                    os.kill(int(entry.name), 9)
        self.process.kill()
        self.process.wait(10)
        self.process = None
        (self.directory / "log").write_text("")


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
