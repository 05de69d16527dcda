"""Wake-ups: who waits for a change is told at the commit, across processes by PostgreSQL's LISTEN/NOTIFY.

A notification is a hint to look at the database, never data: losing one costs at most a poll interval.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

CHANNEL = "tessera"
SCHEDULE = "schedule"
"""Topic: the scheduler has something to do."""

_KEY = "tessera_topics"
MAX_TOPICS = 200
"""More distinct topics than this in one transaction are announced as ``*``, "look at everything"."""


def note(session: AsyncSession, *topics: str) -> None:
    """Announce *topics* when the session's transaction commits."""
    session.info.setdefault(_KEY, {}).update(dict.fromkeys(topics))


def task_topic(task_id: object) -> str:
    """Topic of one task."""
    return f"task/{task_id}"


def cluster_topic(cluster_id: int) -> str:
    """Topic of the sync of one cluster's Proxy."""
    return f"cluster/{cluster_id}"


def tenant_topic(tenant_id: int) -> str:
    """Topic of everything of one tenant; ``tenant/<id>/task/<task>`` names what changed."""
    return f"tenant/{tenant_id}"


class Subscription:
    """Topics that arrived for one waiter; a burst is kept as a set, so that a slow reader costs no memory."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes
        self._topics: dict[str, None] = {}
        self._event = asyncio.Event()

    def offer(self, topic: str) -> None:
        """Keep *topic* if it is one of ours."""
        if topic == "*" or topic.startswith(self._prefixes):
            self._topics[topic] = None
            self._event.set()

    async def wait(self, seconds: float) -> list[str]:
        """Return the topics since the last call, waiting at most *seconds* for the first; empty: none came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._event.wait()
        self._event.clear()
        topics, self._topics = list(self._topics), {}
        return topics


class Notifier:
    """Fans out topics inside the process and, with PostgreSQL, to and from the other processes."""

    def __init__(self, postgres_url: str | None) -> None:
        self._url = postgres_url
        self._subscriptions: set[Subscription] = set()
        self._listener: asyncio.Task[None] | None = None
        self.closing = False
        """The process is about to end: whoever waits answers what there is."""

    @contextmanager
    def subscribe(self, *prefixes: str) -> Iterator[Subscription]:
        """Receive topics that begin with one of *prefixes* while the block runs."""
        subscription = Subscription(prefixes)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _offer(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for subscription in self._subscriptions:
                subscription.offer(topic)

    def release(self) -> None:
        """Wake everybody for good, so that long polls end before the server does."""
        self.closing = True
        self._offer(["*"])

    async def stage(self, session: AsyncSession) -> None:
        """Send the noted topics with the transaction that is about to commit (PostgreSQL)."""
        topics = _topics(session)
        if topics:
            await session.execute(
                text("SELECT pg_notify(:channel, t) FROM unnest(CAST(:topics AS text[])) AS t"),
                {"channel": CHANNEL, "topics": topics},
            )

    def publish(self, session: AsyncSession) -> None:
        """Tell the waiters of this process, after the commit."""
        topics = _topics(session)
        session.info.pop(_KEY, None)
        self._offer(topics)

    async def start(self) -> None:
        """Begin to listen to the other processes (PostgreSQL only)."""
        if self._url is not None and self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="tessera-listen")

    async def _listen(self) -> None:
        assert self._url is not None
        url = self._url.replace("postgresql+psycopg://", "postgresql://", 1)
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._offer(["*"])  # whatever was said while nobody listened
                    async for notification in _notifications(connection):
                        self._offer([notification])
            except (psycopg.Error, OSError):
                await asyncio.sleep(1.0)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None


async def _notifications(connection: psycopg.AsyncConnection) -> AsyncIterator[str]:
    async for notification in connection.notifies():
        yield notification.payload


def _topics(session: AsyncSession) -> list[str]:
    topics = list(session.info.get(_KEY, {}))
    return topics if len(topics) <= MAX_TOPICS else ["*"]
