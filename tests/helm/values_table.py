"""The chart's values as a table for its README, from the comments of values.yaml: ``python -m tests.helm.values_table``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from tests.helm.chart import CHART, default_values


def rows() -> Iterator[tuple[str, Any, str]]:
    """Yield dotted path, default and explanation of each value that has one of its own."""
    path: list[str] = []
    words: list[str] = []
    values = default_values()
    for line in (CHART / "values.yaml").read_text("utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            words.append(text.removeprefix("#").strip())
            continue
        key, colon, _value = text.partition(":")
        if colon and not text.startswith("-"):
            path = [*path[: (len(line) - len(line.lstrip())) // 2], key.strip('"')]
            if words:
                yield ".".join(path), _at(values, path), " ".join(words)
        words = []


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, words in rows():
        shown = json.dumps(default, ensure_ascii=False)
        lines.append(f"| `{path}` | `{shown}` | {words.replace('<', '&lt;')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
