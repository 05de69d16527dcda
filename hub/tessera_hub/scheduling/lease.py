"""One leader at a time: a row of the table ``leader`` with an epoch that fences whoever held it before.

A lease says who *should* work; the epoch says whose writes count. Every transaction of a leader begins with
:meth:`Lease.fence`, which locks the row: a process that slept through its lease finds another epoch and writes nothing.
Times are the database's, so that the clocks of the replicas do not matter.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Interval, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.store.tables import Leader


class DeposedError(Exception):
    """Another process leads by now; nothing of the transaction may be kept."""


def holder_name() -> str:
    """Return a name of this process that no other has: host, pid and a random part."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


async def database_now(session: AsyncSession) -> datetime:
    """Return the time of the database (on SQLite: of this machine)."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    moment = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    assert isinstance(moment, datetime)
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease."""

    name: str
    holder: str
    epoch: int
    lasts: timedelta

    async def fence(self, session: AsyncSession) -> None:
        """Renew the lease and hold its row until the end of the transaction.

        Raises:
            DeposedError: the epoch has moved on.
        """
        sqlite = session.get_bind().dialect.name == "sqlite"
        until: Any = datetime.now(UTC) + self.lasts if sqlite else func.clock_timestamp() + literal(self.lasts, Interval())
        done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
            update(Leader)
            .where(Leader.name == self.name, Leader.holder == self.holder, Leader.epoch == self.epoch)
            .values(expires_at=until)
            .execution_options(synchronize_session=False)
        )
        if done.rowcount != 1:
            raise DeposedError(f"{self.holder} no longer leads {self.name} (epoch {self.epoch})")

    async def give_up(self, session: AsyncSession) -> None:
        """Let the next one lead at once; nothing happens if another does already."""
        now = await database_now(session)
        await session.execute(
            update(Leader)
            .where(Leader.name == self.name, Leader.holder == self.holder, Leader.epoch == self.epoch)
            .values(expires_at=now)
            .execution_options(synchronize_session=False)
        )


async def acquire(session: AsyncSession, name: str, holder: str, lasts: timedelta) -> Lease | None:
    """Take the lease if it is free or has run out, with the next epoch; None while another holds it."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    now = await database_now(session)
    first = insert(Leader).values(name=name, holder=holder, epoch=1, expires_at=now + lasts)
    if (await session.execute(first.on_conflict_do_nothing().returning(Leader.epoch))).first() is not None:
        return Lease(name, holder, 1, lasts)
    row = (
        await session.execute(select(Leader.holder, Leader.epoch, Leader.expires_at).where(Leader.name == name).with_for_update())
    ).one()
    if row.expires_at > await database_now(session):
        return None
    await session.execute(
        update(Leader)
        .where(Leader.name == name)
        .values(holder=holder, epoch=row.epoch + 1, expires_at=now + lasts)
        .execution_options(synchronize_session=False)
    )
    return Lease(name, holder, row.epoch + 1, lasts)
