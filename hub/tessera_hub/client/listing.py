"""Lists and tables that become pandas frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tessera_hub.schemas.bills import CostTable, MonthBill, TaskBill

from .calls import Call, Steps
from .frames import bill_frame, costs_frame

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class Listing(list[T], Generic[T]):
    """A list with :meth:`to_frame`."""

    def __init__(self, items: Iterable[T], frame: Callable[[Iterable[T]], pd.DataFrame]) -> None:
        super().__init__(items)
        self._frame = frame

    def to_frame(self) -> pd.DataFrame:
        """The list as a pandas frame, units in the column names.

        Raises:
            TesseraError: ``client.pandas``, pandas is not installed.
        """
        return self._frame(self)


class Costs(CostTable):
    """Costs with :meth:`to_frame`."""

    def to_frame(self) -> pd.DataFrame:
        """One row per group."""
        return costs_frame(self)


class CostOfTask(TaskBill):
    """A task's bill with :meth:`to_frame`."""

    def to_frame(self) -> pd.DataFrame:
        """One row per line."""
        return bill_frame(self.lines, self.currency)


class CostOfMonth(MonthBill):
    """A tenant's month with :meth:`to_frame`."""

    def to_frame(self) -> pd.DataFrame:
        """One row per line."""
        return bill_frame(self.lines, self.currency)


def all_pages(page: Callable[[str | None, int], Call[Any]], limit: int | None, page_size: int = 200) -> Steps[list[Any]]:
    """Collect the items of all pages, or the first *limit* of them."""
    found: list[Any] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        answer = yield page(cursor, page_size if limit is None else min(page_size, limit - len(found)))
        found.extend(answer.items)
        cursor = answer.next
        if cursor is None:
            break
    return found[:limit]
