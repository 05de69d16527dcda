"""Full disks, at the cluster and at the service: a typed reason, nothing left behind, nothing lost in silence."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tessera_hub.store.blobs import BlobStore
from tessera_hub.store.runfiles import RunFiles
from tests.proxy.machine import LocalProxy, small_disk
from tests.service import ServiceProcess

MIB = 1 << 20


@pytest.fixture
def small_machine(machine: LocalProxy) -> Iterator[LocalProxy]:
    """A Proxy whose data directory is a disk of 3 MiB."""
    machine.stop()
    with small_disk(machine.data_dir, 3 * 1024):
        machine.start()
        machine.wait_for_session()
        yield machine
        machine.stop()


def upload_random(machine: LocalProxy, size: int) -> dict[str, object]:
    """Upload *size* random bytes as ``data.bin``."""
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    assert machine.api.put(f"/blobs/{digest}", content=data).status_code == 201
    return {"path": "data.bin", "sha256": digest, "size": size}


def submit_with(machine: LocalProxy, text: str, file: dict[str, object]) -> str:
    """Submit a script with a further input."""
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    assert machine.api.put(f"/blobs/{digest}", content=data).status_code in (201, 204)
    script = {"path": "main.py", "sha256": digest, "size": len(data)}
    spec = {"name": "full", "kind": "script", "entry": "main.py", "inputs": {"files": [script, file]}}
    answer = machine.api.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def used_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.root
def test_inputs_that_do_not_fit_fail_the_run_before_its_start(small_machine: LocalProxy) -> None:
    task_id = submit_with(small_machine, "print('never')", upload_random(small_machine, 7 * MIB // 2))
    task = small_machine.wait(task_id)
    assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("FAILED", ["disk.full"])
    assert task["reasons"][0]["message"].startswith("The disk is full.")
    assert small_machine.output(task_id) == ""
    bill = small_machine.api.get(f"/tasks/{task_id}/bill").json()
    assert bill["amount_micro"] == 0, "what never started costs nothing"
    small_machine.wait_until_forgotten()
    assert used_bytes(small_machine.data_dir) < MIB


@pytest.mark.root
def test_a_run_that_fills_the_disk_fails_and_the_next_one_has_room_again(small_machine: LocalProxy) -> None:
    text = "import time\nwith open('big', 'wb', buffering=0) as f:\n    while True:\n        f.write(bytes(1 << 16))\n"
    task_id = small_machine.submit(text)
    task = small_machine.wait(task_id)
    assert task["phase"] == "FAILED"
    assert task["reasons"][0]["code"] == "disk.full", task["reasons"]
    small_machine.wait_until_forgotten()
    assert used_bytes(small_machine.data_dir) < MIB
    after = small_machine.wait(small_machine.submit("print('room again')"))
    assert after["phase"] == "SUCCEEDED", after


@pytest.mark.root
def test_a_disk_without_any_room_still_tells_a_reason(small_machine: LocalProxy) -> None:
    filler = small_machine.data_dir / "filler"
    fill(filler)
    task_id = small_machine.submit("print('never')")
    task = small_machine.wait(task_id)
    assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("FAILED", ["disk.full"])
    filler.unlink()
    small_machine.wait_until_forgotten()
    assert small_machine.wait(small_machine.submit("print('room again')"))["phase"] == "SUCCEEDED"


WAITS = {"unreachable": 8.0, "suspect": 6.0}
"""The Proxy waits as long for room at the service as the service does for a silent Proxy."""


@pytest.fixture
def small_store(service: ServiceProcess) -> Iterator[Path]:
    """A store of the service's files of 1 MiB."""
    with small_disk(service.data_dir / "blobs", 1024) as path:
        yield path


@pytest.mark.parametrize("service", [WAITS], indirect=True)
@pytest.mark.root
def test_results_that_the_service_has_no_room_for_become_a_note_after_a_while(small_store: Path, machine: LocalProxy) -> None:
    task_id = machine.submit(f"import os; open('big.bin', 'wb').write(os.urandom({2 * MIB})); open('a.txt', 'w').write('x')")
    task = machine.wait(task_id)
    assert task["phase"] == "SUCCEEDED"
    (note,) = task["reasons"]
    assert note["code"] == "outputs.cut"
    assert {"path": "big.bin", "why": "disk.full"} in note["detail"]["files"]


@pytest.mark.parametrize("service", [WAITS | {"unreachable": 60.0}], indirect=True)
@pytest.mark.root
def test_results_arrive_whole_when_the_service_gets_room_in_time(small_store: Path, machine: LocalProxy) -> None:
    filler = small_store / "filler"
    filler.write_bytes(bytes(900 * 1024))
    task_id = machine.submit(f"import os; open('big.bin', 'wb').write(os.urandom({MIB // 2}))")
    deadline = time.monotonic() + 30
    while "disk_full" not in machine.log_path.read_text():
        assert time.monotonic() < deadline, machine.log_path.read_text()[-2000:]
        time.sleep(0.1)
    assert machine.task(task_id)["phase"] == "RUNNING", "its end waits for its files"
    filler.unlink()
    task = machine.wait(task_id)
    assert (task["phase"], task["reasons"]) == ("SUCCEEDED", [])
    (file,) = machine.api.get(f"/tasks/{task_id}/outputs").json()
    data = machine.api.get(f"/tasks/{task_id}/outputs/{file['sha256']}").content
    assert (len(data), hashlib.sha256(data).hexdigest()) == (MIB // 2, file["sha256"])


@pytest.mark.root
def test_logs_and_notebooks_on_a_full_disk_lose_no_byte_and_leave_nothing(tmp_path: Path) -> None:
    run_id, data = uuid4(), os.urandom(200 * 1024)
    with small_disk(tmp_path / "runs-store", 128) as disk:
        files = RunFiles(disk)
        notebook = files.write_notebook(run_id, b"{}")
        end = files.write_log(run_id, "output", 0, data)
        assert 0 < end < len(data)
        with pytest.raises(OSError, match="No space left"):
            files.write_log(run_id, "output", end, data[end:])
        with pytest.raises(OSError, match="No space left"):
            files.write_notebook(run_id, data)
        assert (files.read_notebook(run_id), notebook) == (b"{}", hashlib.sha256(b"{}").hexdigest()[:32])
        assert sorted(path.name for path in files.folder(run_id).iterdir()) == ["notebook.ipynb", "output.log"]
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert files.write_log(run_id, "output", end, data[end:]) == len(data)
        assert files.read_log(run_id, "output", 0, len(data)).data == data


def test_an_upload_that_was_given_up_is_swept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    old, fresh = (store.path(1, digit * 64).with_suffix(".part") for digit in "ab")
    for part in (old, fresh):
        part.parent.mkdir(parents=True)
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.sweep(86_400) == 1
    assert (old.exists(), fresh.exists()) == (False, True)
