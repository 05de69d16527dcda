"""What comes back of a run: files, notes on what was not kept, samples of use; and a Proxy that is stopped in its middle."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.carried import _take_in
from tessera_hub.proxy.drivers.slurm.results import collect
from tests.proxy.conftest import Drivers, LeaseMaker
from tests.proxy.machine import LocalProxy

TOO_LARGE = 5 << 20
"""Above the 4 MiB that the service of the tests takes as one file."""


def test_a_file_above_the_limit_is_left_out_with_a_note_on_the_run(machine: LocalProxy) -> None:
    task_id = machine.submit(f"open('big.bin', 'wb').write(bytes({TOO_LARGE})); open('small.txt', 'w').write('kept')")
    task = machine.wait(task_id)
    assert task["phase"] == "SUCCEEDED"
    assert [o["path"] for o in machine.api.get(f"/tasks/{task_id}/outputs").json()] == ["small.txt"]
    (note,) = task["reasons"]
    assert (note["code"], note["detail"]["count"]) == ("outputs.cut", 1)
    assert note["detail"]["files"] == [{"path": "big.bin", "why": "blob.too_large"}]
    assert note["message"] == "Some result files were not kept."
    chinese = machine.api.get(f"/tasks/{task_id}", headers={"Accept-Language": "zh-CN"}).json()
    assert chinese["reasons"][0]["message"] == "部分结果文件未被保存。"
    events = machine.api.get(f"/tasks/{task_id}/events").json()
    assert [e["reason"]["code"] for e in events if e["kind"] == "note"] == ["outputs.cut"]
    machine.wait_until_forgotten()


def test_a_note_stays_beside_the_reason_of_a_failure(machine: LocalProxy) -> None:
    task_id = machine.submit(f"import sys; open('big.bin', 'wb').write(bytes({TOO_LARGE})); sys.exit(3)")
    task = machine.wait(task_id)
    assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("FAILED", ["script.exit", "outputs.cut"])


async def test_output_above_the_limit_is_a_note(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start(output_bytes=100_000)
    lease, source = make_lease("for _ in range(3000): print('x' * 100)")
    await drivers.submit(lease, source)
    await drivers.wait(lease)
    (note,) = (await driver.results(lease.run_id)).notes
    assert (note.code, note.detail["limit_bytes"]) == ("output.truncated", 100_000)


async def test_names_and_numbers_that_no_machine_could_take_are_left_out_by_name(
    drivers: Drivers, make_lease: LeaseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera_hub.proxy.drivers.results.OUTPUT_FILES_LIMIT", 3)
    driver = await drivers.start()
    lease, source = make_lease("[open(f'{n}.txt', 'w') for n in range(5)]; open(b'\\xff.txt', 'w')")
    await drivers.submit(lease, source)
    await drivers.wait(lease)
    results = await driver.results(lease.run_id)
    assert [o.path for o in results.outputs] == ["0.txt", "1.txt", "2.txt"]
    assert sorted(results.left_out) == ["3.txt", "4.txt", "?.txt"]


def test_names_that_no_other_machine_takes_are_told_of_all_parts_behind_ssh(tmp_path: Path, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("x", kind="training", roles=[{"replicas": 2}])
    run = RunDirectory.create(tmp_path, lease)
    (run.run / "ranks" / "1").mkdir(parents=True)
    names = ("output/a\n", "work/b\n", "ranks/1/output/c\nd", "ranks/1/output/e", "ranks/1/x\n")
    frames = [json.dumps({"path": name, "offset": 0, "mtime": 1, "size": 1}).encode() + b"\nx" for name in names]
    assert _take_in(run, b"".join(frames) + b'{"done": true, "size": 0}\n', {})
    results = collect(run)
    assert sorted(results.left_out) == ["a\n", "b\n", "parts/1/c\nd"]
    assert [output.path for output in results.outputs] == ["parts/1/e"]


@pytest.mark.parametrize("service", [{"usage_interval": 0.5}], indirect=True)
def test_what_a_run_uses_is_sampled(machine: LocalProxy) -> None:
    """Two processes of the run, one busy, the other holding memory."""
    busy = "import time; end = time.time() + 6\nwhile time.time() < end: pass"
    task_id = machine.submit(
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {busy!r}])\nx = bytearray(80 << 20)\n"
        "x[::4096] = b'1' * len(x[::4096])\nprint('ready', flush=True)\nchild.wait()",
        roles=[{"resources": {"cpu_millicores": 1000, "memory_mib": 512}}],
    )
    machine.wait_for_output(task_id, "ready")
    run_id = machine.task(task_id)["run_id"]
    machine.wait(task_id)
    samples = machine.api.get(f"/tasks/{task_id}/usage").json()
    assert len(samples) >= 4
    assert [s["at"] for s in samples] == sorted({s["at"] for s in samples})
    assert {s["run_id"] for s in samples} == {run_id}
    assert 100 < max(s["cpu_millicores"] for s in samples) < 2500, samples
    assert 80 < max(s["memory_mib"] for s in samples) < 400, samples


def test_a_stopped_proxy_leaves_its_runs_running_and_says_so(machine: LocalProxy) -> None:
    task_id = machine.submit("import time\nprint('begun', flush=True)\ntime.sleep(4)\nopen('made.txt', 'w').write('x')")
    machine.wait_for_output(task_id, "begun")
    assert "The Proxy has stopped. Runs that go on without it: 1." in machine.stop()
    time.sleep(0.5)
    machine.start()
    task = machine.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert [o["path"] for o in machine.api.get(f"/tasks/{task_id}/outputs").json()] == ["made.txt"]
    assert machine.output(task_id).count("begun") == 1
