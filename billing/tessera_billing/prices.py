"""The price book: dated prices with a scope, never changed, only followed by a later version."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tessera_billing import dimensions
from tessera_billing.errors import BillingError
from tessera_billing.tables import price_book, price_version

DEFAULT_BOOK = "default"

DEFAULT_NANO_PER_UNIT_HOUR = {
    ("cpu", "core"): 100_000_000,
    ("memory", "GiB"): 20_000_000,
    ("card_memory", "GiB"): 0,  # a card's memory is part of the card's price
}
"""What a new installation charges until its operator says otherwise: 0.10 per core-hour, 0.02 per GiB-hour."""


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """What one unit-hour costs within a scope, from ``valid_from`` on. A scope of None is any.

    ``nano_per_unit_hour`` is in 10**-9 of the currency, for ``unit_size`` metered units (a core is 1000 millicores, a GiB
    1024 MiB, a card 100 centi-cards) held for 3600 s.
    """

    version_id: int
    currency: str
    family: str
    unit: str
    unit_size: int
    nano_per_unit_hour: int
    valid_from: int
    valid_to: int | None = None
    card_class: str | None = None
    tenant: str | None = None
    cluster: str | None = None
    mode: str | None = None
    start_rule: str = dimensions.StartRule.PROCESS

    @property
    def precedence(self) -> tuple[bool, bool, bool, bool, int, int]:
        """The greatest wins: own tenant, cluster, card class, mode; then the latest start; then the one recorded last."""
        scope = (self.tenant, self.cluster, self.card_class, self.mode)
        return (*(part is not None for part in scope), self.valid_from, self.version_id)  # type: ignore[return-value]

    def covers(self, tenant: str, cluster: str, dimension: str, mode: str) -> bool:
        """Whether this price's scope holds such usage."""
        family, card_class = dimensions.split(dimension)
        wanted = ((self.tenant, tenant), (self.cluster, cluster), (self.card_class, card_class), (self.mode, mode))
        return self.family == family.name and all(own in (None, asked) for own, asked in wanted)


class PriceList:
    """The versions of one book, ready to be asked. Versions of several currencies are a ``TypeError``."""

    def __init__(self, currency: str, versions: Iterable[PriceVersion]) -> None:
        self.currency = currency
        self.versions = tuple(sorted(versions, key=lambda version: version.version_id))
        if others := {version.currency for version in self.versions} - {currency}:
            raise TypeError(f"prices in {', '.join(sorted(others))} in a list of {currency}")
        self._timelines: dict[tuple[str, str, str, str], Timeline] = {}

    def timeline(self, tenant: str, cluster: str, dimension: str, mode: str) -> Timeline:
        """Return which version holds when, for usage of this kind."""
        key = (tenant, cluster, dimension, mode)
        if key not in self._timelines:
            self._timelines[key] = Timeline(version for version in self.versions if version.covers(*key))
        return self._timelines[key]

    def at(self, when: int, *, tenant: str, cluster: str, dimension: str, mode: str) -> PriceVersion | None:
        """Return the version that holds at a second (UTC), or None if nothing is priced then."""
        return self.timeline(tenant, cluster, dimension, mode).at(when)


class Timeline:
    """The one version that holds in each second."""

    def __init__(self, versions: Iterable[PriceVersion]) -> None:
        versions = list(versions)
        changes = {version.valid_from for version in versions} | {v.valid_to for v in versions if v.valid_to is not None}
        self.changes = sorted(changes)
        """UTC seconds at which another version may begin to hold."""
        self._holding = [_holder(versions, change) for change in self.changes]

    def at(self, when: int) -> PriceVersion | None:
        """Return the version that holds at a second."""
        place = bisect.bisect_right(self.changes, when)
        return self._holding[place - 1] if place else None

    def changes_within(self, start: int, end: int) -> list[int]:
        """Return the changes strictly between two seconds."""
        return self.changes[bisect.bisect_right(self.changes, start) : bisect.bisect_left(self.changes, end)]


def _holder(versions: Iterable[PriceVersion], when: int) -> PriceVersion | None:
    active = (v for v in versions if v.valid_from <= when and (v.valid_to is None or when < v.valid_to))
    return max(active, key=lambda version: version.precedence, default=None)


def create_book(connection: sa.Connection, name: str, currency: str, now: int) -> bool:
    """Create a price book unless it is there; return whether it was made now.

    Raises:
        BillingError: ``price.currency`` if a book of this name has another currency, or the code is not three capitals.
    """
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        raise BillingError(
            "price.currency", "{currency} is not a currency code.", "Use three capitals, as in CNY.", currency=currency
        )
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"name": name, "currency": currency, "created_at": now}
    statement = insert(price_book).values(row).on_conflict_do_nothing().returning(price_book.c.id)
    made = connection.execute(statement).scalar_one_or_none() is not None
    _, existing = _book(connection, name)
    if existing != currency:
        raise BillingError(
            "price.currency",
            "Price book {book} is in {existing}, not {currency}.",
            "A book keeps its currency; make another book.",
            book=name,
            existing=existing,
            currency=currency,
        )
    return made


