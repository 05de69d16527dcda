"""What operators say of environments: who may use them, and when an idle workspace in them is stopped.

The first holds for the form, deep links, REST, schedules and the start of a workspace alike. The rules are settings of the
service (``c.TesseraService.environment_rules``); an environment without a rule is everybody's. The groups are JupyterHub's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

from pydantic import Field

from tessera_hub.schemas.resources import Strict


class EnvironmentRule(Strict):
    """What an operator says of one environment."""

    groups: Annotated[list[str], Field(min_length=1)] | None = None
    """Hub groups whose members may use it; None: everybody."""
    idle_seconds: Annotated[int, Field(ge=0)] | None = None
    """When an idle workspace without cards is warned about, 0: never; None: as everywhere."""
    card_idle_seconds: Annotated[int, Field(ge=0)] | None = None
    """The same for one with cards."""


Rules = Mapping[str, EnvironmentRule]
"""Environment → its rule."""


def is_open(rules: Rules, environment: str, groups: Iterable[str]) -> bool:
    """Whether a person of these hub *groups* may use *environment*; operators are no exception."""
    rule = rules.get(environment)
    return rule is None or rule.groups is None or not set(rule.groups).isdisjoint(groups)


def opener(rules: Rules, groups: Iterable[str]) -> Callable[[str], bool]:
    """Return :func:`is_open` for the people of these *groups*."""
    mine = frozenset(groups)
    return lambda environment: is_open(rules, environment, mine)
