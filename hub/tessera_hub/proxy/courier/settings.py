"""What a courier is told: ``courier.json``, which only ``prepare`` and ``deliver`` can read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
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
        service: the program runs again whenever it has ended, also in a later pod, until the run is ended.
        live: folder that the run works in, instead of a copy of inputs; there in the container of user code only.
        order_url, told_url: signed addresses of the Proxy's words to a run that is all in one container, and of its own.
        poll_seconds: between two looks at the Proxy's words.
        user: Unix id of user code there.
        variables: of user code there.
        code: where the programs came from.
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
    service: bool = False
    live: str = ""
    order_url: str = ""
    told_url: str = ""
    poll_seconds: float = 5.0
    user: int = 1000
    variables: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)

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