def add_price(
    connection: sa.Connection,
    *,
    family: str,
    unit: str,
    nano_per_unit_hour: int,
    valid_from: int,
    now: int,
    actor: str,
    valid_to: int | None = None,
    card_class: str | None = None,
    tenant: str | None = None,
    cluster: str | None = None,
    mode: str | None = None,
    book: str = DEFAULT_BOOK,
    backdated: bool = False,
) -> int:
    """Insert a price version and return its number. What held before simply ends to hold where this one takes precedence.

    Args:
        family: ``cpu``, ``memory``, ``cards``, ``card_memory``.
        unit: what the price is for; the family says which are allowed.
        nano_per_unit_hour: 10**-9 of the book's currency, zero or more.
        valid_from, valid_to: UTC seconds, half-open; ``valid_to`` of None is until a later version.
        card_class, tenant, cluster, mode: the scope; None is any.
        backdated: allow ``valid_from`` before ``now``, which changes bills that people have seen already.

    Raises:
        BillingError: ``price.unit``, ``price.amount``, ``price.validity``, ``price.past``, ``price.scope``, ``price.book``.
    """
    book_id, _ = _book(connection, book)
    known = dimensions.FAMILIES.get(family)
    if known is None or unit not in known.pricing_units:
        raise BillingError(
            "price.unit",
            "{family} has no price per {unit}.",
            "Use one of {units}.",
            family=family,
            unit=unit,
            units=_units(known),
        )
    if card_class is not None and not known.has_class:
        raise BillingError("price.scope", "{family} has no card class.", "Leave the card class out.", family=family)
    if type(nano_per_unit_hour) is not int or nano_per_unit_hour < 0:
        raise BillingError(
            "price.amount", "A price is a whole number of nano-units, not {price}.", price=repr(nano_per_unit_hour)
        )
    if type(valid_from) is not int or (valid_to is not None and (type(valid_to) is not int or valid_to <= valid_from)):
        raise BillingError("price.validity", "A price must begin before it ends.", "Give both times in whole UTC seconds.")
    if valid_from < now and not backdated:
        raise BillingError(
            "price.past", "A price cannot begin in the past.", "Let it begin now or later, or say that it is backdated."
        )
    row = {
        "book_id": book_id,
        "family": family,
        "card_class": card_class,
        "tenant": tenant,
        "cluster": cluster,
        "mode": mode,
        "valid_from": valid_from,
        "valid_to": valid_to,
        "unit": unit,
        "unit_size": known.pricing_units[unit],
        "nano_per_unit_hour": nano_per_unit_hour,
        "start_rule": known.start_rule,
        "recorded_at": now,
        "actor": actor,
    }
    version_id: int = connection.execute(sa.insert(price_version).values(row).returning(price_version.c.id)).scalar_one()
    return version_id


def price_list(connection: sa.Connection, book: str = DEFAULT_BOOK) -> PriceList:
    """Return all versions of a book, past and future.

    Raises:
        BillingError: ``price.book`` if there is no such book.
    """
    book_id, currency = _book(connection, book)
    names = [name for name in PriceVersion.__dataclass_fields__ if name not in ("version_id", "currency")]
    columns = [price_version.c.id, *(price_version.c[name] for name in names)]
    rows = connection.execute(sa.select(*columns).where(price_version.c.book_id == book_id))
    return PriceList(currency, (PriceVersion(row[0], currency, **dict(zip(names, row[1:], strict=True))) for row in rows))


def ensure_default_prices(
    connection: sa.Connection,
    now: int,
    card_nano_per_hour: Mapping[str, int] | None = None,
    *,
    currency: str = "CNY",
    actor: str = "installation",
) -> int:
    """Give the default book a price for everything that has none; return how many were added. May be repeated.

    The prices of a new book hold since ever, so that a clock a few seconds behind leaves nothing unpriced; those added to an
    existing book hold from now.

    Args:
        card_nano_per_hour: card class to nano-units per hour of one whole card.
    """
    created = create_book(connection, DEFAULT_BOOK, currency, now)
    # Two services that start at once: the second waits here and finds everything done.
    connection.execute(sa.select(price_book.c.id).where(price_book.c.name == DEFAULT_BOOK).with_for_update())
    general = [v for v in price_list(connection).versions if (v.tenant, v.cluster, v.mode) == (None, None, None)]
    present = {(version.family, version.card_class) for version in general}
    wanted: dict[tuple[str, str, str | None], int] = {(*key, None): nano for key, nano in DEFAULT_NANO_PER_UNIT_HOUR.items()}
    wanted |= {("cards", "card", name): nano for name, nano in sorted((card_nano_per_hour or {}).items())}
    missing = {key: nano for key, nano in wanted.items() if (key[0], key[2]) not in present}
    for (family, unit, card_class), nano in missing.items():
        add_price(
            connection,
            family=family,
            unit=unit,
            card_class=card_class,
            nano_per_unit_hour=nano,
            valid_from=0 if created else now,
            now=now,
            actor=actor,
            backdated=created,
        )
    return len(missing)


def _book(connection: sa.Connection, name: str) -> tuple[int, str]:
    query = sa.select(price_book.c.id, price_book.c.currency).where(price_book.c.name == name)
    found = connection.execute(query).one_or_none()
    if found is None:
        raise BillingError("price.book", "There is no price book {book}.", "Create it first.", book=name)
    return found[0], found[1]


def _units(family: dimensions.Family | None) -> str:
    return ", ".join(family.pricing_units if family else dimensions.FAMILIES)
