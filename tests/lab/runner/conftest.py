"""Fixtures of the runner's tests.

- ``folder``: makes run directories; each holds real files and starts real runner processes. At the end of a test nothing of
  a run may be alive.
- ``small_disk``: a directory on a file system of 2 MiB (needs root).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

RUNNER = [sys.executable, "-m", "tessera_lab.runner"]
EXTENSIONS = str(Path(__file__).parents[3] / "extensions")

Cell = str | tuple[str, str]


class RunFolder:
    """A run's directory and the runner processes started in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = f"run-{path.name}-{os.getpid()}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def prepare(self, entry: str = "sub/train.ipynb", content: str | bytes | None = None, **specification: Any) -> RunFolder:
        target = self.path / "work" / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        document = {
            "schema": 1,
            "run_id": self.run_id,
            "task_id": "task-1",
            "attempt": 1,
            "lease_token": "lease-1",
            "kind": "notebook" if entry.endswith(".ipynb") else "script",
            "entry": entry,
            "parameters": {},
            "kernel": None,
            "grace_seconds": 30,
            "checkpoint_dir": "checkpoint",
            "claim": {"kind": "mkdir"},
        } | specification
        (self.path / "run.json").write_text(json.dumps(document))
        return self

    def notebook(self, *cells: Cell, metadata: dict[str, Any] | None = None, **specification: Any) -> RunFolder:
        book = nbformat.v4.new_notebook(metadata=metadata or {})
        for cell in cells:
            source, tags = (cell, []) if isinstance(cell, str) else (cell[0], [cell[1]])
            book.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
        return self.prepare(content=nbformat.writes(book), **specification)

    def start(self, command: list[str] | None = None, **settings: Any) -> subprocess.Popen[bytes]:
        with (self.path / "log").open("ab") as log:
            process = subprocess.Popen(
                [*(command or RUNNER), str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": EXTENSIONS},
                start_new_session=True,
                **settings,
            )
        self.processes.append(process)
        return process

    def run(self, seconds: float = 90, **settings: Any) -> int:
        return self.start(**settings).wait(seconds)

    def wait_for(self, what: Callable[[], Any], seconds: float = 30) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, f"nothing came; log: {self.log[-2000:]}"
            time.sleep(0.02)
        return found

    def wait_for_cell(self, index: int) -> None:
        self.wait_for(lambda: any(e["index"] == index and e["state"] == "running" for e in self.events("cell")))

    def stop(self, why: str | None, process: subprocess.Popen[bytes]) -> None:
        if why:
            (self.path / "stop.json").write_text(json.dumps({"why": why}))
        process.send_signal(signal.SIGTERM)

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / "exit.json").read_text())

    @property
    def reason(self) -> dict[str, Any]:
        return self.record["reason"]

    @property
    def log(self) -> str:
        return (self.path / "log").read_bytes().decode()

    @property
    def output(self) -> nbformat.NotebookNode:
        book = nbformat.read(next((self.path / "output").glob("*.ipynb")), as_version=4)
        nbformat.validate(book)
        return book

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.path / "progress.jsonl").read_text().split("\n")[:-1]
            found = [json.loads(line) for line in lines if line]
            return [event for event in found if kind in (None, event["event"])]
        return []

    def notes(self, code: str) -> list[dict[str, Any]]:
        return [event["detail"] for event in self.events("note") if event["code"] == code]

    def kernel_pid(self) -> int:
        (pid,) = [pid for pid in self.living() if b"ipykernel_launcher" in (Path("/proc") / str(pid) / "cmdline").read_bytes()]
        return pid

    def living(self) -> list[int]:
        """Processes that carry this run's id in their environment: user code and whatever it started."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"TESSERA_RUN_ID={self.run_id}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def close(self) -> list[int]:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        left = self.living()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


@pytest.fixture
def make_folder(tmp_path: Path) -> Iterator[Callable[[Path | None], RunFolder]]:
    made: list[RunFolder] = []

    def make(path: Path | None = None) -> RunFolder:
        path = path or tmp_path / f"run{len(made)}"
        path.mkdir(exist_ok=True)
        made.append(RunFolder(path))
        return made[-1]

    yield make
    clean = [folder.processes and all(p.poll() is not None for p in folder.processes) for folder in made]
    left = [folder.close() for folder in made]
    # A runner that the test itself let run or killed is the test's business; one that ended leaves nothing behind.
    assert not any(pids for ended, pids in zip(clean, left, strict=True) if ended), f"still running after the run: {left}"


@pytest.fixture
def folder(make_folder: Callable[..., RunFolder]) -> RunFolder:
    return make_folder()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
