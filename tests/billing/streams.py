"""Events, prices and clocks that the billing tests share, and Hypothesis strategies that make them up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from tessera_billing.dimensions import FAMILIES, split
from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.prices import PriceList, PriceVersion

CARD = "A100-80G"
CARDS = f"cards/{CARD}"
HOUR = 3600
T = int(datetime(2026, 11, 24, 8, tzinfo=UTC).timestamp())


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def event(action: str, at: int, subject: str = "uid-1", **values: Any) -> MeterEvent:
    common = {
        "cluster": "local",
        "subject": subject,
        "observed_at": max(at, 0) + 1,
        "tenant": "physics",
        "principal": "ada",
        "task_id": f"task-of-{subject}",
        "run_id": f"run-of-{subject}",
        "kind": "notebook",
        "queue": "default",
    }
    return MeterEvent(action=Action(action), effective_at=at, **{**common, **values})


def life(start: int, stop: int | None, spec: dict[str, int], subject: str = "uid-1", **values: Any) -> list[MeterEvent]:
    events = [event("START", start, subject, spec=spec, **values)]
    return events if stop is None else [*events, event("STOP", stop, subject, **values)]


def price(dimension: str, nano: int, version_id: int = 1, valid_from: int = 0, **scope: Any) -> PriceVersion:
    name = dimension.partition("/")[0]
    card_class = split(dimension)[1] if "/" in dimension else None
    unit, size = next(iter(FAMILIES[name].pricing_units.items()))
    values = {"currency": "CNY", "card_class": card_class, **scope}
    return PriceVersion(
        version_id=version_id, family=name, unit=unit, unit_size=size, nano_per_unit_hour=nano, valid_from=valid_from, **values
    )


def prices(*versions: PriceVersion) -> PriceList:
    return PriceList("CNY", versions)


SIMPLE = prices(price("cpu", 100_000_000, 1), price("memory", 20_000_000, 2), price(CARDS, 12_000_000_000, 3))

DIMENSIONS = ("cpu", "memory", CARDS)
specs = st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(1, 7), min_size=1)
SPAN = 60
"""Seconds that made-up streams play in, so that counting second by second stays cheap."""


@st.composite
def streams(draw: st.DrawFn, subject: str = "uid-1") -> list[MeterEvent]:
    """Events of one subject between T and T + SPAN: in any order, with gaps, repeats and clocks that run backwards."""
    events = []
    for _ in range(draw(st.integers(0, 8))):
        action = draw(st.sampled_from(list(Action)))
        at = T + draw(st.integers(0, SPAN))
        evidence = draw(st.sampled_from(list(Evidence)))
        spec = draw(specs) if action in (Action.START, Action.SPEC) else {}
        if action in (Action.PAUSE, Action.RESUME) and draw(st.booleans()):
            spec = draw(specs)
        events.append(event(action, at, subject, spec=spec, evidence=evidence))
    return events


@st.composite
def price_lists(draw: st.DrawFn) -> PriceList:
    """Prices with changes within the span and scopes that overlap."""
    versions = []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        begin = T + draw(st.integers(-5, SPAN))
        end = draw(st.none() | st.integers(1, SPAN).map(lambda length, begin=begin: begin + length))
        scope = {
            "tenant": draw(st.sampled_from([None, "physics", "chemistry"])),
            "cluster": draw(st.sampled_from([None, "local"])),
        }
        dimension = draw(st.sampled_from([*DIMENSIONS, "cards"]))
        versions.append(price(dimension, draw(st.integers(0, 10**10)), number, begin, valid_to=end, **scope))
    return prices(*versions)
