"""Runs as jobs of a real Slurm: accounts, cards, waiting, preemption, requeues, restarts of its daemons."""

from __future__ import annotations

import asyncio
import pwd
import signal
import time
from collections.abc import Callable

import pytest

from tessera_hub.proxy.drivers.base import Driver
from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tessera_hub.schemas.protocol import Pool
from tests.proxy.conformance import OBEDIENT, SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.cluster import SlurmCluster, running
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
A100 = {"model": "A100-80G", "centi_cards": 100}


def command(site: SlurmSite, *argv: str) -> str:
    return site.cluster.command(*argv)


async def test_a_run_has_the_account_of_its_person(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease("import os\nprint('ids', os.getuid(), os.getgid(), os.environ['USER'])\nopen('made', 'w')")
    await site.submit(lease, source)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    ada = pwd.getpwnam("tessera-ada")
    output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
    assert f"ids {ada.pw_uid} {ada.pw_gid} tessera-ada".encode() in output
    [made] = (await driver.results(lease.run_id)).outputs
    assert made.owner == ada.pw_uid


async def test_people_do_not_read_each_others_runs(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=5))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    other = site.directory / "proxy" / "runs" / str(lease.run_id)
    spy, spy_source = make_lease(f"""
import os
for path in ("{other}/run", "{other}/run/launch.json", "{other}/lease.json", "{other}/native.json"):
    try:
        os.listdir(path) if path.endswith("run") else open(path).read()
        print("READ", path)
    except PermissionError:
        print("closed")
""")
    spy = spy.model_copy(update={"owner": "bob", "principal_id": 2})
    await site.submit(spy, spy_source)
    ended = await site.wait(spy)
    text = (await driver.logs(spy.run_id, "output", 0, 1 << 16)).decode()
    assert ended.phase == "SUCCEEDED", text
    assert "READ" not in text
    assert text.count("closed") == 4


@pytest.mark.parametrize("owner", ["eve", "root", "tessera-bob", "--help", "ada; id"])
async def test_a_person_without_an_account_runs_nothing(site: SlurmSite, make_lease: LeaseMaker, owner: str) -> None:
    await site.start()
    lease, source = make_lease("print('never')")
    lease = lease.model_copy(update={"owner": owner})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "principal.no_account")
    assert source.fetched == 0


async def test_an_account_of_the_system_runs_nothing(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    async with SlurmSite(slurm, accounts={"ada": "root", "bob": "games"}) as site:
        await site.start()
        for owner in ("ada", "bob"):
            lease, source = make_lease("print('never')")
            lease = lease.model_copy(update={"owner": owner})
            await site.submit(lease, source)
            run = await site.wait(lease)
            assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "principal.no_account")
            assert run.reason is not None
            assert "below 1000" in run.reason.message


# --- cards ------------------------------------------------------------------------------------------------------------


async def card_pool(driver: Driver, until: Callable[[Pool], bool]) -> Pool:
    """The pool with the cards once it is as waited for, or after ten seconds: the nodes are looked at now and then only."""
    deadline = time.monotonic() + 10
    while True:
        pool = next(pool for pool in (await driver.inventory()).pools if pool.name == "gpu")
        if until(pool) or time.monotonic() > deadline:
            return pool
        await asyncio.sleep(0.1)


