"""What is left when an account forgets: everything at once, or only what a run had still to say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tessera_hub.proxy.drivers.aws_batch.driver import AwsBatchDriver
from tests.aws.account import BUCKET, Account
from tests.aws.site import AwsBatchSite
from tests.proxy.conformance import SLEEPER
from tests.proxy.conftest import LeaseMaker

TALKER = "import time\nfor i in range(3):\n    print('line', i, flush=True)\ntime.sleep(60)"


async def test_an_account_that_forgot_everything_ends_no_run(
    tmp_path: Path, make_lease: LeaseMaker, aws_account: Account
) -> None:
    assert aws_account.process is not None, "it is not ours that is wiped"
    account = Account(tmp_path)
    await asyncio.to_thread(account.start)
    site = AwsBatchSite(account)
    driver = await site.start()
    assert isinstance(driver, AwsBatchDriver)
    try:
        lease, source = make_lease(SLEEPER.format(seconds=30))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        await asyncio.to_thread(httpx.post, f"{account.url}/moto-api/reset")
        async with asyncio.timeout(30):
            while driver.trouble is None:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)
        after = await site.run(lease)
        assert after is not None
        assert (after.phase, after.uid, after.meter) == ("RUNNING", before.uid, before.meter)
        assert after.reason is not None
        assert after.reason.code == "cluster.unreachable"
        assert BUCKET in after.reason.message or "NoSuchBucket" in after.reason.message
        assert (await driver.inventory()).pools
    finally:
        await driver.close()
        await site.clean()
        await asyncio.to_thread(account.stop)


async def test_output_that_could_not_be_delivered_is_read_from_cloudwatch(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(TALKER)
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"line 2")
    run = await site.wait(lease, "RUNNING")
    await asyncio.to_thread(lambda: site.account.ask("take", job=run.native_id))
    assert (await site.wait(lease)).phase == "PREEMPTED"
    read = AwsBatchDriver.logs
    assert isinstance(driver, AwsBatchDriver)
    kept = await read(driver, lease.run_id, "output", 0, 1 << 16)
    assert kept.count(b"line") == 3
    assert await read(driver, lease.run_id, "output", kept.index(b"line 1"), 6) == b"line 1"
    assert await read(driver, lease.run_id, "progress", 0, 100) == b""
    await site.purge()
    assert await read(driver, lease.run_id, "output", 0, 100) == b""
