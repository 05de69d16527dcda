"""Live state of one task: what arrives on the event stream, and log bytes as text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from httpx_sse import ServerSentEvent

from tessera_hub.schemas.tasks import Task

from . import calls
from .calls import Steps

RECONNECT_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to get a broken event stream back; the last one repeats."""

STREAM_SILENCE_SECONDS: Final = 45.0
"""An event stream that says nothing for so long, keep-alives included, is taken as broken."""

WAIT_SECONDS: Final = (0.3, 0.5, 1.0, 2.0)
"""Pauses between questions of ``wait``; the last one repeats."""

LOG_PAUSE_SECONDS: Final = 0.4
LOG_PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class TaskUpdate:
    """One event: ``task`` with the new state, ``log`` with ``stream``, ``offset`` and ``text``, ``notebook`` with ``etag``, or
    ``end`` with the last state when the log is complete, too."""

    kind: Literal["task", "log", "notebook", "end"]
    task: Task | None
    data: Mapping[str, Any]

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self.kind == "end"


def update_of(event: ServerSentEvent) -> TaskUpdate | None:
    """Read an event; None for a keep-alive or a kind that this client does not know."""
    match event.event:
        case "task" | "end" as kind:
            return TaskUpdate(kind, Task.model_validate_json(event.data, extra="ignore"), {})
        case "log" | "notebook" as kind:
            return TaskUpdate(kind, None, json.loads(event.data))
    return None


class LogReader:
    """Reads a log piece by piece as text, also when a piece ends within a character.

    ``offset`` is in bytes. A new attempt of the task has a new log; ``run`` fixes one.
    """

    def __init__(self, task_id: UUID | str, stream: str = "output", offset: int = 0, run: UUID | None = None) -> None:
        self.task_id = task_id
        self.stream = stream
        self.offset = offset
        self.run = run
        self.final = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> Steps[str]:
        """Return the next text, empty when there is nothing new; sets ``final`` when nothing can follow."""
        piece: calls.LogPiece = yield calls.log(self.task_id, self.stream, self.offset, LOG_PIECE_BYTES, self.run)
        self.offset = piece.offset + len(piece.data)
        self.final = piece.final and self.offset >= piece.end
        return self._decoder.decode(piece.data, self.final)


class Watch:
    """Asks for a task's state without fetching it when it is unchanged."""

    def __init__(self, task_id: UUID | str) -> None:
        self._task_id = task_id
        self._etag: str | None = None

    def look(self) -> Steps[Any]:
        """Return the task if it changed since the last look, else None."""
        answer: calls.Versioned[Any] = yield calls.task(self._task_id, self._etag)
        self._etag = answer.etag
        return answer.value