async def test_cards_are_given_and_missing_in_the_inventory(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    before = {pool.name: pool for pool in (await driver.inventory()).pools}
    assert before["gpu"].card_class == "A100-80G"
    assert before["gpu"].total["cards/A100-80G"] == 400
    assert before["gpu"].card_modes == ["whole", "vcuda"]
    assert before["cpu"].card_class is None
    text = "import os, time\nprint('cards', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['TESSERA_CARD_CLASS'], flush=True)\n"
    lease, source = make_lease(text + "time.sleep(8)", resources={"cards": {**A100, "centi_cards": 200}}, card_class="A100-80G")
    await site.submit(lease, source)
    assert b"cards 0,1 A100-80G" in await site.wait_for_output(lease, b"cards")
    run = await site.wait(lease, "RUNNING")
    assert run.meter[0].spec == {"cpu": 100, "memory": 256, "cards/A100-80G": 200, "card_memory/A100-80G": 163840}
    pool = await card_pool(driver, until=lambda pool: pool.free["cards/A100-80G"] != 400)
    assert pool.free["cards/A100-80G"] == 200
    assert pool.foreign == {}
    assert sorted(cards for shape in pool.shapes for cards in [shape.cards] * shape.count) == [
        [(0, 0), (0, 0)],
        [(100, 81920), (100, 81920)],
    ]
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_a_share_of_a_card_becomes_shards(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    text = "import os, time\nprint('shards', os.environ.get('SLURM_SHARDS_ON_NODE'), flush=True)\ntime.sleep(8)"
    share = {"model": "A100-80G", "mode": "vcuda", "centi_cards": 30}
    lease, source = make_lease(text, resources={"cards": share}, card_class="A100-80G")
    await site.submit(lease, source)
    # 30 of 100, in quarters: two of the four shards of a card.
    assert b"shards 2\n" in await site.wait_for_output(lease, b"\n")
    await site.wait(lease, "RUNNING")
    pool = await card_pool(driver, until=lambda pool: pool.free["cards/A100-80G"] != 400)
    assert pool.free["cards/A100-80G"] == 350, command(site, "sinfo", "-N", "-O", "Gres:40,GresUsed:60")
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_work_of_others_is_foreign(site: SlurmSite) -> None:
    driver = await site.start()
    job = command(
        site, "sbatch", "--parsable", "-p", "gpu", "--gres=gpu:a100:1", "-c2", "--mem=512", "-o/dev/null", "--wrap=sleep 30"
    )
    while "RUNNING" not in command(site, "squeue", "-h", "-o%T"):
        await asyncio.sleep(0.05)
    pool = await card_pool(driver, until=lambda pool: bool(pool.foreign))
    assert pool.foreign == {"cpu": 2000, "memory": 512, "cards/A100-80G": 100, "card_memory/A100-80G": 81920}
    command(site, "scancel", job.strip())


async def test_a_card_that_nobody_has_never_fits(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease("", resources={"cards": {"model": "H100-80G", "centi_cards": 100}}, card_class="H100-80G")
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "never.no_card_class")


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_a_waiting_run_says_why_and_when(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    many = {"cards": {**A100, "centi_cards": 200}}
    leases = []
    for _ in range(4):
        lease, source = make_lease(
            SLEEPER.format(seconds=20), resources=many, card_class="A100-80G", lifecycle={"max_run_seconds": 60}
        )
        await site.submit(lease, source)
        leases.append(lease)
        await site.wait(lease, "RUNNING" if len(leases) <= 2 else "PENDING")
    third = await site.wait(leases[2], "PENDING")
    async with asyncio.timeout(20):
        while not third.reason or "expected_start" not in third.reason.detail or third.reason.code != "capacity.no_free_cards":
            await asyncio.sleep(0.1)
            third = await site.wait(leases[2], "PENDING")
    assert third.reason.detail["native"] == "Resources"
    fourth = await site.wait(leases[3], "PENDING")
    async with asyncio.timeout(20):
        while not fourth.reason or fourth.reason.code != "cluster.queued":
            await asyncio.sleep(0.1)
            fourth = await site.wait(leases[3], "PENDING")
    assert fourth.meter == ()
    await driver.cancel(leases[3].run_id, "cancel", 5)
    run = await site.wait(leases[3])
    assert (run.phase, run.meter) == ("CANCELLED", ())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("scontrol", "hold", "{job}"), "cluster.held"),
        (("scontrol", "update", "jobid={job}", "starttime=now+1hour"), "policy.not_before"),
        (("scontrol", "update", "nodename=n3", "state=drain", "reason=test"), "cluster.nodes_down"),
        (("scontrol", "update", "partitionname=cpu", "state=down"), "cluster.nodes_down"),
    ],
)
async def test_slurms_reasons_become_ours(
    slurm: SlurmCluster, make_lease: LeaseMaker, change: tuple[str, ...], code: str
) -> None:
    blocker = slurm.command("sbatch", "--parsable", "-p", "cpu", "-c4", "--mem=64", "-o/dev/null", "--wrap=sleep 60").strip()
    site = SlurmSite(slurm, partitions=[{"name": "cpu"}])
    try:
        await site.start()
        lease, source = make_lease("")
        await site.submit(lease, source)
        run = await site.wait(lease, "PENDING")
        command(site, *(word.replace("{job}", run.native_id or "") for word in change))
        if "drain" in " ".join(change):
            command(site, "scancel", blocker)
        async with asyncio.timeout(30):
            while run.reason is None or run.reason.code != code:
                await asyncio.sleep(0.1)
                run = await site.wait(lease, "PENDING")
    finally:
        command(site, "scontrol", "update", "partitionname=cpu", "state=up")
        site.cluster.command("scontrol", "update", "nodename=n3", "state=resume", check=False)
        site.cluster.command("scancel", "--quiet", blocker, check=False)
        await site.finish()


