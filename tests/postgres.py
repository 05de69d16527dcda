"""A real PostgreSQL server for tests: its own cluster in a temporary directory, reached by a Unix socket.

``postgres_server`` (session) is the server itself, for tests that stop and restart it; ``postgres_url`` (session) is the URL of
an empty database in it; ``postgres_database`` (function) is the URL of a fresh database that is dropped afterwards. The URLs are
SQLAlchemy's, for psycopg 3, which serves sync and async engines alike.

initdb refuses to run as root, so as root the server runs under the account ``postgres``. The server gets SIGINT (fast shutdown)
by the kernel when the process that started it dies, so that not even a killed test run leaves one behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

SUPERUSER = "tessera"


def postgres_programs() -> Path:
    """Return the directory of initdb, pg_ctl and postgres; Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else Path(shutil.which("initdb") or "")
    if not found.name:
        pytest.fail("PostgreSQL is missing: install Debian's package postgresql", pytrace=False)
    return found.parent


class PostgresServer:
    """One PostgreSQL cluster that belongs to this test run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._programs = postgres_programs()
        self._process: subprocess.Popen[bytes] | None = None

    def _as_owner(self) -> list[str]:
        command = ["setpriv", "--pdeathsig", "INT"]
        return [*command, "--reuid", "postgres", "--regid", "postgres", "--init-groups"] if os.geteuid() == 0 else command

    def create(self) -> None:
        """Make the cluster's files. The directory must be reachable by the account that owns the server."""
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        options = ["--auth", "trust", "--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        command = [*self._as_owner(), str(self._programs / "initdb"), "--pgdata", str(self.data), *options]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"initdb failed: {done.stderr}", pytrace=False)

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [*self._as_owner(), str(self._programs / "postgres"), "-D", str(self.data), *arguments]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ready = [str(self._programs / "pg_isready"), "--host", str(self.directory), "--quiet", "--timeout", "1"]
        for _ in range(300):
            if self._process.poll() is not None:
                break
            if subprocess.run(ready, check=False).returncode == 0:
                return
            signal.sigtimedwait([], 0.1)
        self.stop()
        pytest.fail(f"PostgreSQL did not start: {(self.directory / 'server.log').read_text()}", pytrace=False)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT closes the files first, SIGQUIT is a crash that recovers at the next start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start again, as a service manager would."""
        self.stop(how)
        self.start()

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.directory}"

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{uuid.uuid4().hex}"
        self._administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(host=str(self.directory), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run; tests that stop it start it again."""
    # Not under pytest's own directory: that one is closed to other accounts, and a socket's path may have 107 bytes only.
    directory = Path(tempfile.mkdtemp(prefix="tessera-postgres-"))
    server = PostgresServer(directory)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL (postgresql+psycopg) of one empty database that lives as long as the test run."""
    return postgres_server.url(postgres_server.create_database())


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """URL (postgresql+psycopg) of a fresh empty database for one test."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)
