"""``python -m tests.aws.server PORT FOLDER``: moto's server with the compute double, and a few faults that a test may ask for.

``POST /double/<what>`` with JSON:

``fault``  ``{"operation": "submitjob", "kind": "throttle"|"lose"|"lose_before"|"break", "times": 2}``
``purge``  Batch forgets all jobs that have ended
``hold``   ``{"reason": text or null}``: jobs stay RUNNABLE
``take``   ``{"job": id}``: the instance of a job is taken away
``image``  ``{"missing": true}``: images cannot be pulled
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.batch.models import Job, batch_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

from tests.aws.compute import Compute, wait_for_threads

THROTTLED = json.dumps({"__type": "TooManyRequestsException", "message": "Too Many Requests"}).encode()


class Double:
    """The application: moto's, with faults before it."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: dict[str, list[str]] = {}
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/double/"):
            length = int(environ.get("CONTENT_LENGTH") or 0)
            asked = json.loads(environ["wsgi.input"].read(length) or b"{}")
            found = getattr(self, f"do_{path.removeprefix('/double/')}")(**asked)
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(found).encode()]
        fault = self.next_fault(path.rpartition("/")[2] if path.startswith("/v1/") else "")
        if fault == "throttle":
            start_response(
                "429 Too Many Requests", [("Content-Type", "application/json"), ("x-amzn-ErrorType", "TooManyRequestsException")]
            )
            return [THROTTLED]
        if fault == "lose":
            list(self.moto(environ, lambda *_: None))
        if fault in ("lose", "lose_before"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 Cut", [])
            return []
        return self.moto(environ, start_response)

    def next_fault(self, operation: str) -> str | None:
        with self.lock:
            waiting = self.faults.get(operation) or self.faults.get("*" if operation else "") or []
            return waiting.pop(0) if waiting else None

    def do_fault(self, operation: str, kind: str, times: int = 1) -> int:
        with self.lock:
            self.faults[operation] = [kind] * times
        return times

    def do_purge(self) -> int:
        gone = 0
        for region in batch_backends["123456789012"].values():
            for job_id, job in list(region._jobs.items()):
                if job.job_stopped:
                    del region._jobs[job_id]
                    job.job_queue.jobs.remove(job)
                    gone += 1
        return gone

    def do_hold(self, reason: str | None) -> None:
        self.compute.held = reason

    def do_take(self, job: str) -> None:
        self.compute.taken.add(job)

    def do_image(self, missing: bool) -> None:
        self.compute.image_missing = missing

    def do_jobs(self) -> list[str]:
        return [job.job_name for region in batch_backends["123456789012"].values() for job in region._jobs.values()]


def stop(*_: object) -> None:
    """End what runs, then ourselves."""
    for region in batch_backends["123456789012"].values():
        for job in region._jobs.values():
            if isinstance(job, Job):
                job.terminate("the test is over")
    wait_for_threads()
    os._exit(0)


def follow(parent: int) -> None:
    """Stop when the test session is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    stop()


def main(port: int, folder: Path) -> None:
    """Serve until ended."""
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    compute = Compute(folder)
    compute.install()
    signal.signal(signal.SIGTERM, stop)
    run_simple("127.0.0.1", port, Double(compute), threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
