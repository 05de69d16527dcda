"""Processes of the local driver: their start, their end, their limits and their survival of the Proxy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tessera_hub.cards import parse_simulated
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.outcome import shim_lives
from tessera_hub.proxy.errors import ProxyError
from tests.proxy.conftest import Drivers, LeaseMaker
from tests.proxy.sites import processes_of

SLEEPER = """
import pathlib, sys, time
pathlib.Path("started").write_text("yes")
time.sleep({seconds})
print("done")
"""


async def test_a_script_runs_and_its_output_and_files_come_back(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    lease, source = make_lease(
        "import pathlib; print('out', 6*7); pathlib.Path('made.txt').write_text('x')", files={"data/a": b"1"}
    )
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.exit_code, run.reason) == ("SUCCEEDED", 0, None)
    assert b"out 42" in await driver.logs(lease.run_id, "output", 0, 1 << 16)
    assert [o.path for o in (await driver.results(lease.run_id)).outputs] == ["made.txt"]
    assert [fact.action for fact in run.meter] == ["START", "STOP"]
    assert run.meter[0].spec == {"cpu": 100, "memory": 256}
    await driver.forget(lease.run_id)
    assert await driver.list_runs() == []
    assert not list((drivers.directory / "local" / "runs").iterdir())


async def test_a_notebook_runs_and_is_saved(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    cells = [{"cell_type": "code", "source": "print(1 + 1)", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    lease, source = make_lease(text, entry="dir/train.ipynb", resources={"memory_mib": 1024})
    await drivers.submit(lease, source)
    run = await drivers.wait(lease, seconds=60)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)
    assert run.progress is not None
    assert (run.progress.cells_done, run.progress.cells_total) == (1, 1)
    found = await driver.notebook(lease.run_id, None)
    assert found is not None
    assert json.loads(found[1])["cells"][0]["outputs"][0]["text"] == ["2\n"]
    assert await driver.notebook(lease.run_id, found[0]) is None


async def test_a_run_survives_its_proxy_and_is_adopted(drivers: Drivers, make_lease: LeaseMaker) -> None:
    await drivers.start()
    lease, source = make_lease(SLEEPER.format(seconds=1.5))
    await drivers.submit(lease, source)
    before = await drivers.wait(lease, "RUNNING")
    await drivers.start()
    after = await drivers.run(lease)
    assert (after.phase, after.uid, after.native_id, after.at) == ("RUNNING", before.uid, before.native_id, before.at)
    assert (await drivers.wait(lease)).phase == "SUCCEEDED"
    assert source.fetched == 1


async def test_a_start_that_was_interrupted_goes_on_and_happens_once(drivers: Drivers, make_lease: LeaseMaker) -> None:
    await drivers.start()
    lease, source = make_lease("print('once')")
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    source.before_claim = hang
    await drivers.submit(lease, source)
    await asyncio.wait_for(reached.wait(), 10)
    source.before_claim = None
    await drivers.start()
    assert (await drivers.wait(lease)).phase == "SUCCEEDED"
    assert len(set(source.claims)) == 1, "both attempts claim under the same name"


async def test_two_shims_for_one_run_start_it_once(drivers: Drivers, make_lease: LeaseMaker) -> None:
    from tessera_hub.proxy.drivers.launching import spawn_shim
    from tessera_hub.proxy.drivers.rundirectory import RunDirectory

    await drivers.start()
    lease, source = make_lease("import time; time.sleep(0.5); print('start')")
    await drivers.submit(lease, source)
    await drivers.wait(lease, "RUNNING")
    directory = RunDirectory.load(drivers.directory / "local" / "runs" / str(lease.run_id))
    assert directory is not None
    await asyncio.gather(*(spawn_shim(directory) for _ in range(5)))
    assert (await drivers.wait(lease)).phase == "SUCCEEDED"
    await asyncio.gather(*(spawn_shim(directory) for _ in range(2)))
    assert drivers.current is not None
    output = await drivers.current.logs(lease.run_id, "output", 0, 1 << 16)
    assert output.count(b"start") == 1


async def test_cancel_gives_the_grace(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    text = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
    lease, source = make_lease(text)
    await drivers.submit(lease, source)
    while b"ready" not in await driver.logs(lease.run_id, "output", 0, 1 << 16):
        await asyncio.sleep(0.02)
    await driver.cancel(lease.run_id, "cancel", 5)
    run = await drivers.wait(lease)
    assert run.phase == "CANCELLED"
    assert run.reason is not None
    assert b"saved" in await driver.logs(lease.run_id, "output", 0, 1 << 16)


async def test_cancel_before_the_start_runs_no_user_code(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    lease, source = make_lease("print('never')")
    never = asyncio.Event()

    async def hang() -> None:
        await never.wait()

    source.before_claim = hang
    await drivers.submit(lease, source)
    await drivers.wait(lease, "STARTING")
    await driver.cancel(lease.run_id, "cancel", 5)
    run = await drivers.wait(lease)
    assert (run.phase, run.meter) == ("CANCELLED", ())
    assert await driver.logs(lease.run_id, "output", 0, 100) == b""


@pytest.mark.parametrize("victim", ["shim", "runner"])
async def test_a_run_killed_behind_our_back_is_told_lost(drivers: Drivers, make_lease: LeaseMaker, victim: str) -> None:
    await drivers.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await drivers.submit(lease, source)
    run = await drivers.wait(lease, "RUNNING")
    assert run.native_id is not None
    shim = int(run.native_id.partition("@")[0])
    await asyncio.sleep(0.5)
    runner = int(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()[0])
    os.kill(shim if victim == "shim" else runner, signal.SIGKILL)
    ended = await drivers.wait(lease)
    assert ended.phase == "FAILED"
    assert ended.reason is not None
    assert ended.reason.code == "cluster.lost"
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]
    deadline = time.monotonic() + 5
    while processes_of(lease.run_id) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert processes_of(lease.run_id) == []


async def test_a_pid_that_was_given_again_is_not_adopted(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    lease, source = make_lease("print('short')")
    await drivers.submit(lease, source)
    await drivers.wait(lease)
    directory = drivers.directory / "local" / "runs" / str(lease.run_id)
    (directory / "shim.json").unlink()
    (directory / "run" / "exit.json").unlink()
    record = json.loads((directory / "shim.pid.json").read_text())
    (directory / "shim.pid.json").write_text(json.dumps(record | {"pid": os.getpid()}))
    driver = await drivers.start()
    run = (await driver.list_runs())[0]
    assert (run.phase, run.reason.code if run.reason else None) == ("FAILED", "cluster.lost")


async def test_a_directory_that_was_taken_away_is_not_reported(drivers: Drivers, make_lease: LeaseMaker) -> None:
    import shutil

    driver = await drivers.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await drivers.submit(lease, source)
    await drivers.wait(lease, "RUNNING")
    await asyncio.sleep(0.3)
    shutil.rmtree(drivers.directory / "local" / "runs" / str(lease.run_id))
    assert await driver.list_runs() == []
    await asyncio.sleep(0.2)
    assert processes_of(lease.run_id) == []


async def test_suspend_stops_the_clock_and_resume_goes_on(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    lease, source = make_lease("import time\nfor i in range(12):\n    print(i, flush=True)\n    time.sleep(0.1)")
    await drivers.submit(lease, source)
    while b"3" not in await driver.logs(lease.run_id, "output", 0, 1 << 16):
        await asyncio.sleep(0.02)
    await driver.suspend(lease.run_id)
    await drivers.wait(lease, "SUSPENDED")
    await asyncio.sleep(0.2)
    before = await driver.logs(lease.run_id, "output", 0, 1 << 16)
    await asyncio.sleep(0.5)
    assert await driver.logs(lease.run_id, "output", 0, 1 << 16) == before
    await driver.resume(lease.run_id)
    run = await drivers.wait(lease)
    assert run.phase == "SUCCEEDED"
    assert [fact.action for fact in run.meter] == ["START", "PAUSE", "RESUME", "STOP"]
    assert run.meter[1].spec == {"memory": 256}


async def test_no_variable_of_the_proxy_reaches_the_run(
    drivers: Drivers, make_lease: LeaseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_SECRET_OF_PROXY", "leak")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "leak")
    driver = await drivers.start()
    lease, source = make_lease("import os; print(sorted(os.environ)); print(os.environ['MINE'])", variables={"MINE": "42"})
    await drivers.submit(lease, source)
    await drivers.wait(lease)
    text = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert "42" in text
    assert "SECRET_OF_PROXY" not in text
    assert "JUPYTERHUB" not in text


@pytest.mark.root
async def test_each_person_has_an_own_uid_and_closed_directories(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    assert driver.accounts.single_person is None
    lease, source = make_lease(SLEEPER.format(seconds=5), principal_id=7)
    await drivers.submit(lease, source)
    await drivers.wait(lease, "RUNNING")
    other = drivers.directory / "local" / "runs" / str(lease.run_id)
    spy, spy_source = make_lease(
        f"""
