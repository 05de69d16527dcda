"""Bring the database to the newest schema, from Python: ``tessera service`` and the tests call :func:`upgrade`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from .engine import BUSY_TIMEOUT_MS, StoreError, sync_url

_LOCK_KEY = 0x7E55E2A
"""Advisory lock of PostgreSQL: replicas that start together migrate one after the other."""


def configuration(connection: Connection | None = None) -> Config:
    """Return the Alembic configuration of this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(url: str) -> None:
    """Migrate the database at *url* to the newest revision.

    Raises:
        StoreError: the database was made by a newer version of this program.
    """
    engine = create_engine(sync_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        found = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                f"the database is at revision {found}, which this version does not know; install the newer version again"
            )
        command.upgrade(configuration(connection), "head")


def current_revision(url: str) -> tuple[str | None, str | None]:
    """Return (revision of the database, newest revision), equal when it is up to date."""
    engine = create_engine(sync_url(url), poolclass=NullPool)
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found, ScriptDirectory.from_config(configuration()).get_current_head()
