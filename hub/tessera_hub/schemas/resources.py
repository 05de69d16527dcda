"""What a task asks for, in integers of the field's units."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tessera_hub.i18n import gettext as _

ResourceVector = dict[str, int]
"""Dimension → amount: ``cpu`` (millicores), ``memory`` (MiB), ``cards/<class>`` (centi-cards), ``card_memory/<class>`` (MiB)."""

CENTI_CARDS_PER_CARD = 100


class Strict(BaseModel):
    """Base of every schema: unknown fields are refused, so that a misspelt key never silently changes what runs."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class CardMode(StrEnum):
    """How cards are given: a whole card, a fraction enforced by interposition, or a hardware partition."""

    WHOLE = "whole"
    VCUDA = "vcuda"
    MIG = "mig"


class Partition(Strict):
    """A hardware partition of a card: what is handed out of it in one piece."""

    name: str
    """The maker's name of the profile, such as ``1g.10gb``."""
    centi_cards: Annotated[int, Field(ge=1, le=CENTI_CARDS_PER_CARD)]
    memory_mib: Annotated[int, Field(ge=1)]


class CardRequest(Strict):
    """Accelerator cards of one role's replica."""

    model: str | None = None
    """Card class of the catalogue (``A100-80G``); None: any that fits."""
    vendor: str | None = None
    """``nvidia``, ``huawei``, …; None: any."""
    mode: CardMode = CardMode.WHOLE
    centi_cards: Annotated[int, Field(ge=1, le=100_000)]
    """Compute, 100 = one card. A multiple of 100 when mode is ``whole``, that of a partition when it is ``mig``."""
    memory_mib: Annotated[int, Field(ge=1)] | None = None
    """Card memory; None: in proportion to the compute (all of it for whole cards). A partition's own when mode is ``mig``."""
    limit_centi_cards: Annotated[int, Field(ge=1)] | None = None
    """Cap of what may be used while others are idle; None: the request."""
    max_cards: Annotated[int, Field(ge=1, le=1024)] = 1
    """Most cards a fraction may be split over."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode is CardMode.WHOLE and self.centi_cards % CENTI_CARDS_PER_CARD:
            raise ValueError(_("whole cards come in multiples of 100 centi-cards; use mode 'vcuda' for a share of a card"))
        if self.mode is not CardMode.WHOLE and self.centi_cards > CENTI_CARDS_PER_CARD * self.max_cards:
            raise ValueError(_("a share of more than one card needs max_cards"))
        if self.limit_centi_cards is not None and self.limit_centi_cards < self.centi_cards:
            raise ValueError(_("limit_centi_cards is below centi_cards"))
        return self


class Resources(Strict):
    """Resources of one replica of a role."""

    cpu_millicores: Annotated[int, Field(ge=10, le=10_000_000)] = 1000
    memory_mib: Annotated[int, Field(ge=16, le=1 << 30)] = 2048
    cards: CardRequest | None = None


DIMENSION: Final = r"^(cpu|memory|cards/[A-Za-z0-9._-]+|card_memory/[A-Za-z0-9._-]+)$"
Dimension = Annotated[str, Field(pattern=DIMENSION)]
Amount = Annotated[int, Field(ge=0, lt=1 << 62)]
Framework = Literal["none", "pytorch", "tensorflow", "mpi"]
