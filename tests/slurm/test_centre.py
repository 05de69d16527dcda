"""A whole centre: the real service, a real Proxy process and a real Slurm, as a person sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proxy.conformance import notebook
from tests.service import ServiceProcess, upload
from tests.slurm.cluster import SlurmCluster
from tests.slurm.proxy import SlurmProxy

pytestmark = pytest.mark.root
SLEEPER = "import time\nprint('began', flush=True)\ntime.sleep({seconds})\nprint('done', flush=True)\n"


@pytest.fixture
def centre(service: ServiceProcess, slurm: SlurmCluster, ada: httpx.Client) -> Iterator[SlurmProxy]:
    """A started Proxy; tasks are ada's."""
    directory = Path(tempfile.mkdtemp(prefix="centre-", dir=slurm.shared))
    directory.chmod(0o711)
    found = SlurmProxy(service, slurm, directory, ada)
    found.start()
    found.wait_for_session()
    yield found
    if found.process is not None:
        found.stop()
    slurm.command("scancel", "--quiet", "-u", "tessera-ada")
    deadline = time.monotonic() + 20
    while slurm.command("squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.1)
    shutil.rmtree(directory)


def bill_seconds(centre: SlurmProxy, task_id: str) -> dict[str, int]:
    lines = centre.api.get(f"/tasks/{task_id}/bill").json()["lines"]
    return {line["dimension"]: line["unit_seconds"] for line in lines}


def native(centre: SlurmProxy, task_id: str) -> str:
    """Return the number of the task's latest job."""
    found: dict[str, Any] = centre.api.get(f"/tasks/{task_id}").json()
    return str(found["runs"][-1]["native_id"])


def submit_notebook(centre: SlurmProxy, text: str, **fields: Any) -> str:
    digest, size = upload(centre.api, text.encode())
    spec = {
        "name": "a notebook",
        "kind": "notebook",
        "entry": "dir/train.ipynb",
        "inputs": {"files": [{"path": "dir/train.ipynb", "sha256": digest, "size": size}]},
        "roles": [{"resources": {"cpu_millicores": 1000, "memory_mib": 1024}}],
        **fields,
    }
    answer = centre.api.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_a_notebook_comes_back_executed_with_log_and_bill(centre: SlurmProxy) -> None:
    cards = {"cpu_millicores": 1000, "memory_mib": 1024, "cards": {"model": "A100-80G", "centi_cards": 100}}
    source = (
        "import os, time\\nprint(os.environ['CUDA_VISIBLE_DEVICES'], 6 * 7)\\nopen('made.txt', 'w').write('x')\\ntime.sleep(2)"
    )
    task_id = submit_notebook(centre, notebook(source.replace("\\n", "\n")), roles=[{"resources": cards}])
    task = centre.wait(task_id)
    assert task["phase"] == "SUCCEEDED", task
    assert task["cluster"] == "local"
    cells = json.loads(centre.api.get(f"/tasks/{task_id}/notebook").content)["cells"]
    assert cells[0]["outputs"][0]["text"] in (["0 42\n"], "0 42\n")
    assert "made.txt" in {file["path"].rpartition("/")[2] for file in centre.api.get(f"/tasks/{task_id}/outputs").json()}
    seconds = bill_seconds(centre, task_id)
    job = centre.cluster.command("scontrol", "show", "job", native(centre, task_id), "-o")
    start, end = (_epoch(centre, job, name) for name in ("StartTime", "EndTime"))
    assert seconds["cards/A100-80G"] == 100 * (end - start)
    assert seconds["cpu"] == 1000 * (end - start)
    centre.wait_until_forgotten()


def _epoch(centre: SlurmProxy, job: str, name: str) -> int:
    value = next(word for word in job.split() if word.startswith(f"{name}=")).partition("=")[2]
    return int(subprocess.run(["date", "-d", value, "+%s"], check=True, capture_output=True, text=True).stdout)


def test_a_script_waits_with_slurms_reason_and_runs(centre: SlurmProxy) -> None:
    task_id = centre.submit(SLEEPER.format(seconds=1))
    centre.wait_for_output(task_id, "began")
    task = centre.wait(task_id)
    assert (task["phase"], "done" in centre.output(task_id)) == ("SUCCEEDED", True)
    assert centre.api.get("/capacity").json()[0]["kind"] == "slurm"


def test_a_restart_of_slurmctld_in_the_middle_of_a_job(centre: SlurmProxy) -> None:
    task_id = centre.submit(SLEEPER.format(seconds=6))
    centre.wait_for_output(task_id, "began")
    centre.cluster.stop_controller()
    late = centre.submit("print('late')")
    time.sleep(2)
    assert centre.task(task_id)["phase"] == "RUNNING"
    centre.cluster.start_controller()
    task = centre.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert centre.output(task_id).count("began") == 1
    assert centre.wait(late)["phase"] == "SUCCEEDED"


def test_scancel_behind_our_back_is_told_as_what_it_is(centre: SlurmProxy) -> None:
    task_id = centre.submit(SLEEPER.format(seconds=60))
    centre.wait_for_output(task_id, "began")
    centre.wait(task_id, "RUNNING")
    centre.cluster.command("scancel", native(centre, task_id), user="tessera-ada")
    task = centre.wait(task_id)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "cluster.cancelled")
    assert "cancelled in the cluster" in task["reasons"][0]["message"]


