"""During and after a run: its log, notebook, files and checkpoint go to the service, its end into the engine's record."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from tessera_hub.proxy.courier.calls import RefusedError, Service, UnreachableError, patiently
from tessera_hub.proxy.courier.company import own_rank
from tessera_hub.proxy.courier.places import Places, files_below, is_safe, open_owned, read_document, write_atomic
from tessera_hub.proxy.courier.settings import Settings

LOG_PIECE: Final = 1 << 20
NOTEBOOK_LIMIT: Final = 128 << 20
MAX_OUTPUT_BYTES: Final = 10 << 30
OUTPUT_FILES_LIMIT: Final = 10_000
REPORT_LIMIT: Final = 4000
"""Bytes that Kubernetes keeps of a container's last words are 4096."""
NAMED: Final = 10
NOTES: Final = frozenset({"output.truncated", "parameter.unknown", "parameter.no_cell", "notebook.exit_early"})
"""What the runner may have to tell besides the end (docs/reference/runner.md, "Events")."""
_TAIL: Final = 1 << 16


def deliver(places: Places, settings: Settings, report: Path) -> int:
    """Send until the run has ended and everything is sent; return the status to exit with."""
    courier = Courier(places, settings)
    signal.signal(signal.SIGTERM, lambda *_: courier.ask_to_end())
    courier.follow()
    if settings.service:
        courier.finish_logs()
        return 0
    courier.finish()
    report.write_text(courier.report())
    return 0


class _Cut:
    """Files that are not sent: how many, and the first of them with the reason."""

    def __init__(self) -> None:
        self.count = 0
        self.files: list[dict[str, str]] = []

    def add(self, path: str, why: str) -> None:
        self.count += 1
        if len(self.files) < NAMED:
            self.files.append({"path": path[:120].encode(errors="replace").decode(), "why": why})


