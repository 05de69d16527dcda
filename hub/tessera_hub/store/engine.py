"""The database of the service: one :class:`Store` for SQLite (one machine) and PostgreSQL (production)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from .notify import Notifier

BUSY_TIMEOUT_MS: Final = 30_000


class StoreError(Exception):
    """The database cannot be used as configured; the message says what to do."""


def async_url(url: str) -> str:
    """Return *url* with the asynchronous driver this project uses.

    Raises:
        StoreError: neither SQLite nor PostgreSQL.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite").render_as_string(hide_password=False)
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    raise StoreError(f"database {backend!r} is not supported; use sqlite:///path or postgresql://…")


def sync_url(url: str) -> str:
    """Return *url* for the synchronous use by Alembic."""
    parsed = make_url(url)
    driver = "sqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


class Store:
    """Sessions, transactions and wake-ups.

    ``write()`` is one transaction: on SQLite ``BEGIN IMMEDIATE`` behind an in-process lock (one writer, no upgrade
    dead-locks), on PostgreSQL an ordinary one. ``read()`` never blocks a writer (WAL; MVCC). Neither may be held while
    waiting for anything outside the database.
    """

    def __init__(self, url: str, *, pool_size: int = 10, echo: bool = False) -> None:
        self.url = async_url(url)
        self.sqlite = self.url.startswith("sqlite")
        options: dict[str, Any] = {"echo": echo}
        if self.sqlite:
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_MS / 1000}
        else:
            options |= {"pool_size": pool_size, "max_overflow": pool_size, "pool_pre_ping": True}
        self.engine: AsyncEngine = create_async_engine(self.url, **options)
        if self.sqlite:
            _prepare_sqlite(self.engine)
        self._reads = async_sessionmaker(self.engine, expire_on_commit=False)
        writing = self.engine.execution_options(tessera_write=True)
        self._writes = async_sessionmaker(writing, expire_on_commit=False)
        self._lock = asyncio.Lock()
        self.notifier = Notifier(None if self.sqlite else sync_url(url))

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for reading."""
        async with self._reads() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction; commits at the end of the block, rolls back on any exception.

        Topics noted by :func:`tessera_hub.store.notify.note` are announced after (SQLite) or with (PostgreSQL) the commit.
        """
        if not self.sqlite:
            async with self._writes() as session, session.begin():
                yield session
                await self.notifier.stage(session)
            self.notifier.publish(session)
            return
        async with self._lock:
            async with self._writes() as session, session.begin():
                yield session
            self.notifier.publish(session)

    async def close(self) -> None:
        """Give back all connections."""
        await self.notifier.close()
        await self.engine.dispose()


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy begins explicitly, below
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        write = connection.get_execution_options().get("tessera_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
