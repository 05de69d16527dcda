"""Answers recorded from real Slurms of later versions than the one that the tests start, and the documented ones in between.

``recorded.json`` has what 24.11.5 answered in its dialects v0.0.40 (23.11), v0.0.41 (24.05) and v0.0.42, and 26.05.5 in v0.0.42,
v0.0.43 (25.05), v0.0.44 (25.11) and v0.0.45, asked by ``squeue --json=<dialect> --states=all`` and ``scontrol show nodes
--json=<dialect>``: only the fields that the driver reads, with shifted times. The jobs are the same in all six, the nodes in all
of one version. There: a job with a card, one that failed, one that was cancelled, a held array of three, and one with shards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tessera_hub.proxy.drivers.slurm.inventory import Cards
from tessera_hub.proxy.drivers.slurm.jobs import Job, parse_jobs
from tessera_hub.proxy.drivers.slurm.nodes import parse_nodes

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("recorded.json").read_text())
VERSIONS = pytest.mark.parametrize("version", ["24.11.5", "26.05.5"])


def plain(value: Any) -> Any:
    """Numbers as 22.05 has them."""
    return value["number"] if isinstance(value, dict) and "number" in value else value


def of_23_02(entry: dict[str, Any]) -> dict[str, Any]:
    """A record as v0.0.39 is documented: one state as a word, plain times, an exit code with ``signal_id``."""
    code = entry["exit_code"]
    times = ("submit_time", "start_time", "end_time", "suspend_time", "pre_sus_time", "preempt_time")
    return {
        **entry,
        **{name: plain(entry[name]) for name in times},
        "job_state": entry["job_state"][0],
        "exit_code": {
            "status": code["status"][0],
            "return_code": plain(code["return_code"]),
            "signal": {"signal_id": plain(code["signal"]["id"]), "name": code["signal"]["name"]},
        },
    }


def of_22_05(entry: dict[str, Any]) -> dict[str, Any]:
    """A record in the form of 22.05: plain numbers, the status of wait(2)."""
    code = entry["exit_code"]
    status = plain(code["return_code"]) << 8 | plain(code["signal"]["id"])
    return {name: plain(value) for name, value in entry.items()} | {"job_state": entry["job_state"][0], "exit_code": status}


def jobs(convert: Any = dict) -> list[Job]:
    return parse_jobs(json.dumps({"jobs": [convert(entry) for entry in RECORDED["jobs"]]}))


def test_jobs_of_23_11_to_26_05() -> None:
    with_card, failed, cancelled, held, with_shards = jobs()
    assert (with_card.job_id, with_card.state, with_card.user, with_card.nodes) == ("1", "RUNNING", "ada", "n1")
    assert (with_card.cpus, with_card.memory_mib, with_card.time_limit_minutes, with_card.node_count) == (2, 512, 60, 1)
    assert (with_card.submitted, with_card.start, with_card.gres) == (1000, 1000, ("gpu:a100:1(IDX:0)",))
    assert (with_card.comment, with_card.ended, with_card.suspended_at, with_card.restarts) == ("hello", False, 0, 0)
    assert (failed.ended, failed.state, failed.end, failed.exit_code, failed.signal) == (True, "FAILED", 1001, 3, None)
    assert (cancelled.ended, cancelled.state, cancelled.end, cancelled.signal) == (True, "CANCELLED", 1004, 15)
    assert (held.state, held.reason, held.start, held.nodes) == ("PENDING", "JobHeldUser", 0, "")
    assert with_shards.gres == ("shard:3(0/4,3/4)",)


@pytest.mark.parametrize("convert", [of_23_02, of_22_05])
def test_older_forms_of_the_same_jobs_say_the_same(convert: Any) -> None:
    assert jobs(convert) == jobs()


@VERSIONS
def test_nodes_of_later_versions(version: str) -> None:
    first, second, third = parse_nodes(json.dumps({"nodes": RECORDED[f"nodes of {version}"]}))
    assert (first.partitions, first.states, first.usable) == (("gpu", "low"), frozenset({"MIXED"}), True)
    assert (first.cpus, first.cpus_used, first.memory_mib, first.memory_used_mib) == (4, 3, 4096, 576)
    assert (second.states, third.gres) == (frozenset({"IDLE"}), ())


@VERSIONS
def test_a_card_and_shares_of_the_other_are_taken_where_they_are(version: str) -> None:
    """26.05 says ``-/4`` of a card that is taken as a whole; the three shares are on the second card."""
    members = parse_nodes(json.dumps({"nodes": RECORDED[f"nodes of {version}"]}))
    cards = Cards({"a100": "A100-80G"})
    cards.learn(members, jobs())
    assert [cards.free_of(member, "A100-80G") for member in members[:2]] == [
        [(0, 0), (25, 20480)],
        [(100, 81920), (100, 81920)],
    ]