def test_cancel_by_the_person(centre: SlurmProxy) -> None:
    task_id = centre.submit(SLEEPER.format(seconds=60))
    centre.wait_for_output(task_id, "began")
    centre.api.post(f"/tasks/{task_id}/cancel").raise_for_status()
    assert centre.wait(task_id)["phase"] == "CANCELLED"
    deadline = time.monotonic() + 20
    while centre.cluster.command("squeue", "-h"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_proxy_that_is_killed_in_the_middle_of_a_run(centre: SlurmProxy) -> None:
    task_id = centre.submit(SLEEPER.format(seconds=4))
    centre.wait_for_output(task_id, "began")
    centre.kill()
    time.sleep(1)
    centre.start()
    task = centre.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    output = centre.output(task_id)
    assert (output.count("began"), output.count("done")) == (1, 1)
    assert 4 <= bill_seconds(centre, task_id)["memory"] / 128 <= 8


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_proxy_that_is_killed_while_it_submits_starts_user_code_once(centre: SlurmProxy, where: str) -> None:
    centre.door.stop_at(where)
    task_id = centre.submit(SLEEPER.format(seconds=3))
    centre.door.wait_until_stopped()
    centre.kill()
    centre.start()
    centre.wait_for_session()
    if where == "before":
        # The second Proxy has submitted meanwhile; now the first one's sbatch goes on as well.
        centre.wait_for_output(task_id, "began")
    centre.door.go_on(where)
    task = centre.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert centre.output(task_id).count("began") == 1
    assert 3 <= bill_seconds(centre, task_id)["memory"] / 128 <= 6
    deadline = time.monotonic() + 20
    while centre.cluster.command("squeue", "-h"):
        assert time.monotonic() < deadline, "the second job goes by itself or is taken back"
        time.sleep(0.1)


def test_check_shows_what_the_centre_has(centre: SlurmProxy) -> None:
    centre.stop()
    command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", centre.service.url]
    command += ["--bootstrap-token-file", str(centre.directory / "token"), "--data-dir", str(centre.data_dir), *centre.options]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=True, timeout=60)
    assert "Driver slurm: cards, fraction, gang, logs, preempt, suspend" in done.stdout
    assert "Pool gpu, free/total: cpu 8000/8000, memory 8192/8192, cards/A100-80G 400/400" in done.stdout


def test_settings_that_are_wrong_are_named(centre: SlurmProxy) -> None:
    wrong = centre.directory / "wrong.toml"
    wrong.write_text('sudo = "maybe"\nshared_account = true\n')
    command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", centre.service.url]
    command += ["--bootstrap-token-file", str(centre.directory / "token"), "--data-dir", str(centre.directory / "other")]
    command += ["--driver", "slurm", "--settings", str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "wrong.toml: sudo: Input should be a valid boolean" in done.stderr
