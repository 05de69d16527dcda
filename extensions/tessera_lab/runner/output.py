"""What user code prints: made printable, bounded, and read for metric lines."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
from collections.abc import Callable
from typing import Final, Self

METRIC_TAG: Final = "TESSERA_METRIC "
# Control characters that are no text; tab, line feed, carriage return, backspace and escape (colours) stay.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\ud800-\udfff]")
_LONGEST_METRIC_LINE: Final = 4096
_READ_BYTES: Final = 64 * 1024
_PIPE_BYTES: Final = 1024 * 1024


def printable(text: str) -> str:
    """``text`` with U+FFFD for everything that no terminal, JSON reader or notebook should get."""
    return _UNPRINTABLE.sub("\ufffd", text)


def fold_returns(text: str) -> str:
    """Drop what a carriage return overwrote, line by line, so that a progress bar costs one line and not a thousand."""
    if "\r" not in text:
        return text
    lines = []
    for line in text.split("\n"):
        # A return at the very end overwrites nothing yet.
        body, end = (line[:-1], "\r") if line.endswith("\r") else (line, "")
        lines.append(body[body.rfind("\r") + 1 :] + end)
    return "\n".join(lines)


def trimmed(text: str, limit_bytes: int) -> str:
    """The first ``limit_bytes`` of ``text`` in UTF-8, cut between characters."""
    if len(text) * 4 <= limit_bytes:
        return text
    return text.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")


class Budget:
    """Bytes that may be kept; what does not fit is cut."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes

    def take(self, text: str) -> str:
        """The part of ``text`` that still fits, now used."""
        size = len(text.encode("utf-8", "replace"))
        if size > self._left:
            text = text.encode("utf-8", "replace")[: self._left].decode("utf-8", "ignore")
            size = self._left
        self._left -= size
        return text

    def fits(self, size: int) -> bool:
        """Use ``size`` bytes if there are as many."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """Return bytes that are no longer kept."""
        self._left += size


class Log:
    """The run's log: text to a file descriptor, valid UTF-8, bounded. User code goes on when the bound is passed.

    Args:
        descriptor: where the log goes, normally 1.
        limit_bytes: bound of what is written.
        on_truncated: called once, when the bound is passed.
        on_failed: called once, with the first error of writing; from then on nothing is written.
        on_metric: called with each metric line's object.
    """

    def __init__(
        self,
        descriptor: int,
        limit_bytes: int,
        *,
        on_truncated: Callable[[], None],
        on_failed: Callable[[OSError], None],
        on_metric: Callable[[dict[str, float]], None],
    ) -> None:
        self._descriptor = descriptor
        self._budget = Budget(limit_bytes)
        self._on_truncated = on_truncated
        self._on_failed = on_failed
        self._metrics = MetricReader(on_metric)
        self._open = True
        self._truncated = False

    def write(self, text: str) -> None:
        """Append ``text`` as it is printed."""
        self._metrics.feed(text)
        if not self._open or self._truncated:
            return
        text = printable(text)
        kept = self._budget.take(text)
        self._emit(kept)
        if len(kept) < len(text):
            self._truncated = True
            self.remark("output passed its limit; the rest is not kept, the run goes on")
            self._on_truncated()

    def remark(self, text: str) -> None:
        """A line of the runner itself, outside the bound."""
        if self._open:
            self._emit(f"\n[tessera] {text}\n")

    def _emit(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "replace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            # A reader that went away (EPIPE) must not end the run; a full disk does, by the caller's choice.
            self._open = False
            self._on_failed(error)


class Decoder:
    """Bytes of a pipe to text, any bytes, cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The text that is complete so far; empty ``data`` means the end."""
        return self._decoder.decode(data, final=not data)


class OutputPipe:
    """A pipe for a process's output, read by the running event loop; ``with`` it, give ``write_end`` to the process.

    Leaving takes what is still in the pipe and does not wait for others that hold its end.

    Args:
        on_text: called with text as it comes.
    """

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._loop.add_reader(self._read_end, self._forward)
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self.write_end)
        # The pipe holds no more than this, however fast it is filled again.
        for _ in range(_PIPE_BYTES // _READ_BYTES):
            if not self._forward():
                break
        self._on_text(self._decoder.feed(b""))
        self._loop.remove_reader(self._read_end)
        os.close(self._read_end)

    def _forward(self) -> bool:
        """Take one piece; whether there may be more."""
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._read_end)
            return False
        self._on_text(self._decoder.feed(data))
        return True


class MetricReader:
    """Finds lines ``TESSERA_METRIC {"loss": 0.31, "step": 5}`` in a stream of text."""

    def __init__(self, on_metric: Callable[[dict[str, float]], None]) -> None:
        self._on_metric = on_metric
        self._line = ""

    def feed(self, text: str) -> None:
        """Look at more text; a line counts when its end has come."""
        lines = (self._line + text).split("\n")
        self._line = lines.pop()[:_LONGEST_METRIC_LINE]
        for line in lines:
            if line.startswith(METRIC_TAG) and len(line) <= _LONGEST_METRIC_LINE:
                self._read(line[len(METRIC_TAG) :])

    def _read(self, text: str) -> None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(found, dict):
            values = {name: value for name, value in found.items() if type(value) in (int, float)}
            if values:
                self._on_metric(values)
