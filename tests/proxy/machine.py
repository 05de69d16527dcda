"""The real local Proxy as a process beside the real service, and what a person sees of its runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.proxy.by_hand import BOOTSTRAP
from tests.service import ServiceProcess, script_spec, upload

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "PREEMPTED")


class LocalProxy:
    """``tessera proxy --driver local`` in a directory of its own."""

    def __init__(self, service: ServiceProcess, directory: Path, api: httpx.Client) -> None:
        self.service = service
        self.directory = directory
        self.data_dir = directory / "local"
        self.api = api
        self.log_path = directory / "proxy.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._logged = 0
        self.options: tuple[str, ...] = ()
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o711)
        (directory / "token").write_text(BOOTSTRAP)

    def start(self) -> None:
        """Start the process."""
        self._logged = len(self.log_path.read_text()) if self.log_path.exists() else 0
        command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", self.service.url]
        command += ["--bootstrap-token-file", str(self.directory / "token"), "--data-dir", str(self.data_dir), *self.options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_session(self, seconds: float = 60.0) -> None:
        """Wait until the service knows the process."""
        deadline = time.monotonic() + seconds
        while '"epoch":' not in self.log_path.read_text()[self._logged :]:
            assert time.monotonic() < deadline, self.log_path.read_text()[-3000:]
            time.sleep(0.1)

    def stop(self) -> str:
        """Ask it to end and return all its output."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)
        self.process = None
        return self.log_path.read_text()

    def submit(self, text: str, **spec: Any) -> str:
        """Submit a script and return the task's id."""
        answer = self.api.post("/tasks", json=script_spec(*upload(self.api, text.encode()), **spec))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task as its owner sees it."""
        answer = self.api.get(f"/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, task_id: str, *phases: str, seconds: float = 60.0) -> dict[str, Any]:
        """Return the task once it is in one of *phases*, by default a final one."""
        deadline = time.monotonic() + seconds
        while (task := self.task(task_id))["phase"] not in (phases or ENDED):
            assert time.monotonic() < deadline, (task, self.log_path.read_text()[-3000:], self.service.log_tail())
            time.sleep(0.1)
        return task

    def output(self, task_id: str) -> str:
        """Return what the latest run printed so far."""
        return self.api.get(f"/tasks/{task_id}/logs/output").text

    def wait_for_output(self, task_id: str, words: str, seconds: float = 60.0) -> None:
        """Wait until the latest run has printed *words*."""
        deadline = time.monotonic() + seconds
        while words not in self.output(task_id):
            assert time.monotonic() < deadline, (self.task(task_id), self.log_path.read_text()[-3000:])
            time.sleep(0.1)

    def wait_until_forgotten(self, seconds: float = 20.0) -> None:
        """Wait until no run has left anything in the Proxy's directory."""
        deadline = time.monotonic() + seconds
        while left := [path.name for path in (self.data_dir / "runs").iterdir()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[Path]:
    """Mount a disk of *kib* KiB at *path*; needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0711", "tessera-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
