"""A measured row, and the register of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

Bench = Callable[[], Iterable["Row"]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``target`` is such as ``< 2`` or ``>= 500`` (None: reported only); ``baseline`` the simple method's figure."""

    bench: str
    case: str
    metric: str
    value: float
    unit: str
    target: str | None = None
    baseline: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        sign, _, bound = self.target.partition(" ")
        limit = float(bound)
        return {"<": self.value < limit, "<=": self.value <= limit, ">": self.value > limit, ">=": self.value >= limit}[sign]

    def as_json(self) -> dict[str, object]:
        """Return the row as it is written to a file."""
        return asdict(self) | {"ok": self.ok}