async def test_what_no_node_can_hold_is_refused_at_once(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease("", resources={"cpu_millicores": 64000})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "never.too_large", ())


async def test_more_time_than_the_partition_gives_is_refused(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    async with SlurmSite(slurm, partitions=[{"name": "short"}]) as site:
        driver = await site.start()
        lease, source = make_lease("", lifecycle={"max_run_seconds": 3600})
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "never.time_limit")
        driver.preparation.limits = {}  # type: ignore[attr-defined]
        lease, source = make_lease("", lifecycle={"max_run_seconds": 3600})
        driver._look_at_nodes = _nothing  # type: ignore[attr-defined]
        await site.submit(lease, source)
        async with asyncio.timeout(20):
            while (found := await site.wait(lease, "PENDING")).reason is None or found.reason.code != "never.time_limit":
                await asyncio.sleep(0.1)
        await driver.cancel(lease.run_id, "cancel", 0)
        await site.wait(lease)


async def _nothing(_nodes: object, _jobs: object) -> None:
    """Stands for a look that brings nothing new."""


# --- preemption and requeues --------------------------------------------------------------------------------------------


async def test_a_preempted_job_ends_as_preempted_and_is_not_started_again(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    both = {"cards": {**A100, "centi_cards": 200}}
    victims = []
    for _ in range(2):
        lease, source = make_lease(OBEDIENT, resources=both, card_class="A100-80G", preemptible=True)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        victims.append(lease)
    assert command(site, "squeue", "-h", "-o%P").split() == ["low", "low"]
    winner, source = make_lease("print('won')", resources=both, card_class="A100-80G")
    await site.submit(winner, source)
    assert (await site.wait(winner)).phase == "SUCCEEDED"
    await asyncio.sleep(0.5)
    ended = [run for run in await driver.list_runs() if run.phase == "PREEMPTED"]
    assert len(ended) == 1
    assert ended[0].reason is not None
    assert ended[0].reason.code == "policy.preempted"
    assert [fact.action for fact in ended[0].meter] == ["START", "STOP"]
    assert (await driver.logs(ended[0].run_id, "output", 0, 1 << 16)).count(b"began") == 1


async def test_a_requeued_job_does_not_start_user_code_twice(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    assert run.native_id is not None
    # What an operator or a plugin of the site may do: allow it, and put it back.
    command(site, "scontrol", "update", f"jobid={run.native_id}", "requeue=1")
    command(site, "scontrol", "requeue", run.native_id)
    ended = await site.wait(lease)
    assert (ended.phase, ended.reason.code if ended.reason else "") == ("FAILED", "cluster.lost")
    async with asyncio.timeout(20):
        while command(site, "squeue", "-h"):
            await asyncio.sleep(0.1)
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]


async def test_a_job_that_slurm_starts_again_while_nobody_looks_runs_nothing(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    job = run.native_id or ""
    await site.abandon(driver)
    site.current = None
    command(site, "scontrol", "update", f"jobid={job}", "requeue=1")
    command(site, "scontrol", "requeue", job)
    async with asyncio.timeout(30):
        while "PENDING" not in command(site, "squeue", "-h", "-o%T"):
            await asyncio.sleep(0.1)
        command(site, "scontrol", "update", f"jobid={job}", "starttime=now")
        while command(site, "squeue", "-h"):
            await asyncio.sleep(0.1)
    driver = await site.start()
    ended = await site.wait(lease)
    assert ended.phase == "FAILED"
    output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
    assert output.count(b"began") == 1
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]


# --- Slurm's own troubles -----------------------------------------------------------------------------------------------


async def test_a_run_survives_a_restart_of_the_controller(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=4))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    before = await site.wait(lease, "RUNNING")
    await asyncio.to_thread(site.cluster.stop_controller)
    late, late_source = make_lease("print('late')")
    await site.submit(late, late_source)
    await asyncio.sleep(1.0)
    assert (await site.run(lease)) is not None
    assert (await site.wait(lease, "RUNNING")).meter == before.meter
    await asyncio.to_thread(site.cluster.start_controller)
    run = await site.wait(lease)
    assert (run.phase, run.meter[0]) == ("SUCCEEDED", before.meter[0])
    assert (await site.wait(late)).phase == "SUCCEEDED"


