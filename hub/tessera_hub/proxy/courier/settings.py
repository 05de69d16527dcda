"""What a courier is told: ``courier.json``, which only ``prepare`` and ``deliver`` can read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 1


@dataclass(frozen=True)
class Settings:
    """The document.

    Attributes:
        url: of the service's API, with ``/api/v1``.
        checkpoint: files of the last attempt, ``{"path", "sha256", "size", "mode"}``.
        reach_seconds: how long ``prepare`` waits for a service that cannot be reached.
        room_seconds: how long ``deliver`` waits for room on the service's full disk.
        interval_seconds: between two looks at what is to be sent.
        parts: pods of the run.
    """

    url: str
    run_id: str
    run_token: str
    lease_token: str
    entry: str
    notebook: bool
    checkpoint_directory: str
    checkpoint: tuple[dict[str, Any], ...]
    run: dict[str, Any]
    reach_seconds: float = 900.0
    room_seconds: float = 180.0
    interval_seconds: float = 0.5
    parts: int = 1

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read the file.

        Raises:
            ValueError: it is of another version.
        """
        found = json.loads(path.read_bytes())
        if found.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} is not of schema {SCHEMA}")
        found["checkpoint"] = tuple(found["checkpoint"])
        return cls(**found)
