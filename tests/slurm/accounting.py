"""A Slurm with accounting: :mod:`tests.slurm.cluster` with a real slurmdbd on a real MariaDB, all on loopback."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster, free_ports, missing, running_as

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")
PACKAGES = "slurmdbd mariadb-server-core mariadb-client-core"


class AccountedCluster(SlurmCluster):
    """One Slurm with its database."""

    def __init__(self, directory: Path, settings: tuple[str, ...] = ()) -> None:
        self.accounting_port, self.database_port = free_ports(2)
        accounting = (
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={self.accounting_port}",
            f"AccountingStoragePass={directory}/munge/socket",
        )
        super().__init__(directory, (*accounting, *settings))

    def start_accounting(self) -> None:
        """Start MariaDB with an empty database, then slurmdbd."""
        data, log = self.directory / "database", self.directory / "log"
        install = ("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db")
        subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        self._spawn(
            "mariadbd",
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={data}/socket"),
            *("--bind-address=127.0.0.1", f"--port={self.database_port}", f"--pid-file={data}/pid"),
            *("--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", f"--log-error={log}/mariadbd.log"),
        )
        self._wait((data / "socket").exists, "mariadbd")
        file = self.directory / "etc" / "slurmdbd.conf"
        file.touch(mode=0o600)
        file.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.directory}/munge/socket\nSlurmUser=root\n"
            f"DbdHost={socket.gethostname()}\nDbdAddr=127.0.0.1\nDbdPort={self.accounting_port}\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={self.database_port}\n"
            f"StorageUser=root\nStorageLoc=slurm\nLogFile={log}/slurmdbd.log\nPidFile={data}/slurmdbd.pid\n"
        )
        self.start_database_daemon()
        self.command("sacctmgr", "--immediate", "add", "cluster", "tessera-test")

    def start_database_daemon(self) -> None:
        """Start slurmdbd; returns when it answers."""
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._wait(lambda: "Cluster" in self.command("sacctmgr", "show", "cluster", check=False), "slurmdbd")

    def stop_database_daemon(self) -> None:
        """End slurmdbd; slurmctld keeps what it has to tell it."""
        self._end("slurmdbd", signal.SIGKILL)


@pytest.fixture(scope="module")
def accounted() -> Iterator[AccountedCluster]:
    """A real Slurm with accounting; without its packages the tests that need it fail with what to install."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    lacking = missing() or (f"{', '.join(absent)} not found; on Debian: apt-get install {PACKAGES}" if absent else None)
    if lacking is not None:
        pytest.fail(lacking, pytrace=False)
    with running_as(AccountedCluster) as cluster:
        yield cluster