class Courier:
    """What was sent, and what is left to send.

    Args:
        over: whether the launcher is gone, for who is its parent; None: told by its lock.
        tell: takes how the run stands, a line of JSON; by default it is printed.
    """

    def __init__(
        self,
        places: Places,
        settings: Settings,
        over: Callable[[], bool] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.places = places
        self.settings = settings
        self.service = Service(settings)
        self.offsets: dict[str, int] = {}
        self.full: set[str] = set()
        self.notebook_version: tuple[int, int] | None = None
        self.notebook_at = 0.0
        self.progress: dict[str, Any] | None = None
        self.told = ""
        self.notes: dict[str, dict[str, Any]] = {}
        self.checkpoint = 0
        self.dead = False
        self.asked = False
        self._over_by = over
        self._tell_by = tell or _print_line

    def ask_to_end(self) -> None:
        """The pod is being ended: a run that has not begun will not, one that runs is stopped by its own launcher."""
        self.asked = True

    # --- while it runs --------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Return when the launcher is gone, however it ended; or was never there and shall not come."""
        pause = self.settings.interval_seconds
        while not self._over():
            suspended = self.places.suspended.exists()  # looked at first: what was written before is sent before it is told
            try:
                if not self.dead:
                    self._send_logs()
                    self._send_notebook(last=False)
                pause = self.settings.interval_seconds
            except UnreachableError:
                pause = min(pause * 2, 15.0)
            except RefusedError as error:
                self._refused(error)
            self._tell(suspended)
            time.sleep(min(pause, 1.0) if self.asked else pause)

    def _read(self, path: Path) -> dict[str, Any] | None:
        return read_document(path, self.places.owner)

    def _over(self) -> bool:
        if self._over_by is not None:
            return self._over_by()
        if not self.places.started.exists() or (self.settings.service and not self.asked):
            return self.asked
        try:
            lock = os.open(self.places.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False  # started, and about to take its lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(lock)
        return True

    def _refused(self, error: RefusedError) -> None:
        if error.status == 401:
            self.dead = True  # the run is over at the service: nothing of it may be told any more
        elif error.code == "disk.full":
            self.notes["output.truncated"] = {"where": "service", "why": "disk.full"}

    @property
    def rank(self) -> int | None:
        """Which part of the run we deliver for; None while that is not known, and then there is nothing to deliver."""
        return own_rank(self.places) if self.settings.parts > 1 else 0

    def _send_logs(self) -> None:
        rank = self.rank
        if rank is None:
            return
        output = self.places.control / "output.log"
        # The run's own streams are those of its first part.
        streams = {"output": output, "progress": self.places.run / "progress.jsonl"} if rank == 0 else {f"part-{rank}": output}
        for stream, file in streams.items():
            descriptor = open_owned(file, self.places.owner) if stream not in self.full else None
            if descriptor is None:
                continue
            try:
                offset, base = self.offsets.get(stream), self._base(stream)
                if offset is None:
                    offset = max(self.service.put_log(stream, base, b"") - base, 0)
                while data := os.pread(descriptor, LOG_PIECE, offset):
                    end = self.service.put_log(stream, base + offset, data) - base
                    if end <= offset:
                        self.full.add(stream)
                        if stream != "progress":
                            self.notes["output.truncated"] = {"where": "service", "limit_bytes": base + end}
                        break
                    offset = min(end, offset + len(data))
                self.offsets[stream] = offset
            finally:
                os.close(descriptor)

    def _base(self, stream: str) -> int:
        """Where our part of a stream begins: that of a service goes on where its former pod ended."""
        if not self.settings.service:
            return 0
        known = self.places.control / f"{stream}.base.json"
        if (found := self._read(known)) is None:
            found = {"base": self.service.put_log(stream, 0, b"")}
            write_atomic(known, found)
        return int(found["base"])

    def _send_notebook(self, *, last: bool) -> None:
        now = time.monotonic()
        if not self.settings.notebook or (not last and now - self.notebook_at < 1.0):
            return
        descriptor = open_owned(self.places.run / "output" / Path(self.settings.entry).name, self.places.owner)
        if descriptor is None:
            return
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            version = (found.st_mtime_ns, found.st_size)
            if version != self.notebook_version and found.st_size <= NOTEBOOK_LIMIT:
                self.service.put_notebook(file.read())
                self.notebook_version, self.notebook_at = version, now

    def _tell(self, suspended: bool) -> None:
        """Print how the run stands, for the Proxy, which reads our last line."""
        self.progress = progress_of(self.places.run / "progress.jsonl", self.places.owner) or self.progress
        line = json.dumps({"progress": self.progress, "suspended": suspended})
        if line != self.told:
            self.told = line
            self._tell_by(line)

    # --- when it is over ------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Send what is left: a service that cannot be reached is waited for, one whose disk is full for some time."""
        if not self.places.started.exists():
            return
        self._tell(False)
        self._last(self._send_logs)
        self._last(lambda: self._send_notebook(last=True))
        self._last(self._send_files)
        for code, detail in notes_of(self.places.run / "progress.jsonl", self.places.owner):
            self.notes.setdefault(code, detail)

    def finish_logs(self) -> None:
        """Send what a service printed last; it has no files to bring."""
        if self.places.started.exists():
            self._tell(False)
            self._last(self._send_logs)

    def _last(self, send: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.settings.room_seconds
        while not self.dead:
            try:
                return patiently(send)
            except RefusedError as error:
                self._refused(error)
                if error.code != "disk.full" or time.monotonic() > deadline:
                    return None
                time.sleep(1.0)
        return None

    def _send_files(self) -> None:
        rank = self.rank
        if rank is None:
            return
        cut = _Cut()
        total = count = 0
        for path, file in self._outputs():
            why = "number of files" if count >= OUTPUT_FILES_LIMIT else self._send(path, file, "output", total)
            if isinstance(why, int):
                total, count = total + why, count + 1
            else:
                cut.add(path, why)
        if rank == 0 and (self._read(self.places.run / "exit.json") or {}).get("state") != "succeeded":
            cut_before, sent = cut.count, 0
            for number, (path, file) in enumerate(files_below(self.places.run / self.settings.checkpoint_directory)):
                why = self._send(path, file, "checkpoint", total) if number < OUTPUT_FILES_LIMIT else "number of files"
                if isinstance(why, int):
                    total, sent = total + why, sent + 1
                else:
                    cut.add(path, why)
            # Half a checkpoint is none.
            self.checkpoint = sent if cut.count == cut_before else 0
        if cut.count:
            self.notes["outputs.cut"] = {"count": cut.count, "files": cut.files}

    def _outputs(self) -> Iterator[tuple[str, Path]]:
        """All of ``output/``, and of ``work/`` what the inputs do not have like this; a name of both is given below ``work/``.

        One after the other, since a program may leave millions.
        """
        rank = self.rank
        if rank:
            yield f"logs/part-{rank}.log", self.places.control / "output.log"
        for path, file in self._left():
            yield (f"parts/{rank}/{path}" if rank else path), file

    def _left(self) -> Iterator[tuple[str, Path]]:
        inputs = self._read(self.places.control / "inputs.json") or {}
        names: set[str] = set()
        for path, file in files_below(self.places.run / "output"):
            if len(names) < OUTPUT_FILES_LIMIT:  # of both folders together no more are sent
                names.add(path)
            yield path, file
        for path, file in files_below(self.places.run / "work"):
            with contextlib.suppress(OSError):
                status = file.lstat()
                if inputs.get(path) != [status.st_mtime_ns, status.st_size]:
                    yield (f"work/{path}" if path in names else path), file

    def _send(self, path: str, file: Path, kind: Literal["output", "checkpoint"], total: int) -> int | str:
        """Send one file; return its size, or why it is not kept."""
        if not is_safe(path):
            return "name"
        descriptor = open_owned(file, self.places.owner)
        if descriptor is None:
            return "no regular file of the run's own"
        try:
            size = os.fstat(descriptor).st_size
            if total + size > MAX_OUTPUT_BYTES:
                return "size of all files"
            self.service.put_output(path, descriptor, kind)
        except RefusedError as error:
            if error.status == 401 or error.code == "disk.full":
                raise
            return error.code or f"status {error.status}"
        finally:
            os.close(descriptor)
        return size

    def report(self) -> str:
        """Return the record of the end, as the engine shall keep it."""
        told = self._read(self.places.run / "exit.json")
        own = self._read(self.places.control / "end.json")
        document: dict[str, Any] = {
            "schema": 1,
            "started": self.places.started.exists(),
            "exit": _exit_record(told, self.settings.lease_token),
            "exit_code": None if own is None else own.get("exit_code"),
            "finished_at": None if own is None else own.get("finished_at"),
            "checkpoint": self.checkpoint,
            "notes": self.notes,
            "progress": self.progress,
        }
        text = json.dumps(document)
        if len(text.encode()) > REPORT_LIMIT:
            document["notes"] = {code: {"count": detail.get("count")} for code, detail in self.notes.items()}
            text = json.dumps(document)
        return text if len(text.encode()) <= REPORT_LIMIT else json.dumps(document | {"exit": _short(document["exit"])})


def _print_line(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _exit_record(told: dict[str, Any] | None, lease_token: str) -> dict[str, Any] | None:
    """The runner's record, bounded; user code can write that file, so nothing in it is taken without a look at its type."""
    if told is None or told.get("lease_token") != lease_token:
        return None
    if told.get("state") not in ("succeeded", "failed", "cancelled", "preempted"):
        return None
    reason = told.get("reason")
    found: dict[str, Any] = {"state": told["state"], "reason": None, "exit_code": None}
    if type(told.get("exit_code")) is int:
        found["exit_code"] = told["exit_code"]
    if isinstance(reason, dict):
        detail = reason.get("detail")
        found["reason"] = {
            "code": str(reason.get("code", ""))[:80],
            "message": str(reason.get("message", ""))[:800],
            "detail": detail if isinstance(detail, dict) and len(json.dumps(detail)) < 1500 else {},
        }
    return found


def _short(record: dict[str, Any] | None) -> dict[str, Any] | None:
    if record is None or record["reason"] is None:
        return record
    return record | {"reason": {"code": record["reason"]["code"], "message": "", "detail": {}}}


def progress_of(path: Path, owner: int | None = None) -> dict[str, Any] | None:
    """Return ``{"cells_done", "cells_total", "current_cell"}`` from the runner's events, None before the first cell."""
    descriptor = open_owned(path, owner)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(min(size, 4096))
        file.seek(max(size - _TAIL, 0))
        tail = file.read(_TAIL)
    total = done = current = None
    for line in (*head.splitlines()[:1], *tail.splitlines()):
        event = _event(line)
        if event.get("event") == "started" and type(event.get("cells_total")) is int:
            total, done = event["cells_total"], done or 0
        elif event.get("event") == "cell" and type(event.get("index")) is int:
            total = event["of"] if type(event.get("of")) is int else total
            current = event["index"] if event.get("state") == "running" else None
            done = event["index"] if event.get("state") == "done" else event["index"] - 1
    if total is None and done is None:
        return None
    return {"cells_done": max(done or 0, 0), "cells_total": total or None, "current_cell": current}


def notes_of(path: Path, owner: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Return (code, detail) of what the runner noted, each code once."""
    descriptor = open_owned(path, owner)
    found: dict[str, dict[str, Any]] = {}
    if descriptor is None:
        return []
    with os.fdopen(descriptor, "rb") as file:
        for line in iter(lambda: file.readline(_TAIL), b""):
            if b'"note"' not in line or len(line) > 8192:
                continue
            event = _event(line)
            if event.get("event") == "note" and event.get("code") in NOTES:
                detail = event.get("detail")
                found.setdefault(str(event["code"]), detail if isinstance(detail, dict) else {})
    return list(found.items())


def _event(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
