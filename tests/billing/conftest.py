"""Fixtures of the billing tests.

engine      session    empty billing tables, once on SQLite and once on PostgreSQL: a test that uses it runs twice
connection  function   a connection within a transaction that is rolled back after the test
scratch     function   makes such a connection again and again, for tests that try many examples
lite        session    a connection maker like ``scratch``, SQLite only, for property tests of pure logic over a real store
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tessera_billing.tables import metadata

Scratch = Callable[[], AbstractContextManager[sa.Connection]]


def sqlite_engine(url: str = "sqlite://") -> sa.Engine:
    """Return an engine whose transactions SQLAlchemy begins, as the service's do."""
    engine = sa.create_engine(url, poolclass=sa.StaticPool if url == "sqlite://" else None)

    @event.listens_for(engine, "connect")
    def leave_transactions_alone(dbapi_connection, _record):
        dbapi_connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        made = sqlite_engine()
    else:
        server = request.getfixturevalue("postgres_server")
        made = sa.create_engine(server.url(server.create_database()))
    metadata.create_all(made)
    yield made
    made.dispose()


@contextmanager
def rolled_back(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect() as connection:
        transaction = connection.begin()
        try:
            yield connection
        finally:
            transaction.rollback()


@pytest.fixture(scope="session")
def scratch(engine: sa.Engine) -> Scratch:
    return lambda: rolled_back(engine)


@pytest.fixture
def connection(scratch: Scratch) -> Iterator[sa.Connection]:
    with scratch() as connection:
        yield connection


@pytest.fixture(scope="session")
def lite() -> Iterator[Scratch]:
    engine = sqlite_engine()
    metadata.create_all(engine)
    yield lambda: rolled_back(engine)
    engine.dispose()
