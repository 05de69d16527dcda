"""What every driver must do, whatever is behind it. One suite, run for each site of ``test_conformance.py``.

A driver of your own: subclass :class:`tests.proxy.sites.Site`, name it in ``test_conformance.py``, and
``make test ONLY=conformance`` says how it stands.
"""

from __future__ import annotations

import asyncio
import json
import time
from uuid import uuid4

import pytest

from tessera_hub.proxy.drivers.base import DriverError
from tests.proxy.conftest import LeaseMaker
from tests.proxy.escapes import Escapes
from tests.proxy.sites import Site, processes_of

SLEEPER = "import time\nprint('began', flush=True)\ntime.sleep({seconds})\nprint('done', flush=True)\n"
OBEDIENT = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("began", flush=True)
time.sleep(60)
"""


class Conformance(Escapes):
    """The suite."""

    # --- runs and results -----------------------------------------------------------------------------------------

    async def test_a_script_runs_and_gives_back_files_and_output(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(
            "import pathlib\nprint('out', 6 * 7)\npathlib.Path('made.txt').write_text('x')", files={"data/a": b"1"}
        )
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.exit_code, run.reason) == ("SUCCEEDED", 0, None)
        assert b"out 42" in await driver.logs(lease.run_id, "output", 0, 1 << 16)
        results = await driver.results(lease.run_id)
        assert [(output.path, output.size) for output in results.outputs] == [("made.txt", 1)]
        assert results.left_out == ()

    async def test_a_notebook_comes_back_executed(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(notebook("print(1 + 1)"), entry="dir/train.ipynb", resources={"memory_mib": 1024})
        await site.submit(lease, source)
        run = await site.wait(lease, seconds=90)
        assert (run.phase, run.reason) == ("SUCCEEDED", None)
        assert run.progress is not None
        assert (run.progress.cells_done, run.progress.cells_total) == (1, 1)
        found = await driver.notebook(lease.run_id, None)
        assert found is not None
        assert json.loads(found[1])["cells"][0]["outputs"][0]["text"] == ["2\n"]
        assert await driver.notebook(lease.run_id, found[0]) is None

    async def test_a_failing_script_says_how_it_failed(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease("import sys; sys.exit(3)")
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.exit_code) == ("FAILED", 3)
        assert run.reason is not None
        assert run.reason.code == "script.exit"

    async def test_a_time_limit_ends_the_run(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=60), lifecycle={"max_run_seconds": 1, "grace_seconds": 1})
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "limit.time")

    async def test_logs_are_addressed_by_offset(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease("for i in range(1000):\n    print(f'{i:04d}')")
        await site.submit(lease, source)
        await site.wait(lease)
        whole = await driver.logs(lease.run_id, "output", 0, 1 << 20)
        pieces, offset = b"", 0
        while piece := await driver.logs(lease.run_id, "output", offset, 777):
            pieces, offset = pieces + piece, offset + len(piece)
        assert pieces == whole
        assert whole.count(b"\n") >= 1000
        assert await driver.logs(lease.run_id, "output", len(whole) + 10, 100) == b""
        assert b"finished" in await driver.logs(lease.run_id, "progress", 0, 1 << 20)

    # --- repeats --------------------------------------------------------------------------------------------------

    async def test_a_repeated_submit_changes_nothing(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease("print('began')\nimport time; time.sleep(1)")
        for _ in range(3):
            await site.submit(lease, source)
        await site.wait(lease, "RUNNING")
        await site.submit(lease, source)
        assert (await site.wait(lease)).phase == "SUCCEEDED"
        await site.submit(lease, source)
        assert [run.run_id for run in await driver.list_runs()] == [lease.run_id]
        assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1
        assert len(set(source.claims)) == 1

    async def test_unknown_runs_are_no_error(self, site: Site) -> None:
        driver = await site.start()
        unknown = uuid4()
        await driver.cancel(unknown, "cancel", 5)
        await driver.suspend(unknown)
        await driver.resume(unknown)
        await driver.forget(unknown)
        assert await driver.logs(unknown, "output", 0, 10) == b""
        assert await driver.notebook(unknown, None) is None
        results = await driver.results(unknown)
        assert (results.outputs, results.checkpoint) == ((), ())
        assert await driver.list_runs() == []

    async def test_a_refused_claim_starts_nothing(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease("print('never')")
        source.refuse = DriverError("claimed.elsewhere", "another was first")
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "claimed.elsewhere", ())
        assert await driver.logs(lease.run_id, "output", 0, 100) == b""

    # --- cancel ---------------------------------------------------------------------------------------------------

    async def test_cancel_before_the_start_runs_no_user_code(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease("print('never')")
        never = asyncio.Event()

        async def hang() -> None:
            await never.wait()

        source.before_claim = hang
        await site.submit(lease, source)
        await site.wait(lease, "STARTING")
        await driver.cancel(lease.run_id, "cancel", 5)
        run = await site.wait(lease)
        assert (run.phase, run.meter, run.reason.code if run.reason else "") == ("CANCELLED", (), "policy.cancelled")
        assert await driver.logs(lease.run_id, "output", 0, 100) == b""

    async def test_cancel_gives_the_grace_and_may_be_repeated(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(OBEDIENT)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.wait(lease, "RUNNING")
        for _ in range(3):
            await driver.cancel(lease.run_id, "cancel", 5)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("CANCELLED", "policy.cancelled")
        assert b"saved" in await driver.logs(lease.run_id, "output", 0, 1 << 16)
        assert [fact.action for fact in run.meter] == ["START", "STOP"]

    async def test_cancel_without_grace_ends_what_does_not_listen(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPER.format(seconds=60)}")
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await driver.cancel(lease.run_id, "cancel", 0)
        assert (await site.wait(lease)).phase == "CANCELLED"
        await site_is_quiet(lease.run_id)

    async def test_cancel_after_the_end_changes_nothing(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease("print('quick')")
        await site.submit(lease, source)
        before = await site.wait(lease)
        for why in ("cancel", "preempt", "stale"):
            await driver.cancel(lease.run_id, why, 0)  # type: ignore[arg-type]
        assert await site.run(lease) == before
        assert before.phase == "SUCCEEDED"

    async def test_preemption_keeps_the_checkpoint(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        text = OBEDIENT.replace(
            'print("saved", flush=True)',
            'open(__import__("os").environ["TESSERA_CHECKPOINT_DIR"] + "/state", "w").write("7")',
        )
        lease, source = make_lease(text)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await driver.cancel(lease.run_id, "preempt", 5)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("PREEMPTED", "policy.preempted")
        assert [file.path for file in (await driver.results(lease.run_id)).checkpoint] == ["state"]

    # --- adoption -------------------------------------------------------------------------------------------------

    async def test_a_start_that_was_interrupted_at_the_claim_happens_once(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease("print('once')")
        reached, never = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            reached.set()
            await never.wait()

        source.before_claim = hang
        await site.submit(lease, source)
        await asyncio.wait_for(reached.wait(), 10)
        source.before_claim = None
        driver = await site.start()
        assert (await site.wait(lease)).phase == "SUCCEEDED"
        assert len(set(source.claims)) == 1, "both attempts claim under the same name"
        assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"once") == 1

    @pytest.mark.parametrize("moment", [0.0, 0.02, 0.1, 0.3, 0.8])
    async def test_a_proxy_that_dies_while_starting_starts_once(self, site: Site, make_lease: LeaseMaker, moment: float) -> None:
        await site.start()
        lease, source = make_lease("import time\nprint('began', flush=True)\ntime.sleep(0.5)")
        await site.submit(lease, source)
        await asyncio.sleep(moment)
        driver = await site.start()
        run = await site.wait(lease)
        assert (run.phase, run.reason) == ("SUCCEEDED", None)
        assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1
        assert len(set(source.claims)) == 1

    async def test_a_running_run_is_adopted_as_it_is(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=2))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        await site.start()
        after = await site.run(lease)
        assert after is not None
        assert (after.phase, after.uid, after.native_id, after.at) == ("RUNNING", before.uid, before.native_id, before.at)
        assert after.meter == before.meter
        assert (await site.wait(lease)).phase == "SUCCEEDED"
        assert source.fetched == 1

    async def test_an_end_that_nobody_saw_is_told_after_the_engine_forgot_it(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=1))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.abandon(driver)
        site.current = None
        await asyncio.sleep(2.5)
        await site.purge()
        driver = await site.start()
        run = await site.wait(lease)
        assert (run.phase, run.exit_code, run.reason) == ("SUCCEEDED", 0, None)
        assert [fact.action for fact in run.meter] == ["START", "STOP"]
        assert 1 <= run.meter[1].effective_at - run.meter[0].effective_at <= 5
        assert b"done" in await driver.logs(lease.run_id, "output", 0, 1 << 16)

    async def test_a_told_end_stays_the_same_after_the_engine_forgot_it(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease("print('quick')")
        await site.submit(lease, source)
        before = await site.wait(lease)
        await site.purge()
        await site.start()
        await asyncio.sleep(1.0)
        assert await site.run(lease) == before

    # --- behind our back ------------------------------------------------------------------------------------------

    async def test_a_run_that_the_engine_ended_is_told_lost_or_cancelled(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=60))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.kill(await site.wait(lease, "RUNNING"))
        ended = await site.wait(lease)
        assert ended.phase == "FAILED"
        assert ended.reason is not None
        assert ended.reason.code in ("cluster.lost", "cluster.cancelled")
        assert [fact.action for fact in ended.meter] == ["START", "STOP"]
        await site_is_quiet(lease.run_id)

    # --- suspend --------------------------------------------------------------------------------------------------

    async def test_suspend_stops_and_resume_goes_on(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        assert "suspend" in driver.capabilities, "a site whose driver cannot suspend leaves this test out by name"
        lease, source = make_lease("import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)")
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"3\n")
        await site.wait(lease, "RUNNING")
        await driver.suspend(lease.run_id)
        await driver.suspend(lease.run_id)
        await site.wait(lease, "SUSPENDED")
        await asyncio.sleep(0.5)
        before = await driver.logs(lease.run_id, "output", 0, 1 << 16)
        await asyncio.sleep(1.5)
        assert await driver.logs(lease.run_id, "output", 0, 1 << 16) == before
        await driver.resume(lease.run_id)
        await site.wait(lease, "RUNNING")
        run = await site.wait(lease)
        assert run.phase == "SUCCEEDED"
        assert [fact.action for fact in run.meter] == ["START", "PAUSE", "RESUME", "STOP"]
        assert run.meter[1].spec == {"memory": 256}

    # --- metering -------------------------------------------------------------------------------------------------

    async def test_metering_facts_are_complete_and_stay_the_same(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=2))
        asked = int(time.time())
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        running = await site.wait(lease, "RUNNING")
        assert [fact.action for fact in running.meter] == ["START"]
        run = await site.wait(lease)
        assert run.meter[: len(running.meter)] == running.meter
        start, stop = run.meter
        assert start.spec == {"cpu": 100, "memory": 256}
        assert (stop.action, stop.spec) == ("STOP", {})
        assert asked - site.clock_slack <= start.effective_at <= stop.effective_at <= time.time() + site.clock_slack
        assert 1 <= stop.effective_at - start.effective_at <= 6
        await site.start()
        again = await site.run(lease)
        assert again is not None
        assert (again.uid, again.meter) == (run.uid, run.meter)

    async def test_two_attempts_are_two_subjects(self, site: Site, make_lease: LeaseMaker) -> None:
        await site.start()
        uids = set()
        for _ in range(2):
            lease, source = make_lease("print(1)")
            await site.submit(lease, source)
            uids.add((await site.wait(lease)).uid)
        assert len(uids) == 2

    # --- forget ---------------------------------------------------------------------------------------------------

    async def test_forget_leaves_nothing_and_spares_what_runs(self, site: Site, make_lease: LeaseMaker) -> None:
        driver = await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=1))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await driver.forget(lease.run_id)
        assert (await site.wait(lease)).phase == "SUCCEEDED", "a run that goes on is not forgotten"
        await driver.forget(lease.run_id)
        await driver.forget(lease.run_id)
        assert await driver.list_runs() == []
        driver = await site.start()
        assert await driver.list_runs() == []
        assert await driver.logs(lease.run_id, "output", 0, 10) == b""

    # --- escapes --------------------------------------------------------------------------------------------------

    async def test_no_variable_of_the_proxy_reaches_the_run(
        self, site: Site, make_lease: LeaseMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TESSERA_SECRET_OF_PROXY", "leak")
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "leak")
        driver = await site.start()
        lease, source = make_lease("import os; print(sorted(os.environ)); print(os.environ['MINE'])", variables={"MINE": "42"})
        await site.submit(lease, source)
        await site.wait(lease)
        text = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
        assert "42" in text
        assert "SECRET_OF_PROXY" not in text
        assert "JUPYTERHUB" not in text

    # --- inventory ------------------------------------------------------------------------------------------------

    async def test_the_inventory_is_consistent_and_names_the_environment(self, site: Site) -> None:
        driver = await site.start()
        inventory = await driver.inventory()
        assert "default" in inventory.environments
        assert inventory.pools
        for pool in inventory.pools:
            assert pool.total.keys() == pool.free.keys()
            assert all(0 <= pool.free[dimension] <= total for dimension, total in pool.total.items())
            assert pool.free["cpu"] == sum(shape.count * shape.free_cpu for shape in pool.shapes)
            assert (pool.card_class is None) == (not any(d.startswith("cards/") for d in pool.total))


async def site_is_quiet(run_id: object, seconds: float = 10.0) -> None:
    """Wait until no process of a run is left on this machine."""
    deadline = time.monotonic() + seconds
    while left := processes_of(run_id):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


def notebook(source: str) -> str:
    """Return a notebook with one cell."""
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
