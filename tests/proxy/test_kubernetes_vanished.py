"""Containers that a kubelet cannot find: of a node that was started anew, or of a pod that was ended before it began. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.intervals import Quality, project
from tessera_hub.proxy.drivers.base import MeterFact
from tessera_hub.proxy.drivers.kubernetes import ranks, services, standing
from tessera_hub.proxy.drivers.kubernetes.options import COMPANY
from tessera_hub.proxy.drivers.kubernetes.record import Record, Served
from tessera_hub.proxy.drivers.kubernetes.standing import Seen
from tests.proxy.conftest import LeaseMaker

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
VANISHED = {
    "exitCode": 137,
    "reason": "ContainerStatusUnknown",
    "message": "The container could not be located when the pod was terminated",
    "startedAt": None,
    "finishedAt": None,
}


def at(second: int) -> str:
    return NOW.replace(second=second).isoformat().replace("+00:00", "Z")


def pod(*, prepared: int = 5, ready_changed: int, rank: int = 0, reason: str | None = None, **main: Any) -> dict[str, Any]:
    """Return a pod that was prepared then, and ceased to be ready, or never was since it was made at second 0."""
    state = main or {"terminated": VANISHED}
    return {
        "metadata": {
            "name": f"tessera-x-{rank}",
            "namespace": "n",
            "uid": f"u{rank}",
            "creationTimestamp": at(0),
            "annotations": {ranks.INDEX: str(rank), COMPANY: json.dumps({"parts": []})},
        },
        "spec": {"nodeName": "here"},
        "status": {
            "phase": "Running" if main else "Failed",
            "reason": reason,
            "conditions": [
                {"type": "Initialized", "status": "True", "lastTransitionTime": at(prepared)},
                {"type": "Ready", "status": str(bool(main)), "lastTransitionTime": at(ready_changed)},
            ],
            "initContainerStatuses": [{"name": "prepare", "state": {"terminated": {"exitCode": 0, "finishedAt": at(prepared)}}}],
            "containerStatuses": [{"name": name, "state": state} for name in ("main", "deliver")],
        },
    }


@pytest.fixture
def record(make_lease: LeaseMaker) -> Record:
    lease, _source = make_lease("x")
    return Record(lease, "n", "tessera-x", "secret", NOW, job_uid="job")


def billed(*facts: MeterFact) -> list[tuple[int, int | None, Quality]]:
    """Return what is billed of processors when all these facts are told."""
    words = ("cluster", "source", "tenant", "principal", "task_id", "run_id", "kind", "queue")
    told = [
        MeterEvent(
            **dict.fromkeys(words, "x"),
            subject="job",
            action=Action(one.action),
            effective_at=one.effective_at,
            observed_at=one.observed_at,
            spec=one.spec,
            evidence=Evidence(one.evidence),
        )
        for one in facts
    ]
    since = int(NOW.timestamp())
    return [
        (one.t0 - since, None if one.t1 is None else one.t1 - since, one.quality)
        for one in project(told)
        if one.dimension == "cpu"
    ]


def test_a_program_that_ran_when_its_node_was_started_anew_is_lost_and_its_bill_ends(record: Record) -> None:
    before = standing.living(record, Seen(None, pod(ready_changed=10, running={"startedAt": at(10)})))
    assert billed(*before.meter) == [(10, None, Quality.MEASURED)]
    after = Seen(None, pod(ready_changed=40))
    assert standing.is_over(record, after)
    run = standing.ended(record, after, NOW.replace(second=50)).run
    assert (run.phase, run.reason.code if run.reason else "", run.exit_code) == ("FAILED", "cluster.lost", None)
    assert billed(*before.meter, *run.meter[len(before.meter) :]) == [(10, 40, Quality.ESTIMATED)], "told by the same Proxy"
    assert billed(*before.meter, *run.meter) == [(10, 40, Quality.ESTIMATED)], "told by one that was started anew as well"


def test_a_part_that_vanished_ends_the_bill_of_all(record: Record, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("x", kind="training", roles=[{"replicas": 2}])
    two = replace(record, lease=lease)
    parts = [pod(rank=rank, ready_changed=10 + rank, running={"startedAt": at(10 + rank)}) for rank in range(2)]
    before = ranks.living(two, Seen(None, None, ranks=ranks.by_rank(parts)))
    after = Seen(None, None, ranks=ranks.by_rank([pod(rank=rank, ready_changed=40 + rank) for rank in range(2)]))
    assert ranks.is_over(two, after)
    run = ranks.ended(two, after, NOW.replace(second=50)).run
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "cluster.lost")
    assert billed(*before.meter, *run.meter) == [(11, 41, Quality.ESTIMATED)]


@pytest.mark.parametrize(
    ("reason", "phase", "code"),
    [("Terminated", "QUEUED", "cluster.gave_back"), (None, "FAILED", "cluster.start_failed")],
    ids=["node shut down", "for no reason"],
)
def test_what_had_not_begun_is_given_back_where_its_node_is_shut_down(
    record: Record, reason: str | None, phase: str, code: str
) -> None:
    run = standing.ended(record, Seen(None, pod(ready_changed=0, reason=reason)), NOW).run
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == (phase, code, ())


@pytest.mark.parametrize("ready_changed", [0, 20], ids=["never listened", "listened no more"])
def test_a_service_is_billed_until_its_end_was_seen(record: Record, make_lease: LeaseMaker, ready_changed: int) -> None:
    lease, _source = make_lease("x", kind="service")
    served = replace(record, lease=lease, served=(Served("START", "u0", NOW.replace(second=10), "engine"),))
    *_, stop = services.served_now(served, [pod(ready_changed=ready_changed)], NOW.replace(second=50))
    assert (stop.action, stop.at) == ("STOP", NOW.replace(second=50))
