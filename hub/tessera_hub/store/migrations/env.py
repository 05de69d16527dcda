"""Alembic environment; run through :mod:`tessera_hub.store.migrate`, which hands over an open connection."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tessera_billing import tables as billing_tables
from tessera_hub.store import tables

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=[tables.metadata, billing_tables.metadata],
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
