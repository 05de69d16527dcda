"""Records that user code can write, made harmless.

The runner of a run has the person's account, so whatever it tells may come from the person's code. What is read here is passed
on to the service in one call together with what other runs tell: a string that UTF-8 has not, a number that JSON has not, or a
document of any size or depth would stop the reports of the whole cluster.
"""

from __future__ import annotations

import json
from typing import Any, Final

TEXT_LIMIT: Final = 4000
ENTRIES_LIMIT: Final = 100
DEPTH_LIMIT: Final = 6
COUNT_LIMIT: Final = 1_000_000_000


def read_foreign(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in *data* with all of it sendable and bounded; None if it is none.

    Characters that are no text are replaced, numbers that are not finite or beyond 64 bits become null, long strings, long
    lists and what lies too deep are cut.
    """
    try:
        found = json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return _plain(found, DEPTH_LIMIT) if isinstance(found, dict) else None


def count_of(value: Any) -> int | None:
    """Return *value* if it can be a number of cells, else None."""
    return value if type(value) is int and 0 <= value <= COUNT_LIMIT else None


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value[:TEXT_LIMIT].encode(errors="replace").decode().replace("\0", "\ufffd")
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else None
    if depth == 0:
        return None
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value[:ENTRIES_LIMIT]]
    return {_plain(key, depth): _plain(item, depth - 1) for key, item in list(value.items())[:ENTRIES_LIMIT]}
