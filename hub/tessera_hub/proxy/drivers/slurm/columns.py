"""Tables of fixed columns, ``squeue -O`` and ``sinfo -O``, for a Slurm without JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def text_format(fields: Mapping[str, int]) -> str:
    """Return the argument of ``-O`` for *fields*, name → width."""
    return ",".join(f"{name}:{width}" for name, width in fields.items())


def rows(text: str, fields: Mapping[str, int]) -> Iterator[dict[str, str]]:
    """Yield each line of the answer as field → value."""
    for line in text.splitlines():
        values, at = {}, 0
        for name, width in fields.items():
            values[name] = line[at : at + width].strip()
            at += width
        yield values