async def test_a_submit_whose_answer_is_lost_starts_once(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    real, lost = driver.slurm.submit, 0  # type: ignore[attr-defined]

    async def forgetful(*arguments: object) -> str:
        nonlocal lost
        job: str = await real(*arguments)
        if lost < 2:
            lost += 1
            from tessera_hub.proxy.drivers.slurm.transport import TransportError

            raise TransportError("the answer was lost")
        return job

    driver.slurm.submit = forgetful  # type: ignore[attr-defined]
    lease, source = make_lease("print('began')")
    await site.submit(lease, source)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    assert lost == 1
    assert len(command(site, "squeue", "-h", "--states=all", f"--name={lease.run_id}", "-o%i").split()) == 1


async def test_a_second_job_of_a_run_starts_nothing_and_goes(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=2))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    first = await site.wait(lease, "RUNNING")
    preparation = driver.preparation  # type: ignore[attr-defined]
    run = driver._entries[lease.run_id].run  # type: ignore[attr-defined]
    from tessera_hub.proxy.drivers.slurm.settings import PartitionSettings
    from tessera_hub.proxy.drivers.slurm.submission import job_arguments, job_options

    place = preparation.files.place(run)
    options = job_options(lease, site.settings, PartitionSettings(name="cpu"), preparation.cards, place)
    arguments = job_arguments(lease, preparation.environment_of(lease), place)
    second = await driver.slurm.submit(options, place.script, arguments, "tessera-ada")  # type: ignore[attr-defined]
    ended = await site.wait(lease)
    assert (ended.phase, ended.native_id) == ("SUCCEEDED", first.native_id)
    assert second != first.native_id
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1


