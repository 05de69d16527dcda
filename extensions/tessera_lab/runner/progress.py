"""Progress as JSON lines: ``progress.jsonl``, one object a line, each with ``seq``, ``at`` and ``event``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tessera_lab.runner.errors import JsonValue
from tessera_lab.runner.storage import now_text

OUTPUT_TEXT_BYTES: Final = 8 * 1024
SOURCE_HEAD_CHARS: Final = 80


class Progress:
    """Appends events; each line is on its way to the reader when the call returns.

    Args:
        path: the file, created if it is not there.
        on_failed: called once with the first error of writing; from then on nothing is written.
    """

    def __init__(self, path: Path, on_failed: Callable[[OSError], None]) -> None:
        self._path = path
        self._on_failed = on_failed
        self._file = path.open("ab", buffering=0)
        self._seq = 0
        self._open = True

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event with its JSON fields."""
        if not self._open:
            return
        self._seq += 1
        line = json.dumps({"seq": self._seq, "at": now_text(), "event": event, **fields}) + "\n"
        data = memoryview(line.encode())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._open = False
            self._on_failed(error)

    def note(self, code: str, **detail: JsonValue) -> None:
        """Something worth telling that does not end the run."""
        self.emit("note", code=code, detail=detail)

    def resume(self) -> None:
        """Try again after room was made; a torn line is ended first, so that a reader loses no more than that."""
        if not self._open:
            self._open = True
            try:
                self._file.write(b"\n")
            except OSError:
                self._open = False
