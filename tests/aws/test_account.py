"""What happens at an account that throttles, refuses, loses answers and forgets: runs go on once, and say why they wait."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tessera_hub.proxy.drivers.aws_batch.driver import AwsBatchDriver
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.protocol import Lease
from tests.aws.account import BUCKET, QUEUE, credentials
from tests.aws.site import AwsBatchSite
from tests.proxy.conformance import SLEEPER, site_is_quiet
from tests.proxy.conftest import LeaseMaker

HOST = "Host EC2 (instance i-0123456789abcdef0) terminated."


def jobs_of(site: AwsBatchSite, lease: Lease) -> list[str]:
    """Names of the jobs that Batch has of a run."""
    return [name for name in site.account.ask("jobs") if str(lease.run_id) in name]


async def in_thread(call: object, *arguments: object, **named: object) -> object:
    return await asyncio.to_thread(call, *arguments, **named)  # type: ignore[arg-type]


async def wait_for_reason(site: AwsBatchSite, lease: Lease, code: str) -> None:
    """Wait until a run says why it waits."""
    async with asyncio.timeout(30):
        while True:
            run = await site.run(lease)
            assert run is not None
            assert not run.phase.final, run
            if run.reason is not None and run.reason.code == code:
                return
            await asyncio.sleep(0.05)


# --- submits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose", "lose_before"])
async def test_a_submit_without_an_answer_makes_one_job(site: AwsBatchSite, make_lease: LeaseMaker, kind: str) -> None:
    driver = await site.start()
    await in_thread(site.account.ask, "fault", operation="submitjob", kind=kind)
    lease, source = make_lease("print('once')")
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)
    assert len(jobs_of(site, lease)) == 1
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"once") == 1
    assert len(set(source.claims)) == 1


async def test_a_proxy_that_dies_between_submit_and_answer_finds_its_job(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    await in_thread(site.account.ask, "fault", operation="submitjob", kind="lose")
    lease, source = make_lease("print('once')")
    await site.submit(lease, source)
    async with asyncio.timeout(20):
        while not jobs_of(site, lease):
            await asyncio.sleep(0.01)
    await site.start()
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    assert len(jobs_of(site, lease)) == 1


async def test_a_second_job_of_the_same_run_runs_no_user_code(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=3))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    batch = site.account.client("batch")
    first = (await asyncio.to_thread(lambda: batch.describe_jobs(jobs=[run.native_id])))["jobs"][0]
    container = first["container"]
    environment = [entry for entry in container["environment"] if not entry["name"].startswith("AWS_BATCH")]
    again = {"command": container["command"], "environment": environment}

    def submit_again() -> str:
        answer = batch.submit_job(
            jobName=first["jobName"], jobQueue=QUEUE, jobDefinition=first["jobDefinition"], containerOverrides=again
        )
        return str(answer["jobId"])

    source.refuse = DriverError("claimed.elsewhere", "another was first")
    second = await asyncio.to_thread(submit_again)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(lambda: batch.describe_jobs(jobs=[second])))["jobs"][0]["status"] != "FAILED":
            await asyncio.sleep(0.1)
    assert "claimed.elsewhere" in site.account.output(second)
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1


async def test_a_new_proxy_signs_the_addresses_of_a_running_job_anew(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=6))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    s3, key = site.account.client("s3"), f"{site.prefix}/orders/{lease.run_id}.json"

    def words() -> dict[str, str]:
        return dict(json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["urls"])

    before = await asyncio.to_thread(words)
    await asyncio.sleep(1.1)
    driver = await site.start()
    async with asyncio.timeout(20):
        while (after := await asyncio.to_thread(words)) == before:
            await asyncio.sleep(0.1)
    assert after.keys() == before.keys() == {"order", "told"}
    await driver.cancel(lease.run_id, "cancel", 5)
    assert (await site.wait(lease)).phase == "CANCELLED", "the run reads its orders where the new Proxy says"


# --- throttling and refusal -------------------------------------------------------------------------------------------


async def test_a_throttled_account_ends_nothing_and_says_so(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    assert isinstance(driver, AwsBatchDriver)
    lease, source = make_lease("print('late')")
    await in_thread(site.account.ask, "fault", operation="submitjob", kind="throttle", times=2)
    await site.submit(lease, source)
    await wait_for_reason(site, lease, "cluster.back_pressure")
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    assert len(jobs_of(site, lease)) == 1
    await in_thread(site.account.ask, "fault", operation="describejobs", kind="throttle", times=12)
    lease, source = make_lease(SLEEPER.format(seconds=1))
    await site.submit(lease, source)
    async with asyncio.timeout(60):
        while driver.trouble is None:
            await asyncio.sleep(0.02)
    assert driver.trouble.trouble == "throttled"
    await wait_for_reason(site, lease, "cluster.back_pressure")
    assert (await driver.inventory()).pools, "what was known of the account still is"
    await in_thread(site.account.ask, "fault", operation="describejobs", kind="throttle", times=0)
    run = await site.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)


async def test_rejected_credentials_stop_a_start_and_not_a_run(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    assert isinstance(driver, AwsBatchDriver)
    lease, source = make_lease(SLEEPER.format(seconds=2))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    # From here on moto looks at keys, and knows none like ours.
    httpx.post(f"{site.account.url}/moto-api/reset-auth", content="0")
    try:
        async with asyncio.timeout(30):
            while driver.trouble is None:
                await asyncio.sleep(0.05)
        assert driver.trouble.trouble == "refused"
        await wait_for_reason(site, lease, "cluster.refused")
        with pytest.raises(DriverError) as refused:
            await AwsBatchDriver(site.settings()).start(lambda _lease: source)
        assert refused.value.code == "cluster.refused"
        assert "credentials" in refused.value.message
        assert "testing" not in refused.value.message
    finally:
        httpx.post(f"{site.account.url}/moto-api/reset-auth", content="1000000000")
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_no_credentials_at_all_are_named(site: AwsBatchSite) -> None:
    with credentials({"AWS_EC2_METADATA_DISABLED": "true"}):
        driver = AwsBatchDriver(site.settings())
        with pytest.raises(DriverError) as refused:
            await driver.start(lambda _lease: site.sources[uuid4()])
    assert (refused.value.code, "no usable credentials" in refused.value.message) == ("cluster.refused", True)


async def test_a_queue_or_definition_that_is_not_there_is_named(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    site.account.define("privileged", privileged=True)
    for options, word in (
        ({"queue": "absent"}, "absent"),
        ({"environments": {"default": "missing"}}, "no active one"),
        ({"environments": {"default": "privileged"}}, "privileged"),
    ):
        with pytest.raises(DriverError) as refused:
            await AwsBatchDriver(site.settings(**options)).start(lambda _lease: site.sources[uuid4()])
        assert (refused.value.code, word in refused.value.message) == ("cluster.refused", True), refused.value.message


# --- forgetting -------------------------------------------------------------------------------------------------------


async def test_a_job_that_batch_forgot_before_its_end_is_lost(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease("print(1)")
    await in_thread(site.account.ask, "hold", reason="CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - none of [c5.xlarge]")
    await site.submit(lease, source)
    await wait_for_reason(site, lease, "capacity.no_free_node")
    run = await site.wait(lease, "PENDING")
    await site.kill(run)
    await asyncio.sleep(0.1)
    await site.purge()
    await in_thread(site.account.ask, "hold", reason=None)
    ended = await site.wait(lease)
    assert ended.reason is not None
    assert (ended.phase, ended.meter) == ("FAILED", ())
    assert ended.reason.code in ("cluster.lost", "cluster.cancelled")


async def test_what_is_left_of_a_forgotten_run_is_nothing(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease("print(1)")
    await site.submit(lease, source)
    await site.wait(lease)
    s3 = site.account.client("s3")

    def keys() -> list[str]:
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{site.prefix}/")
        return [entry["Key"] for entry in found.get("Contents", ()) if str(lease.run_id) in entry["Key"]]

    assert len(await asyncio.to_thread(keys)) == 4
    await driver.forget(lease.run_id)
    assert await asyncio.to_thread(keys) == []


# --- what the cloud does ----------------------------------------------------------------------------------------------


async def test_a_spot_instance_that_is_taken_preempts(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=60), preemptible=True)
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    described = site.account.client("batch").describe_jobs(jobs=[run.native_id])["jobs"][0]
    assert described["jobQueue"].endswith("tessera-spot")
    await in_thread(site.account.ask, "take", job=run.native_id)
    ended = await site.wait(lease)
    assert ended.reason is not None
    assert (ended.phase, ended.reason.code, ended.reason.message) == ("PREEMPTED", "cluster.evicted", HOST)
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]


async def test_an_image_that_is_not_there_is_named(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    await in_thread(site.account.ask, "image", missing=True)
    lease, source = make_lease("print(1)")
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "cluster.image", ())


async def test_a_job_that_waits_for_instances_can_be_cancelled(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    await in_thread(site.account.ask, "hold", reason="MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - at its limit")
    lease, source = make_lease("print(1)")
    await site.submit(lease, source)
    await wait_for_reason(site, lease, "quota.native")
    await driver.cancel(lease.run_id, "cancel", 5)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("CANCELLED", "policy.cancelled", ())
    assert source.claims == []


async def test_times_are_those_of_batch(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=1))
    await site.submit(lease, source)
    run = await site.wait(lease)
    batch = site.account.client("batch")
    job = (await asyncio.to_thread(lambda: batch.describe_jobs(jobs=[run.native_id])))["jobs"][0]
    assert (run.uid, run.native_id) == (job["jobId"], job["jobId"])
    assert [fact.effective_at for fact in run.meter] == [job["startedAt"] // 1000, job["stoppedAt"] // 1000]
    assert {fact.evidence for fact in run.meter} == {"engine"}


# --- inventory and prices ---------------------------------------------------------------------------------------------


async def test_the_inventory_has_the_cards_and_spot_prices_of_the_queues(site: AwsBatchSite) -> None:
    site.options = {"currency_per_usd": 7}
    driver = await site.start()
    assert "cards" in driver.capabilities
    inventory = await driver.inventory()
    pools = {pool.name: pool for pool in inventory.pools}
    assert set(pools) == {"plain", "cards-T4-16G", "cards-A10-24G", "cheap"}
    assert pools["plain"].total["cpu"] == 96_000
    assert pools["cards-T4-16G"].total["cards/T4-16G"] == 800
    # moto sells every spot instance for 0.00001 $: an m5.2xlarge has 8 processors; it has no price list.
    async with asyncio.timeout(30):
        while not (prices := (await driver.inventory()).prices):
            await asyncio.sleep(0.1)
    assert prices == {"cpu": 9, "memory": 0}


async def test_what_others_run_is_foreign_and_not_free(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    command = ["sleep", "6"]
    overrides = {"command": command, "resourceRequirements": [{"type": "VCPU", "value": "1"}]}
    submit = site.account.client("batch").submit_job
    await in_thread(submit, jobName="somebody", jobQueue=QUEUE, jobDefinition="science", containerOverrides=overrides)
    async with asyncio.timeout(20):
        while not (plain := {p.name: p for p in (await driver.inventory()).pools}["plain"]).foreign:
            await asyncio.sleep(0.1)
    assert plain.foreign == {"cpu": 1000}
    assert plain.free["cpu"] == 95_000


# --- escapes ----------------------------------------------------------------------------------------------------------


SPY = """
import os, pathlib
print('uid', os.getuid(), 'aws', sorted(name for name in os.environ if name.startswith(('AWS', 'ECS', 'TESSERA_COURIER'))))
for path in ['/proc/1/environ', '/proc/1/mem', '../../courier.json', '../../prepared.json', '/proc/1/root/etc/shadow']:
    try:
        print(path, len(open(path, 'rb').read(1)))
    except OSError as error:
        print(path, 'refused')
