"""The price book as the API shows and takes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from tessera_hub.schemas.resources import Dimension, Strict


class Price(Strict):
    """One version of the price book: what ``unit_size`` metered units cost an hour, in 10**-9 of the currency."""

    dimension: str
    unit: str
    unit_size: int
    nano_per_unit_hour: int
    currency: str
    valid_from: AwareDatetime | None
    """None: since ever."""
    valid_to: AwareDatetime | None
    tenant: str | None
    cluster: str | None
    mode: str | None


class NewPrice(Strict):
    """A version to add; what held before ends to hold where this one is the closer or the later one."""

    dimension: Dimension
    nano_per_unit_hour: Annotated[int, Field(ge=0, lt=1 << 62)]
    unit: str | None = None
    """``core``, ``GiB``, ``card`` or what is metered; by default the largest that the dimension has."""
    valid_from: AwareDatetime | None = None
    """By default now; whole seconds."""
    valid_to: AwareDatetime | None = None
    tenant: str | None = None
    cluster: str | None = None
    mode: str | None = None
    backdated: bool = False
    """Whether it may begin in the past, which changes bills that people have seen already."""