async def test_a_node_that_is_lost_ends_the_run(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    with running(("SlurmdTimeout=3", "TCPTimeout=2", "MessageTimeout=3")) as cluster:
        async with SlurmSite(cluster, partitions=[{"name": "cpu"}]) as site:
            await site.start()
            lease, source = make_lease(SLEEPER.format(seconds=60))
            await site.submit(lease, source)
            await site.wait_for_output(lease, b"began")
            await site.wait(lease, "RUNNING")
            await asyncio.to_thread(cluster.stop_node, "n3", signal.SIGKILL)
            cluster.command("scontrol", "update", "nodename=n3", "state=down", "reason=gone")
            ended = await site.wait(lease, seconds=60)
            assert (ended.phase, ended.reason.code if ended.reason else "") == ("FAILED", "cluster.lost")
            assert [fact.action for fact in ended.meter] == ["START", "STOP"]


# --- several parts ------------------------------------------------------------------------------------------------------


async def test_several_parts_run_together_and_know_each_other(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    text = (
        "import os, socket, time, pathlib\n"
        "rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])\n"
        "if rank == 0:\n"
        "    with socket.create_server(address) as server:\n"
        "        peer, _ = server.accept()\n"
        "        print('rank 0 heard', peer.recv(10), os.environ['SLURMD_NODENAME'], flush=True)\n"
        "else:\n"
        "    for _ in range(100):\n"
        "        try:\n"
        "            socket.create_connection(address).send(b'rank%d' % rank)\n"
        "            break\n"
        "        except ConnectionRefusedError:\n"
        "            time.sleep(0.1)\n"
        "    print('rank', rank, 'of', size, os.environ['SLURMD_NODENAME'], flush=True)\n"
        "    pathlib.Path('../output/from-%d.txt' % rank).write_text('x')\n"
    )
    lease, source = make_lease(text, kind="training", framework="pytorch", card_class="A100-80G")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 2, "resources": {"cpu_millicores": 1000, "memory_mib": 256, "cards": A100}}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    run = await site.wait(lease)
    output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert (run.phase, run.reason) == ("SUCCEEDED", None), output
    assert "rank 0 heard b'rank1' n1" in output
    results = {found.path: found for found in (await driver.results(lease.run_id)).outputs}
    assert {"logs/part-1.log", "from-1.txt"} <= set(results)
    assert "rank 1 of 2 n2" in results["logs/part-1.log"].file.read_text()
    assert run.meter[0].spec["cards/A100-80G"] == 200


async def test_one_failing_part_ends_the_others(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    text = "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit(5)\ntime.sleep(60)"
    lease, source = make_lease(text, kind="training")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 3}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert run.phase == "FAILED"


async def test_cancel_reaches_all_parts(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(OBEDIENT, kind="training")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 2}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    await asyncio.sleep(0.5)
    await driver.cancel(lease.run_id, "cancel", 8)
    run = await site.wait(lease)
    assert run.phase == "CANCELLED"
    assert b"saved" in await driver.logs(lease.run_id, "output", 0, 1 << 16)
    logs = next(found for found in (await driver.results(lease.run_id)).outputs if found.path == "logs/part-1.log")
    assert "saved" in logs.file.read_text()


# --- a Slurm without JSON -----------------------------------------------------------------------------------------------


async def test_text_says_what_json_says(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    slurm: Slurm = driver.slurm  # type: ignore[attr-defined]
    both = {"cards": {**A100, "centi_cards": 200}}
    lease, source = make_lease(SLEEPER.format(seconds=6), resources=both, card_class="A100-80G")
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    await site.wait(lease, "RUNNING")
    nodes, [job] = await slurm.nodes(), [job for job in await slurm.jobs() if job.name == str(lease.run_id)]
    slurm._json = False
    assert {node.name: node for node in await slurm.nodes()} == {node.name: node for node in nodes}
    [text] = [job for job in await slurm.jobs() if job.name == str(lease.run_id)]
    for name in ("job_id", "state", "user", "partition", "nodes", "start", "submitted", "cpus", "memory_mib", "comment"):
        assert getattr(text, name) == getattr(job, name), name
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_a_run_without_json_is_told_as_with_it(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    driver.slurm._json = False  # type: ignore[attr-defined]
    lease, source = make_lease(SLEEPER.format(seconds=2))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease)
    assert (run.phase, run.exit_code, [fact.action for fact in run.meter]) == ("SUCCEEDED", 0, ["START", "STOP"])
    assert 2 <= run.meter[1].effective_at - run.meter[0].effective_at <= 5
    failing, source = make_lease("import os; os.kill(os.getppid(), 9)")
    await site.submit(failing, source)
    assert (await site.wait(failing)).phase == "FAILED"
