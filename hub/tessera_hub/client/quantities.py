"""Amounts as people write them, as the integers that the API takes."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Final

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, CardRequest, Resources
from tessera_hub.schemas.wording import in_words

from .errors import TesseraError

_MEMORY: Final = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(k|m|g|t)?(i)?b?\s*$", re.IGNORECASE)
_BYTES: Final = {"k": 1, "m": 2, "g": 3, "t": 4}
_MIB: Final = 1 << 20

Cores = int | float | str
"""Processor cores: ``2``, ``0.5``, ``"500m"``."""
Memory = int | str
"""Memory: a number is MiB; a text has a unit, ``"4GiB"``, ``"512MiB"``, ``"8G"`` (decimal as in the SI)."""
Cards = int | float | str | CardRequest
"""Cards: ``1``, ``0.5``, or with a class ``"A100-80G"``, ``"A100-80G:0.5"``."""


def millicores(cores: Cores) -> int:
    """Return *cores* in millicores.

    Raises:
        TesseraError: ``spec.cpu``, not a positive number of at most three decimals.
    """
    text = str(cores).strip()
    scale = 1 if text.endswith("m") else 1000
    amount = exact(text.removesuffix("m"), scale)
    if amount is None or amount <= 0:
        raise TesseraError(
            "spec.cpu", _("{value} is not a number of processor cores.", value=repr(cores)), _("Write 2, 0.5 or 500m.")
        )
    return amount


def mebibytes(memory: Memory) -> int:
    """Return *memory* in MiB, rounded up.

    Raises:
        TesseraError: ``spec.memory``, not an amount of memory.
    """
    match = _MEMORY.match(str(memory))
    if match is None:
        raise TesseraError(
            "spec.memory",
            _("{value} is not an amount of memory.", value=repr(memory)),
            _("Write 4GiB, 512MiB, or a number of MiB."),
        )
    number, unit, binary = match.groups()
    factor = _MIB if unit is None else (1024 if binary else 1000) ** _BYTES[unit.lower()]
    return int((Decimal(number) * factor / _MIB).to_integral_value(ROUND_CEILING))


def quota_amount(dimension: str, text: str) -> int:
    """Return an amount of *dimension* as a quota takes it: cores as millicores, memory as MiB, cards as hundredths.

    Raises:
        TesseraError: ``quota.amount``, not an amount of it.
    """
    if dimension == "memory" or dimension.startswith("card_memory/"):
        return mebibytes(text)
    amount = exact(text.strip(), 1000 if dimension == "cpu" else CENTI_CARDS_PER_CARD)
    if amount is None or amount < 0:
        raise TesseraError(
            "quota.amount",
            _("{value} is not an amount of {dimension}.", value=repr(text), dimension=dimension),
            _("Write cores such as 2 or 0.5, memory such as 64GiB, cards such as 4 or 0.5."),
        )
    return amount


def card_request(cards: Cards | None, card_model: str | None = None, card_memory: Memory | None = None) -> CardRequest | None:
    """Return the request for *cards*, or None for none.

    A whole number asks for whole cards, a fraction below one for a share of a card.

    Raises:
        TesseraError: ``spec.cards``, not a number of cards, or a share above one that is not whole.
    """
    if cards is None:
        return None
    if isinstance(cards, CardRequest):
        return cards
    model, amount = card_model, str(cards).strip()
    if isinstance(cards, str) and exact(amount, 1) is None and exact(amount, CENTI_CARDS_PER_CARD) is None:
        model, _colon, amount = amount.partition(":")
        amount = amount or "1"
    centi_cards = exact(amount, CENTI_CARDS_PER_CARD)
    if centi_cards is None or centi_cards < 0:
        raise TesseraError(
            "spec.cards",
            _("{value} is not a number of cards.", value=repr(cards)),
            _("Write 1, 0.5, or with a class A100-80G:0.5; shares go in hundredths."),
        )
    if centi_cards == 0:
        return None
    whole = centi_cards % CENTI_CARDS_PER_CARD == 0
    if not whole and centi_cards > CENTI_CARDS_PER_CARD:
        raise TesseraError(
            "spec.cards",
            _("{value} is neither whole cards nor a share of one card.", value=repr(cards)),
            _("Ask for whole cards, or for a share below 1."),
        )
    return CardRequest(
        model=model,
        mode=CardMode.WHOLE if whole else CardMode.VCUDA,
        centi_cards=centi_cards,
        memory_mib=None if card_memory is None else mebibytes(card_memory),
    )


def resources(
    cpu: Cores | None = None,
    memory: Memory | None = None,
    cards: Cards | None = None,
    card_model: str | None = None,
    card_memory: Memory | None = None,
) -> Resources:
    """Return the resources of one replica; what is None keeps the service's default."""
    given: dict[str, int] = {}
    if cpu is not None:
        given["cpu_millicores"] = millicores(cpu)
    if memory is not None:
        given["memory_mib"] = mebibytes(memory)
    try:
        return Resources(**given, cards=card_request(cards, card_model, card_memory))
    except ValueError as error:
        raise invalid_spec(error) from error


def invalid_spec(error: ValueError) -> TesseraError:
    """Turn a pydantic error into one that names the fields."""
    listed = getattr(error, "errors", None)
    errors = [
        {"field": ".".join(str(name) for name in item["loc"]), "message": in_words(item)}
        for item in (listed(include_url=False, include_input=False) if listed else [])
    ]
    return TesseraError("spec.invalid", _("The task is not described correctly."), errors=errors)


def exact(text: str, scale: int) -> int | None:
    """Return *text* times *scale*, None if it is no number or that is not whole."""
    try:
        amount = Decimal(text) * scale
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount != amount.to_integral_value():
        return None
    return int(amount)
