"""Slurm's answers in the forms of its versions: 22.05's plain JSON, the objects and lists since 23.02, and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm import jobs, nodes
from tessera_hub.proxy.drivers.slurm.engine import refusal
from tessera_hub.proxy.drivers.slurm.inventory import Cards, homes_of, pools_of
from tessera_hub.proxy.drivers.slurm.nodes import Gres, Node, parse_gres
from tessera_hub.proxy.drivers.slurm.pending import code_of
from tessera_hub.proxy.drivers.slurm.records import Native, ending
from tessera_hub.proxy.drivers.slurm.settings import PartitionSettings, SlurmSettings, read_settings
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.tasks.reasons import REASONS
from tests.proxy.conftest import LeaseMaker

OLD: dict[str, Any] = {
    "job_id": 7,
    "name": "run",
    "job_state": "RUNNING",
    "state_reason": "None",
    "state_description": "",
    "user_name": "ada",
    "partition": "gpu",
    "nodes": "n1",
    "submit_time": 100,
    "start_time": 110,
    "end_time": 200,
    "suspend_time": 0,
    "pre_sus_time": 0,
    "preempt_time": 0,
    "restart_cnt": 0,
    "time_limit": 60,
    "exit_code": 256,
    "cpus": 2,
    "node_count": 1,
    "tres_alloc_str": "cpu=2,mem=1.5G,node=1,billing=2",
    "gres_detail": ["gpu:a100:2(IDX:0-1)"],
    "comment": "c",
}


def put(value: int | None) -> dict[str, Any]:
    return {"set": value is not None, "infinite": False, "number": value or 0}


NEW: dict[str, Any] = OLD | {
    "job_state": ["RUNNING", "COMPLETING"],
    **{
        name: put(OLD[name]) for name in ("submit_time", "start_time", "end_time", "suspend_time", "pre_sus_time", "preempt_time")
    },
    "time_limit": put(60),
    "cpus": put(2),
    "node_count": put(1),
    "exit_code": {"status": ["ERROR"], "return_code": put(1), "signal": {"id": put(None), "name": ""}},
}


def parsed(entry: dict[str, Any]) -> jobs.Job:
    [found] = jobs.parse_jobs(json.dumps({"jobs": [entry]}))
    return found


def test_both_generations_say_the_same() -> None:
    old, new = parsed(OLD), parsed(NEW)
    assert new.flags == {"COMPLETING"}
    for name in (
        "job_id",
        "state",
        "submitted",
        "start",
        "end",
        "time_limit_minutes",
        "exit_code",
        "signal",
        "cpus",
        "memory_mib",
        "gres",
    ):
        assert getattr(old, name) == getattr(new, name), name
    assert (old.exit_code, old.memory_mib, old.time_limit_minutes) == (1, 1536, 60)


def test_no_limit_and_signals() -> None:
    assert parsed(OLD | {"time_limit": None}).time_limit_minutes is None
    assert parsed(NEW | {"time_limit": {"set": False, "infinite": True, "number": 0}}).time_limit_minutes is None
    assert (parsed(OLD | {"exit_code": 15}).exit_code, parsed(OLD | {"exit_code": 15}).signal) == (None, 15)
    killed = {"status": ["SIGNALED"], "return_code": put(None), "signal": {"id": put(9), "name": "SIGKILL"}}
    assert (parsed(NEW | {"exit_code": killed}).exit_code, parsed(NEW | {"exit_code": killed}).signal) == (None, 9)


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ("COMPLETED", True),
        (["COMPLETED"], True),
        (["COMPLETED", "COMPLETING"], False),
        (["PENDING", "REQUEUED"], False),
        (["FAILED", "REQUEUED"], False),
        (["OUT_OF_MEMORY"], True),
        ("RUNNING", False),
        (["RUNNING", "CONFIGURING"], False),
    ],
)
def test_when_a_job_is_over(state: Any, ended: bool) -> None:
    assert parsed(OLD | {"job_state": state}).ended is ended


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"jobs": [{}]}', '{"jobs": 3}', "slurm_load_jobs error"])
def test_an_answer_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(jobs.AnswerError):
        jobs.parse_jobs(text)


def test_accounting() -> None:
    text = (
        "12|CANCELLED by 1000|1000|1100|0:15|n1|run\n13|COMPLETED|1|2|0:0|n[1-2]|a|b\n"
        "14|CANCELLED by 0|5|5|0:0|None assigned|c\n15|RUNNING|7|Unknown|0:0|n1|d\nbroken\n"
    )
    assert jobs.parse_accounting(text) == [
        jobs.PastJob("12", "run", "CANCELLED", 1000, 1100, None, 15),
        jobs.PastJob("13", "a|b", "COMPLETED", 1, 2, 0, None),
        jobs.PastJob("14", "c", "CANCELLED", 0, 5, 0, None),
        jobs.PastJob("15", "d", "RUNNING", 7, 0, 0, None),
    ]


@pytest.mark.parametrize(
    ("text", "minutes"), [("1-02:03:00", 1563), ("02:03:00", 123), ("5:00", 5), ("UNLIMITED", None), ("", None)]
)
def test_minutes(text: str, minutes: int | None) -> None:
    assert jobs.minutes(text) == minutes


def test_only_a_job_that_is_put_back_after_it_began_has_ended() -> None:
    native = Native()
    waiting = OLD | {"job_state": "PENDING", "nodes": "", "restart_cnt": 1}
    assert not native.observe(parsed(waiting), 100) or not native.ended
    for _ in range(3):
        native.observe(parsed(OLD | {"restart_cnt": 1}), 120)
    assert (native.ended, [fact[0] for fact in native.facts]) == ("", ["START"]), "put back before it began"
    native.observe(parsed(waiting | {"restart_cnt": 2, "preempt_time": 150}), 160)
    assert (native.ended, native.preempted, native.facts[-1]) == ("REQUEUED", True, ("STOP", 150, 160, "engine"))
    assert not native.observe(parsed(OLD | {"restart_cnt": 2}), 200), "nothing changes any more"


# --- nodes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu:a100:2(S:0,2),shard:8", [("gpu", "a100", 2, None), ("shard", "", 8, None)]),
        ("gpu:a100:1(IDX:0),gpu:v100:0(IDX:N/A)", [("gpu", "a100", 1, (0,)), ("gpu", "v100", 0, ())]),
        ("gpu:4(IDX:0-1,3)", [("gpu", "", 4, (0, 1, 3))]),
        ("gres:gpu:h100:8", [("gpu", "h100", 8, None)]),
        ("gres/gpu:2", [("gpu", "", 2, None)]),
        ("bandwidth:lustre:4K", [("bandwidth", "lustre", 4096, None)]),
        ("(null)", []),
        ("", []),
    ],
)
def test_gres(text: str, found: list[tuple[Any, ...]]) -> None:
    assert [(gres.name, gres.kind, gres.count, gres.indices) for gres in parse_gres(text)] == found


NODE = {
    "name": "n1",
    "partitions": ["gpu", "low"],
    "state": "mixed",
    "state_flags": ["DRAIN"],
    "cpus": 8,
    "alloc_cpus": 3,
    "real_memory": 4096,
    "alloc_memory": 1024,
    "gres": "gpu:a100:2",
    "gres_used": "gpu:a100:1(IDX:1)",
}


def test_nodes_of_both_generations() -> None:
    [old] = nodes.parse_nodes(json.dumps({"nodes": [NODE]}))
    [new] = nodes.parse_nodes(json.dumps({"nodes": [NODE | {"state": ["MIXED", "DRAIN"], "state_flags": []}]}))
    assert old == new
    assert not old.usable
    [idle] = nodes.parse_nodes(json.dumps({"nodes": [NODE | {"state": ["IDLE"], "state_flags": []}]}))
    assert idle.usable


def node(name: str, gres: str, used: str, partitions: tuple[str, ...] = ("gpu",), cpus_used: int = 0) -> Node:
    return Node(name, partitions, frozenset({"IDLE"}), 8, cpus_used, 8192, 0, parse_gres(gres), parse_gres(used))


def pools(*members: Node, names: dict[str, str] | None = None, partitions: tuple[str, ...] = ("gpu",)) -> dict[str, Any]:
    cards = Cards(names or {})
    cards.learn(members)
    homes = homes_of(members, [PartitionSettings(name=name) for name in partitions])
    return {pool.name: pool for pool in pools_of(homes, cards, {})}


def test_a_node_counts_once_in_the_first_partition() -> None:
    found = pools(node("n1", "gpu:h100:2", "", ("low", "gpu")), partitions=("gpu", "low"))
    assert list(found) == ["gpu"]
    assert found["gpu"].card_class == "H100-80G"


def test_cards_by_index_and_alike_nodes_together() -> None:
    found = pools(node("n1", "gpu:h100:2", "gpu:h100:1(IDX:1)"), node("n2", "gpu:h100:2", ""), node("n3", "gpu:h100:2", ""))[
        "gpu"
    ]
    assert found.free["cards/H100-80G"] == 500
    assert {(shape.count, tuple(shape.cards)) for shape in found.shapes} == {
        (1, ((0, 0), (100, 81920))),
        (2, ((100, 81920), (100, 81920))),
    }


def test_two_classes_in_one_node_are_two_pools_of_one_group() -> None:
    found = pools(node("n1", "gpu:h100:1,gpu:l40s:2", "gpu:h100:0(IDX:N/A),gpu:l40s:1(IDX:1)"), node("n2", "", ""))
    assert sorted(found) == ["gpu-H100-80G-L40S-48G-H100-80G", "gpu-H100-80G-L40S-48G-L40S-48G", "gpu-cpu"]
    assert len({pool.node_group for pool in found.values()} - {None}) == 1
    assert found["gpu-H100-80G-L40S-48G-L40S-48G"].free["cards/L40S-48G"] == 100
    assert found["gpu-H100-80G-L40S-48G-H100-80G"].free["cards/H100-80G"] == 100


def test_a_type_that_the_catalogue_lacks_keeps_its_name_unless_the_operator_says_more() -> None:
    assert pools(node("n1", "gpu:gtx9:1", ""))["gpu"].card_class == "gtx9"
    named = pools(node("n1", "gpu:gtx9:1", ""), names={"gtx9": "GTX9-12G"})["gpu"]
    assert (named.card_class, named.card_memory_mib) == ("GTX9-12G", 12288)


def test_shares_that_nobody_explains_make_a_card_full() -> None:
    cards = Cards({"a100": "A100-80G"})
    member = node("n1", "gpu:a100:2,shard:8", "gpu:a100:0(IDX:N/A),shard:1(IDX:1)")
    cards.learn([member])
    assert cards.free_of(member, "A100-80G") == [(100, 81920), (0, 0)]
    job = parsed(OLD | {"gres_detail": ["shard:1(IDX:1)"]})
    cards.learn([member], [job])
    assert cards.free_of(member, "A100-80G") == [(100, 81920), (75, 61440)]
    newer = node("n1", "gpu:a100:2,shard:8", "shard:a100:3(1/4,2/4)")
    assert [centi for centi, _memory in cards.free_of(newer, "A100-80G")] == [75, 50]


def test_a_card_in_use_without_its_index_is_still_in_use() -> None:
    cards = Cards({})
    member = Node("n1", ("gpu",), frozenset(), 8, 0, 1, 0, (Gres("gpu", "h100", 2),), (Gres("gpu", "h100", 1),))
    cards.learn([member])
    assert [centi for centi, _memory in cards.free_of(member, "H100-80G")] == [0, 100]


# --- reasons and refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("native", "code"),
    [
        ("None", "cluster.waiting"),
        ("Priority", "cluster.queued"),
        ("Resources", "capacity.no_free_node"),
        ("Licenses", "capacity.no_free_node"),
        ("Reservation", "capacity.reserved"),
        ("QOSMaxCpuPerUserLimit", "quota.native"),
        ("QOSMaxJobsPerUserLimit", "quota.native"),
        ("QOSMaxGRESPerUser", "quota.native"),
        ("QOSGrpCpuLimit", "quota.native"),
        ("QOSGrpGRES", "quota.native"),
        ("QOSMaxWallDurationPerJobLimit", "never.time_limit"),
        ("QOSMaxCpuPerJobLimit", "never.exceeds_limit"),
        ("QOSMaxNodePerJobLimit", "never.gang_too_large"),
        ("QOSMinGRES", "never.exceeds_limit"),
        ("AssocGrpGRES", "quota.native"),
        ("AssocGrpCpuLimit", "quota.native"),
        ("AssocGrpCPUMinutesLimit", "quota.native"),
        ("AssocMaxJobsLimit", "quota.native"),
        ("AssociationJobLimit", "quota.native"),
        ("AssocMaxWallDurationPerJobLimit", "never.time_limit"),
        ("AssocMaxCpuPerJobLimit", "never.exceeds_limit"),
        ("PartitionTimeLimit", "never.time_limit"),
        ("PartitionNodeLimit", "never.gang_too_large"),
        ("PartitionDown", "cluster.nodes_down"),
        ("PartitionInactive", "cluster.nodes_down"),
        ("ReqNodeNotAvail", "cluster.nodes_down"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "cluster.nodes_down"),
        ("ReqNodeNotAvail(Unavailable:n3)", "cluster.nodes_down"),
        ("NodeDown", "cluster.nodes_down"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "cluster.nodes_down"),
        ("JobHeldUser", "cluster.held"),
        ("JobHeldAdmin", "cluster.held"),
        ("BeginTime", "policy.not_before"),
        ("Dependency", "cluster.waiting"),
        ("DependencyNeverSatisfied", "cluster.waiting"),
        ("BadConstraints", "never.too_large"),
        ("InvalidQOS", "cluster.refused"),
        ("InvalidAccount", "cluster.refused"),
        ("SomethingOfATimeToCome", "cluster.waiting"),
    ],
)
def test_pending_reasons(native: str, code: str) -> None:
    assert code_of(native, cards=False) == code
    assert code in REASONS


def test_resources_are_cards_where_cards_are_asked_for() -> None:
    assert code_of("Resources", cards=True) == "capacity.no_free_cards"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "never.too_large"),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            "never.time_limit",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "cluster.refused",
        ),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, …)", "quota.native"),
        ("sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification", "never.no_card_class"),
        ("sbatch: error: Batch job submission failed: Node count specification invalid", "never.gang_too_large"),
        ("sbatch: error: something else", "cluster.start_failed"),
    ],
)
def test_refusals(words: str, code: str) -> None:
    assert refusal(words).code == code
    assert code in REASONS


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "say whose account"),
        ("shared_account = true\nsame_names = true", "shared_account excludes"),
        ("same_names = true\n[environments.a]\n", "give python, venv or image"),
        ('same_names = true\n[environments.a]\npython = "python3"', "absolute path"),
        ('same_names = true\n[environments.a]\nimage = "/i"\nvenv = "/v"', "either image or venv"),
        ('same_names = true\n[[partitions]]\nname = "a b"', "partitions.0.name"),
        ('same_names = true\n[[partitions]]\nname = "a;b"', "partitions.0.name"),
        ('[accounts]\nada = "-root"', "accounts.ada"),
        ("same_names = true\nunknown = 1", "unknown"),
        ('same_names = true\n[ssh]\nhost = "h"\nuser = "u"', "ssh and sudo need directory"),
        ('same_names = true\ndirectory = "/d"\n[ssh]\nhost = "h"\nuser = "u"', "ssh.keys or sudo"),
        ('same_names = true\ndirectory = "/d"\n[ssh]\nhost = "-oProxyCommand=x"\nuser = "u"', "ssh.host"),
        ("not toml", "is not TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text(text)
    with pytest.raises(ProxyError) as caught:
        read_settings(file)
    assert caught.value.code == "proxy.bad_option"
    assert problem in str(caught.value)


def test_the_kinds_of_environments() -> None:
    settings = SlurmSettings.model_validate(
        {
            "same_names": True,
            "environments": {
                "plain": {"python": "/opt/python"},
                "venv": {"venv": "/sw/torch", "modules": ["cuda/12.4"]},
                "image": {"image": "/sw/torch.sif"},
            },
        }
    )
    found = {name: (environment.kind, environment.interpreter) for name, environment in settings.environments.items()}
    assert found == {
        "plain": ("local path", "/opt/python"),
        "venv": ("module + venv", "/sw/torch/bin/python"),
        "image": ("apptainer", "python3"),
    }


def test_what_a_part_tells_of_its_end_stops_no_other_run(tmp_path: Path, make_lease: LeaseMaker) -> None:
    """The record lies where the person's code can write: it goes to the service in one call with what all others tell."""
    lease, _source = make_lease("", roles=[{"replicas": 2, "resources": {"cpu_millicores": 100, "memory_mib": 128}}])
    run = RunDirectory.create(tmp_path, lease)
    told = {"lease_token": lease.lease_token, "state": "failed", "reason": {"code": "script.exit", "message": "own"}}
    (run.run / "ranks/1").mkdir(parents=True)
    (run.run / "exit.json").write_text(json.dumps(told))
    part = {"state": "failed", "exit_code": 10**30, "reason": {"message": "half \ud800"}}
    (run.run / "ranks/1/exit.json").write_text(json.dumps(part))
    end = ending(run, Native(job_id="7", ended="FAILED", end=200))
    assert end is not None
    assert end.reason is not None
    end.reason.model_dump_json().encode()
    assert (end.reason.message, end.exit_code) == ("part 1: half ?", None)
