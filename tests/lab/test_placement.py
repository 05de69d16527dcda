"""Outputs come back beside the notebook by themselves, and never over another file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.lab.conftest import JUPYTER_TOKEN, LabServer
from tests.lab.test_server_extension import NOTEBOOK

from tessera_hub.client import AsyncTesseraClient
from tessera_lab import placement


def cell(source: str, identifier: str, **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": identifier,
        "metadata": metadata,
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def run_notebook(lab: LabServer) -> tuple[str, Path]:
    """Submit a notebook that writes a file, wait for its end, and return its id and the folder of its outputs."""
    cells = [
        cell("epochs = 1", "a", tags=["parameters"]),
        cell("open('weights.txt', 'w').write('w' * epochs); print('ran', epochs)", "b"),
    ]
    (lab.root / "work").mkdir(exist_ok=True)
    (lab.root / "work/train.ipynb").write_text(json.dumps({**NOTEBOOK, "cells": cells}))
    resources = {"roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 512}}]}
    spec = {"name": "train", "parameters": {"epochs": 5}, **resources}
    with lab.api() as alice:
        answer = alice.post("local/submit", json={"path": "work/train.ipynb", "include": "notebook", "spec": spec})
        assert answer.status_code == 201, answer.text
        task = answer.json()["id"]
        deadline = time.monotonic() + 90
        while (phase := alice.get(f"v1/tasks/{task}").json()["phase"]) not in ("SUCCEEDED", "FAILED"):
            assert time.monotonic() < deadline, phase
            time.sleep(0.3)
        assert phase == "SUCCEEDED", alice.get(f"v1/tasks/{task}/logs/output").text
    return task, lab.root / "work" / "train-runs" / task[:8]


def test_outputs_come_back_by_themselves_and_nothing_is_replaced(live_lab: LabServer) -> None:
    task, folder = run_notebook(live_lab)
    deadline = time.monotonic() + 30
    while not ((folder / "weights.txt").exists() and (folder / "train.ipynb").exists()):
        assert time.monotonic() < deadline, list(live_lab.root.rglob("*"))
        time.sleep(0.2)
    assert (folder / "weights.txt").read_text() == "wwwww"
    executed = json.loads((folder / "train.ipynb").read_text())
    assert "ran 5" in json.dumps(executed)
    original = json.loads((live_lab.root / "work/train.ipynb").read_text())
    assert original["cells"][1]["outputs"] == []
    (folder / "weights.txt").write_text("changed by hand")
    with live_lab.api() as alice:
        placed = alice.post(f"local/outputs/{task}/place", json={}).json()["placed"]
    assert (folder / "weights.txt").read_text() == "changed by hand"
    assert f"work/train-runs/{task[:8]}/weights (2).txt" in placed
    assert (folder / "weights (2).txt").read_text() == "wwwww"
    assert not list(folder.glob(".*")), "no piece of a transfer is left"


def test_what_a_person_removed_does_not_come_back(live_lab: LabServer) -> None:
    _task, folder = run_notebook(live_lab)
    deadline = time.monotonic() + 30
    while not (folder / "weights.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    (folder / "weights.txt").unlink()
    time.sleep(2)
    assert not (folder / "weights.txt").exists()


def environment_of_a_kernel(lab: LabServer) -> dict[str, str]:
    """Return what programs in kernels and terminals of the server find in their environment."""
    headers = {"Authorization": f"token {JUPYTER_TOKEN}"}
    kernel = httpx.post(f"{lab.url}api/kernels", headers=headers, json={"name": "python3"}, timeout=30).json()["id"]
    try:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # others come and go meanwhile
                if any(kernel in argument for argument in process.cmdline()):
                    return process.environ()
    finally:
        httpx.delete(f"{lab.url}api/kernels/{kernel}", headers=headers, timeout=30)
    raise AssertionError("the kernel has no process")


def test_what_a_terminal_submits_comes_back_too(live_lab: LabServer) -> None:
    (live_lab.root / "work").mkdir()
    (live_lab.root / "work/job.py").write_text("open('made.txt', 'w').write('made')")
    small = ("--cpu", "0.1", "--memory", "256MiB", "--json")
    environment = environment_of_a_kernel(live_lab)
    found = []
    for options, folder in (((), "work/job-runs"), (("--output-folder", "results"), "results/job-runs")):
        done = subprocess.run(
            [sys.executable, "-m", "tessera_hub.cli", "submit", "job.py", *options, *small],
            cwd=live_lab.root / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(live_lab.root / folder / json.loads(done.stdout)["id"][:8] / "made.txt")
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in found):
        assert time.monotonic() < deadline, list(live_lab.root.rglob("*"))
        time.sleep(0.2)


def test_a_look_reads_past_what_is_here_until_nothing_is_missing(
    lab: LabServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "PAGE", 2)
    (lab.root / "train.ipynb").write_text(json.dumps({**NOTEBOOK, "cells": [cell("1", "a")]}))
    spec = {"name": "train", "roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 512}}]}
    runs = []
    with lab.api() as alice:
        for _ in range(5):
            answer = alice.post("local/submit", json={"path": "train.ipynb", "include": "notebook", "spec": spec})
            assert answer.status_code == 201, answer.text
            cancelled = alice.post(f"v1/tasks/{answer.json()['id']}/cancel").json()
            assert cancelled["phase"] == "CANCELLED"
            runs.append(cancelled["run_id"])
    placer = placement.Placer(lab.root, tmp_path / "placed.json", logging.getLogger("test"))

    async def sweep() -> set[str]:
        async with AsyncTesseraClient(lab.service.url, lab.hub_token) as client:
            await placer.sweep(client)
        return placer.placed()

    assert set(runs) <= asyncio.run(sweep())
    # Of a new start nothing is known but the file: a gap behind a page that is here is found.
    placer = placement.Placer(lab.root, placer.record, logging.getLogger("test"))
    placer.record.write_text(json.dumps(runs[2:]))
    assert set(runs) <= asyncio.run(sweep())
