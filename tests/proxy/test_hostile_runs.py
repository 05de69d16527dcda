"""Runs whose code tries to harm the Proxy, or to go on unseen and unpaid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal

import pytest

from tessera_hub.proxy.drivers.foreign import DEPTH_LIMIT, read_foreign
from tessera_hub.proxy.shim import Cgroup, boot_id, control_groups, cpu_weight, is_alive, stat_of
from tests.proxy.conftest import Drivers, LeaseMaker
from tests.proxy.machine import LocalProxy

LIAR = """
import json, os, pathlib
token = json.loads(pathlib.Path("../run.json").read_text())["lease_token"]
with open("../progress.jsonl", "a") as file:
    file.write('{"event": "note", "code": "output.truncated", "detail": {"a": "\\\\ud800", "b": "\\\\u0000", "c": NaN}}\\n')
    file.write('{"event": "cell", "index": 1' + "0" * 40 + ', "of": -5, "state": "done"}\\n')
detail = '{"a": "\\\\ud800", "b": Infinity, "c": ' + "[" * 300 + "]" * 300 + "}"
reason = '{"code": "script.exit", "message": "\\\\udfff", "detail": ' + detail + "}"
pathlib.Path("../exit.json").write_text(
    '{"lease_token": "' + token + '", "state": "failed", "exit_code": 1' + "0" * 40 + ', "reason": ' + reason + "}"
)
os.kill(os.getppid(), 9)
"""

BUSY = """
import os, pathlib, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pathlib.Path("draft").write_text(str(time.process_time()))
    os.replace("draft", "used")
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
"""

DAEMON = """
import os, pathlib, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    pathlib.Path("daemon").write_text(str(os.getpid()))
    os.execve("/bin/sleep", ["sleep", "300"], {})
time.sleep(300)
"""


def test_a_run_that_tells_what_is_no_text_and_no_number_stops_no_other(machine: LocalProxy) -> None:
    liar = machine.submit(LIAR)
    task = machine.wait(liar)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "script.exit")
    assert {"a": "?", "b": None}.items() <= task["reasons"][0]["detail"].items()
    assert machine.wait(machine.submit("print('fine')"))["phase"] == "SUCCEEDED"


@pytest.mark.parametrize(("told", "taken"), [("3", 3), ("-9", -9), ("4294967296", None), ("true", None), ("1e3", None)])
async def test_an_exit_code_that_no_process_has_is_not_taken(
    drivers: Drivers, make_lease: LeaseMaker, told: str, taken: int | None
) -> None:
    await drivers.start()
    lease, source = make_lease(LIAR.replace("1' + \"0\" * 40 + '", told))
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason and run.reason.code, run.exit_code) == ("FAILED", "script.exit", taken)


@pytest.mark.parametrize("text", ["[]", "1", "", "{", "[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000])
def test_what_is_no_object_is_nothing(text: str) -> None:
    assert read_foreign(text.encode()) in (None, {})


def test_what_was_read_can_be_sent_and_is_bounded() -> None:
    deep: object = "end"
    for _level in range(100):
        deep = {"in": deep}
    told = {"deep": deep, "list": [1] * 10_000, "long": "x" * 100_000, "half": "\ud800", "nul\0": 1, "big": 1 << 70, "fine": 2.5}
    found = read_foreign(json.dumps(told).encode())
    assert found is not None
    sent = json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    assert len(sent) < 6000
    assert sent.count(b'"in"') == DEPTH_LIMIT - 1
    assert (found["half"], found["nul\ufffd"], found["big"], found["fine"]) == ("?", 1, None, 2.5)


async def test_nothing_outlives_a_killed_shim_even_with_an_empty_environment(drivers: Drivers, make_lease: LeaseMaker) -> None:
    probe = Cgroup("probe-of-the-tests", 64)
    groups = probe.path is not None
    probe.remove()
    driver = await drivers.start()
    # Without control groups only the environment tells whose a process is.
    lease, source = make_lease(DAEMON if groups else DAEMON.replace("{})", "dict(os.environ))"))
    await drivers.submit(lease, source)
    await drivers.wait(lease, "RUNNING")
    noted = drivers.directory / "local" / "runs" / str(lease.run_id) / "run" / "work" / "daemon"
    async with asyncio.timeout(20):
        while not noted.exists() or not noted.read_text():
            await asyncio.sleep(0.05)
    pid = int(noted.read_text())
    began = stat_of(pid)
    assert began is not None
    native = (await drivers.run(lease)).native_id
    assert native is not None
    try:
        os.kill(int(native.partition("@")[0]), signal.SIGKILL)
        run = await drivers.wait(lease)
        assert (run.phase, run.reason and run.reason.code) == ("FAILED", "cluster.lost")
        assert [fact.action for fact in run.meter] == ["START", "STOP"]
        assert not is_alive(pid, began[2], boot_id())
        assert not any(group.exists() for group in control_groups(str(lease.run_id)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await driver.forget(lease.run_id)


async def test_processors_are_shared_by_what_was_asked_for(drivers: Drivers, make_lease: LeaseMaker) -> None:
    probe = Cgroup("probe-of-the-tests", None, 1000)
    groups = probe.cpu is not None
    probe.remove()
    await drivers.start()
    notes = []
    for millicores in (200, 1000):
        lease, source = make_lease(BUSY, resources={"cpu_millicores": millicores})
        await drivers.submit(lease, source)
        await drivers.wait(lease, "RUNNING")
        notes.append(drivers.directory / "local" / "runs" / str(lease.run_id) / "run" / "work" / "used")
    async with asyncio.timeout(60):
        while not all(note.exists() for note in notes):
            await asyncio.sleep(0.05)
        before = [float(note.read_text()) for note in notes]
        used = [0.0, 0.0]
        while sum(used) < 3:
            await asyncio.sleep(0.1)
            used = [float(note.read_text()) - begin for note, begin in zip(notes, before, strict=True)]
    # Both want the same processor; without control groups the kernel knows nothing of what was asked for.
    assert used[1] / used[0] > 3 if groups else used[1] > 0, used


def test_weights_are_those_of_the_kernel() -> None:
    assert [cpu_weight("cpu.shares", millicores) for millicores in (0, 1, 100, 1000, 10**9)] == [
        "2",
        "2",
        "102",
        "1024",
        "262144",
    ]
    assert [cpu_weight("cpu.weight", millicores) for millicores in (0, 1000, 10**9)] == ["1", "39", "10000"]
