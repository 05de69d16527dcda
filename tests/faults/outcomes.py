"""What becomes of a few tasks while an engine misbehaves: each start of user code is told to a server outside of everything.

What came of them is a row of the table of faults (table.py).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest

from tests.faults.table import Row, note, words_of
from tests.proxy.machine import ENDED, LocalProxy

SIZE = {"cpu_millicores": 100, "memory_mib": 128}


class Trace:
    """Counts how often user code of each run began.

    Attributes:
        began: task's id → run ids, one for each start.
    """

    def __init__(self, host: str) -> None:
        self.began: dict[str, list[str]] = {}
        trace = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                _empty, task, run = self.path.split("/")
                trace.began.setdefault(task, []).append(run)
                self.send_response(204)
                self.end_headers()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()

    def program(self, seconds: float) -> str:
        """Return a script that tells that it began, works for *seconds* and says so."""
        return (
            "import os, time, urllib.request\n"
            f"where = '{self.url}/' + os.environ['TESSERA_TASK_ID'] + '/' + os.environ['TESSERA_RUN_ID']\n"
            "urllib.request.urlopen(urllib.request.Request(where, method='POST'), timeout=30)\n"
            "print('began', flush=True)\n"
            f"time.sleep({seconds})\n"
            "print('done', flush=True)\n"
        )


@dataclass(slots=True)
class Trial:
    """The tasks of one fault."""

    proxy: LocalProxy
    trace: Trace
    tasks: list[str] = field(default_factory=list)

    def submit(self, seconds: float) -> str:
        """Submit a task that works for *seconds*."""
        task = self.proxy.submit(self.trace.program(seconds), roles=[{"resources": SIZE}], lifecycle={"grace_seconds": 1})
        self.tasks.append(task)
        return task

    def cancel(self, task: str) -> None:
        """Cancel a task, as its owner does."""
        self.proxy.api.post(f"/tasks/{task}/cancel").raise_for_status()

    def wait_until_begun(self, *tasks: str, seconds: float = 120) -> None:
        """Wait until user code of each task has begun."""
        deadline = time.monotonic() + seconds
        while not all(task in self.trace.began for task in tasks):
            assert time.monotonic() < deadline, [self.proxy.task(task)["reasons"] for task in tasks]
            time.sleep(0.1)

    def kill_proxy(self) -> None:
        """End the Proxy as a power cut would."""
        assert self.proxy.process is not None
        self.proxy.process.kill()
        self.proxy.process.wait(10)

    def supervise(self) -> None:
        """Start the Proxy again if it has ended."""
        if self.proxy.process is None or self.proxy.process.poll() is not None:
            self.proxy.start()

    def hold(self, seconds: float) -> None:
        """Let time pass while the Proxy is supervised."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.supervise()
            time.sleep(1)

    def finish(self, seconds: float = 240) -> Counter[str]:
        """Wait until all tasks have ended and return how many did in which way."""
        deadline = time.monotonic() + seconds
        while True:
            self.supervise()
            found = [self.proxy.task(task) for task in self.tasks]
            if all(task["phase"] in ENDED for task in found):
                return Counter(outcome(task["phase"], task["reasons"]) for task in found)
            left = [(task["phase"], task["reasons"]) for task in found if task["phase"] not in ENDED]
            assert time.monotonic() < deadline, (left, self.proxy.log_path.read_text()[-3000:])
            time.sleep(0.5)

    def doubled(self) -> int:
        """Count starts of user code too many."""
        return sum(len(self.trace.began.get(task, ())) - 1 for task in self.tasks if task in self.trace.began)

    def said(self) -> dict[str, str]:
        """Return what user code printed of each task that did not succeed."""
        found = {task: self.proxy.task(task) for task in self.tasks}
        return {
            task: f"{outcome(told['phase'], told['reasons'])} {told['reasons']}: {self.proxy.output(task)[-2000:]}"
            for task, told in found.items()
            if told["phase"] != "SUCCEEDED"
        }

    def starts(self) -> int:
        """Count starts of user code."""
        return sum(len(self.trace.began.get(task, ())) for task in self.tasks)


def outcome(phase: str, reasons: list[dict[str, str]]) -> str:
    """Return how a task ended, in words."""
    return f"{phase} ({reasons[0]['code']})" if reasons else phase


def bills_doubled(trial: Trial) -> tuple[int, int]:
    """Return how many tasks have a bill, and how many entries of the meter there are too many."""
    billed = doubled = 0
    database = trial.proxy.service.data_dir / "tessera.sqlite"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for task in trial.tasks:
            run = str(UUID(trial.proxy.task(task)["run_id"]))
            query = "SELECT subject, action, count(*) FROM meter_event WHERE run_id = ? GROUP BY subject, action"
            rows = connection.execute(query, (run,)).fetchall()
            billed += bool(rows)
            doubled += max(len({subject for subject, _action, _count in rows}) - 1, 0)
            doubled += sum(count - 1 for _subject, _action, count in rows)
    return billed, doubled


@contextmanager
def trial_of(proxy: LocalProxy, host: str) -> Iterator[Trial]:
    """A trial whose user code reaches *host*; the Proxy runs at its end as at its begin."""
    trace = Trace(host)
    found = Trial(proxy, trace)
    try:
        yield found
    finally:
        for task in found.tasks:
            if proxy.task(task)["phase"] not in ENDED:
                proxy.api.post(f"/tasks/{task}/cancel")
        found.supervise()
        trace.close()


def tell(request: pytest.FixtureRequest, trial: Trial, fault: str, driver: str, ends: Counter[str]) -> None:
    """Hold that nothing was started or billed twice, and keep the row for the table."""
    billed, bills = bills_doubled(trial)
    note(request, Row(driver, fault, len(trial.tasks), words_of(ends), trial.starts(), trial.doubled(), bills))
    assert trial.doubled() == 0, trial.trace.began
    assert bills == 0
    assert billed == trial.starts(), f"what began is billed, and only that: {trial.said()}"
