"""A database migrated to the newest revision is what the tables say, on both databases, and its ledger refuses changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tessera_billing import tables as billing_tables
from tessera_hub.store import migrate, tables
from tessera_hub.store.engine import StoreError, sync_url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tessera.db'}"
    found: str = request.getfixturevalue("postgres_database")
    return found


def inspect_engine(url: str) -> sa.Engine:
    return sa.create_engine(sync_url(url), poolclass=sa.NullPool)


def test_head_equals_the_tables(url: str) -> None:
    migrate.upgrade(url)
    with inspect_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, [tables.metadata, billing_tables.metadata]) == []
    found, head = migrate.current_revision(url)
    assert found == head is not None


def test_a_second_upgrade_changes_nothing(url: str) -> None:
    migrate.upgrade(url)
    before = migrate.current_revision(url)
    migrate.upgrade(url)
    assert migrate.current_revision(url) == before


@pytest.mark.parametrize("statement", ["UPDATE price_book SET currency = 'USD'", "DELETE FROM price_book"])
def test_the_migrated_ledger_refuses_changes(url: str, statement: str) -> None:
    migrate.upgrade(url)
    engine = inspect_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.insert(billing_tables.price_book).values(name="default", currency="EUR", created_at=1))
    with pytest.raises(sa.exc.DBAPIError, match="price_book is insert-only"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    with engine.connect() as connection:
        assert connection.execute(sa.select(billing_tables.price_book.c.currency)).scalars().all() == ["EUR"]


def test_every_insert_only_table_is_guarded(url: str) -> None:
    migrate.upgrade(url)
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
    }
    with inspect_engine(url).connect() as connection:
        found = set(connection.execute(sa.text(query[connection.dialect.name])).scalars())
    expected = {f"{table.name}_refuses_{verb}" for table in billing_tables.INSERT_ONLY for verb in ("UPDATE", "DELETE")}
    assert {name.lower() for name in expected} <= {name.lower() for name in found}


def test_the_ledger_goes_and_comes_back(url: str) -> None:
    migrate.upgrade(url)
    names = set(billing_tables.metadata.tables)
    with inspect_engine(url).begin() as connection:
        command.downgrade(migrate.configuration(connection), "0001")
    assert not names & set(sa.inspect(inspect_engine(url)).get_table_names())
    migrate.upgrade(url)
    assert names <= set(sa.inspect(inspect_engine(url)).get_table_names())


def test_a_newer_database_is_refused(url: str) -> None:
    migrate.upgrade(url)
    with inspect_engine(url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999"):
        migrate.upgrade(url)
