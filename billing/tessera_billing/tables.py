"""The tables, and the triggers that make the append-only ones refuse changes.

The service's migrations include ``metadata`` and call ``create_triggers``; ``metadata.create_all`` makes the triggers by itself.
Times are UTC seconds. Money and other integers that may pass 2**63 are ``ExactInteger``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


class ExactInteger(sa.types.TypeDecorator[int]):
    """A Python integer of up to 78 digits: NUMERIC on PostgreSQL, text on SQLite, whose integers end at 2**63.

    Text does not sort as a number: add and compare such values in Python.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        kind: sa.types.TypeEngine[Any] = sa.Numeric(78, 0) if dialect.name == "postgresql" else sa.Text()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> int | str | None:
        if value is None:
            return None
        if type(value) is not int:
            raise TypeError(f"{value!r} is not an int")
        return value if dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(value)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a primary key declared INTEGER.
RowNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _attribution() -> tuple[sa.Column[Any], ...]:
    """Whom and what a second belongs to: the same columns in the ledger and in its projection."""
    return (
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
    )


meter_event = sa.Table(
    "meter_event",
    metadata,
    sa.Column("event_id", sa.Uuid, primary_key=True, comment="uuid5 of cluster, subject, action, spec hash, effective_at"),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, comment="the engine's own unique id, never a name"),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("effective_at", sa.BigInteger, nullable=False, comment="UTC seconds by the engine's clock"),
    sa.Column("observed_at", sa.BigInteger, nullable=False, comment="UTC seconds"),
    sa.Column("spec", sa.JSON, nullable=False, comment="dimension to integer amount"),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *_attribution(),
    sa.Index(None, "cluster", "subject"),
    comment="append-only: what happened to each metered object",
)

usage_interval = sa.Table(
    "usage_interval",
    metadata,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Text, primary_key=True),
    sa.Column("basis", sa.Text, primary_key=True),
    sa.Column("t0", sa.BigInteger, primary_key=True, comment="UTC seconds, first one counted"),
    sa.Column("t1", sa.BigInteger, comment="UTC seconds, first one not counted; NULL while open"),
    sa.Column("qty", sa.BigInteger, nullable=False, comment="in the metered unit of the dimension"),
    sa.Column("quality", sa.Text, nullable=False),
    *_attribution(),
    sa.CheckConstraint("t1 IS NULL OR t1 >= t0", name="not_negative"),
    sa.CheckConstraint("qty > 0", name="something_held"),
    sa.Index(None, "tenant", "t0"),
    sa.Index(None, "principal", "t0"),
    sa.Index(None, "task_id"),
    comment="projection of meter_event, rebuilt at will: half-open intervals of constant quantity",
)

price_book = sa.Table(
    "price_book",
    metadata,
    sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("currency", sa.Text, nullable=False, comment="ISO 4217 code"),
    sa.Column("created_at", sa.BigInteger, nullable=False, comment="UTC seconds"),
    comment="insert-only",
)

price_version = sa.Table(
    "price_version",
    metadata,
    sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
    sa.Column("book_id", RowNumber, sa.ForeignKey("price_book.id"), nullable=False, index=True),
    sa.Column("family", sa.Text, nullable=False, comment="dimension without the card class"),
    sa.Column("card_class", sa.Text, comment="NULL: any"),
    sa.Column("tenant", sa.Text, comment="NULL: any"),
    sa.Column("cluster", sa.Text, comment="NULL: any"),
    sa.Column("mode", sa.Text, comment="NULL: any"),
    sa.Column("valid_from", sa.BigInteger, nullable=False, comment="UTC seconds"),
    sa.Column("valid_to", sa.BigInteger, comment="UTC seconds, excluded; NULL: until a later version"),
    sa.Column("unit", sa.Text, nullable=False, comment="what one price is for, such as core, GiB, card"),
    sa.Column("unit_size", sa.BigInteger, nullable=False, comment="metered units in one unit"),
    sa.Column("nano_per_unit_hour", ExactInteger, nullable=False, comment="10**-9 of the book's currency"),
    sa.Column("start_rule", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="UTC seconds"),
    sa.Column("actor", sa.Text, nullable=False),
    sa.CheckConstraint("valid_to IS NULL OR valid_to > valid_from", name="validity"),
    sa.CheckConstraint("unit_size > 0", name="unit_size"),
    comment="insert-only: a change of price is a later version",
)

adjustment = sa.Table(
    "adjustment",
    metadata,
    sa.Column("adjustment_id", sa.Uuid, primary_key=True, comment="chosen by the caller, so that a repeated call adds nothing"),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("period", sa.Text, nullable=False, comment="month whose bill carries it, YYYY-MM"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount_micro", ExactInteger, nullable=False, comment="10**-6 of the currency; negative: in the tenant's favour"),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="UTC seconds"),
    sa.Index(None, "tenant", "period"),
    comment="insert-only: refunds, credits and corrections",
)

INSERT_ONLY = (meter_event, price_book, price_version, adjustment)

_SQLITE_GUARD = """CREATE TRIGGER IF NOT EXISTS %(table)s_refuses_{verb} BEFORE {verb} ON %(table)s
BEGIN SELECT RAISE(ABORT, '%(table)s is insert-only'); END"""
_POSTGRESQL_REFUSAL = """CREATE OR REPLACE FUNCTION tessera_billing_insert_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '%% is insert-only', TG_TABLE_NAME; END $$"""
_POSTGRESQL_GUARD = """CREATE OR REPLACE TRIGGER %(table)s_refuses_{verb} BEFORE {verb} ON %(table)s
FOR EACH STATEMENT EXECUTE FUNCTION tessera_billing_insert_only()"""
_DROPS = {"sqlite": "DROP TRIGGER IF EXISTS %(table)s_refuses_{verb}"}
_DROPS["postgresql"] = _DROPS["sqlite"] + " ON %(table)s"
_VERBS = {"sqlite": ("UPDATE", "DELETE"), "postgresql": ("UPDATE", "DELETE", "TRUNCATE")}


def _statements(dialect: str, table: sa.Table) -> Iterator[sa.DDL]:
    if dialect == "postgresql":
        yield _ddl(_POSTGRESQL_REFUSAL, table)
    guard = _POSTGRESQL_GUARD if dialect == "postgresql" else _SQLITE_GUARD
    for verb in _VERBS[dialect]:
        yield _ddl(guard.format(verb=verb), table)


def _ddl(template: str, table: sa.Table) -> sa.DDL:
    statement: sa.DDL = sa.DDL(template)  # type: ignore[no-untyped-call]
    return statement.against(table)


def _guard_new_table(table: sa.Table, connection: sa.Connection, **_: Any) -> None:
    for statement in _statements(connection.dialect.name, table):
        connection.execute(statement)


for _table in INSERT_ONLY:
    event.listen(_table, "after_create", _guard_new_table)


def create_triggers(connection: sa.Connection) -> None:
    """Make every insert-only table refuse UPDATE, DELETE and (PostgreSQL) TRUNCATE. May be repeated."""
    for table in INSERT_ONLY:
        _guard_new_table(table, connection)


def drop_triggers(connection: sa.Connection) -> None:
    """Undo ``create_triggers``, for the way back of a migration."""
    dialect = connection.dialect.name
    for table in INSERT_ONLY:
        for verb in _VERBS[dialect]:
            connection.execute(_ddl(_DROPS[dialect].format(verb=verb), table))
    if dialect == "postgresql":
        connection.execute(_ddl("DROP FUNCTION IF EXISTS tessera_billing_insert_only()", INSERT_ONLY[0]))