import os
import resource
print("uid", os.getuid(), os.getgid(), os.getgroups())
print("processes", resource.getrlimit(resource.RLIMIT_NPROC))
for path in ("{other}/run", "{other}/run/work/main.py", "{other}/lease.json", "{other}/output.log"):
    try:
        os.listdir(path) if path.endswith("run") else open(path).read()
        print("READ", path)
    except PermissionError:
        print("closed")
""",
        principal_id=8,
    )
    await drivers.submit(spy, spy_source)
    assert (await drivers.wait(spy)).phase == "SUCCEEDED"
    text = (await driver.logs(spy.run_id, "output", 0, 1 << 16)).decode()
    assert "uid 200008 200008 []" in text
    assert "processes (4096, 4096)" in text
    assert "READ" not in text
    assert text.count("closed") == 4


@pytest.mark.root
async def test_a_link_to_the_proxys_files_is_not_given_back(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    secret = drivers.directory / "local" / "secret"
    secret.write_text("root only")
    secret.chmod(0o600)
    lease, source = make_lease(
        f"import os; os.symlink('{secret}', '../output/stolen'); os.symlink('{secret}', 'stolen2'); os.mkfifo('pipe')"
    )
    await drivers.submit(lease, source)
    assert (await drivers.wait(lease)).phase == "SUCCEEDED"
    assert (await driver.results(lease.run_id)).outputs == ()


async def test_a_second_person_is_refused_in_single_person_mode(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    driver.accounts.single_person = "for the test"
    first, first_source = make_lease(principal_id=1)
    second, second_source = make_lease(principal_id=2)
    await drivers.submit(first, first_source)
    await drivers.submit(second, second_source)
    assert (await drivers.wait(first)).phase == "SUCCEEDED"
    refused = await drivers.wait(second)
    assert refused.phase == "FAILED"
    assert refused.reason is not None
    assert (refused.reason.code, refused.reason.tier) == ("principal.single_person", 0)


@pytest.mark.root
async def test_an_interpreter_that_others_cannot_reach_means_single_person_mode(drivers: Drivers) -> None:
    closed = drivers.directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to("/usr/bin/python3")
    driver = await drivers.start(environments={"default": closed / "python"})
    assert driver.accounts.single_person is not None
    assert "closed/python" in driver.accounts.single_person


async def test_one_data_directory_has_one_proxy(drivers: Drivers) -> None:
    from tessera_hub.proxy.drivers.launching import LocalOptions
    from tessera_hub.proxy.drivers.local import LocalDriver

    await drivers.start()
    second = LocalDriver(LocalOptions(data_dir=drivers.directory / "local"))
    with pytest.raises(ProxyError) as caught:
        await second.start(lambda lease: pytest.fail("never asked"))
    assert caught.value.code == "proxy.data_dir_in_use"


async def test_a_refused_claim_starts_nothing(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start()
    lease, source = make_lease("print('never')")
    source.refuse = DriverError("claimed.elsewhere", "another was first")
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "claimed.elsewhere")
    assert await driver.logs(lease.run_id, "output", 0, 100) == b""
    assert not (drivers.directory / "local" / "runs" / str(lease.run_id) / "run").exists()


async def test_memory_over_the_limit_ends_the_run_with_a_reason(drivers: Drivers, make_lease: LeaseMaker) -> None:
    await drivers.start()
    lease, source = make_lease("x = bytearray(900 << 20); import time; time.sleep(30)", resources={"memory_mib": 128})
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "limit.memory")


async def test_simulated_cards_are_accounted_per_card_and_after_a_restart(drivers: Drivers, make_lease: LeaseMaker) -> None:
    simulated = tuple(parse_simulated("2xA100-80G,1xL4-24G"))
    driver = await drivers.start(simulated=simulated)
    half = {"cards": {"model": "A100-80G", "mode": "vcuda", "centi_cards": 50}}
    leases = []
    for _ in range(2):
        lease, source = make_lease(SLEEPER.format(seconds=30), resources=half, card_class="A100-80G")
        await drivers.submit(lease, source)
        await drivers.wait(lease, "RUNNING")
        leases.append(lease)
    driver = await drivers.start(simulated=simulated)
    pools = {pool.card_class: pool for pool in (await driver.inventory()).pools}
    assert pools["A100-80G"].shapes[0].cards == [(0, 0), (100, 81920)], "two halves fill one card"
    assert pools["L4-24G"].free["cards/L4-24G"] == 100
    assert (await drivers.run(leases[0])).meter[0].spec["card_memory/A100-80G"] == 40960
    two, source = make_lease(resources={"cards": {"model": "A100-80G", "centi_cards": 200}}, card_class="A100-80G")
    await drivers.submit(two, source)
    back = await drivers.wait(two)
    assert (back.phase, back.reason.code if back.reason else "") == ("QUEUED", "capacity.no_free_cards")
    one, source = make_lease(
        "import os; print(os.environ['TESSERA_CARDS'], os.environ['TESSERA_CARD_CLASS'])",
        resources={"cards": {"centi_cards": 100}},
        card_class="A100-80G",
    )
    await drivers.submit(one, source)
    assert (await drivers.wait(one)).phase == "SUCCEEDED"
    assert b"1:100 A100-80G" in await driver.logs(one.run_id, "output", 0, 1000)


async def test_endless_output_is_bounded(drivers: Drivers, make_lease: LeaseMaker) -> None:
    driver = await drivers.start(output_bytes=100_000)
    lease, source = make_lease("import os\nfor _ in range(3000): os.write(1, b'x' * 1000 + b'\\n')")
    await drivers.submit(lease, source)
    assert (await drivers.wait(lease)).phase == "SUCCEEDED"
    kept = await driver.logs(lease.run_id, "output", 0, 1 << 24)
    assert 100_000 <= len(kept) < 110_000
    # The runner's own record ends the run; its shim goes a moment later.
    async with asyncio.timeout(10):
        while shim_lives(driver._entries[lease.run_id].run):
            await asyncio.sleep(0.05)