print('privileges', [line for line in open('/proc/self/status') if line.startswith('NoNewPrivs')])
try:
    os.kill(1, 9)
    print('killed')
except PermissionError:
    print('spared')
"""


async def test_user_code_reads_neither_token_nor_addresses(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SPY)
    await site.submit(lease, source)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert "uid 1000 aws []" in output
    assert output.count("refused") == 5, output
    assert "NoNewPrivs:\\t1" in output
    assert "spared" in output


KILLER = """
import os, subprocess, time
subprocess.Popen(['sleep', '600'], start_new_session=True)
launcher = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])
os.kill(launcher, 9)
time.sleep(60)
"""


async def test_a_run_that_kills_its_launcher_leaves_no_process_and_an_end(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(KILLER)
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert run.phase == "FAILED"
    assert [fact.action for fact in run.meter] == ["START", "STOP"]
    await site_is_quiet(lease.run_id)


THIEF = """
import os
os.rename('../output', '../o')
os.symlink('/root', '../output')
os.symlink('/etc/shadow', 'stolen')
print('done')
"""


async def test_a_link_where_a_result_is_expected_brings_nothing_of_root(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(THIEF)
    await site.submit(lease, source)
    await site.wait(lease)
    given = (await driver.results(lease.run_id)).outputs
    assert [output.path for output in given] == []


async def test_batch_is_told_no_secret_and_no_text_of_a_person(site: AwsBatchSite, make_lease: LeaseMaker) -> None:
    await site.start()
    hostile = "hostile$(id)"
    lease, source = make_lease("print(1)", name=hostile, variables={"HOSTILE": hostile}, labels={hostile: hostile})
    await site.submit(lease, source)
    run = await site.wait(lease)
    batch = site.account.client("batch")
    job = json.dumps(batch.describe_jobs(jobs=[run.native_id])["jobs"][0])
    for secret in ("hostile", "HOSTILE", lease.lease_token):
        assert secret not in job
    assert not Path("/tmp/hostile").exists()
