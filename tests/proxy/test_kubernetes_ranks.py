"""How several pods make one run: from pods as Kubernetes and Volcano show them, without a cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes import ranks, services, standing
from tessera_hub.proxy.drivers.kubernetes.lostnodes import as_it_stands
from tessera_hub.proxy.drivers.kubernetes.objects import slots_of
from tessera_hub.proxy.drivers.kubernetes.options import COMPANY, RECORD
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.kubernetes.standing import Document, Seen
from tessera_hub.proxy.drivers.runrecords import Order, moment
from tessera_hub.schemas.resources import Resources
from tests.proxy.conftest import LeaseMaker

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
LIST = json.dumps({"parts": []})


def at(second: int) -> str:
    return NOW.replace(second=second).isoformat().replace("+00:00", "Z")


def pod(rank: int, *, told: bool = True, began: int | None = 1, volcano: bool = False, **terminated: Any) -> dict[str, Any]:
    """Return a pod; *terminated* has ``exit``, ``at`` and, of the launcher's own record, ``state``."""
    metadata: dict[str, Any] = {
        "name": f"tessera-x-main-{rank}" if volcano else f"tessera-x-{rank}-abcde",
        "namespace": "n",
        "uid": f"u{rank}",
        "creationTimestamp": at(0),
        "finalizers": [RECORD],
        "annotations": {"volcano.sh/task-spec": "main"} if volcano else {ranks.INDEX: str(rank)},
    }
    metadata["annotations"] |= {COMPANY: LIST} if told else {}
    state: dict[str, Any] = {} if began is None else {"running": {"startedAt": at(began)}}
    status: dict[str, Any] = {"phase": "Running", "podIP": f"10.0.0.{rank + 1}"}
    statuses = [{"name": "main", "state": state}]
    if terminated:
        told_state = {"state": terminated["state"], "reason": {"code": "script.exit", "message": "status 5"}}
        words = json.dumps({"schema": 1, "exit": told_state, "finished_at": at(terminated["at"]), "checkpoint": 0, "notes": {}})
        ended = {"startedAt": at(began or 1), "finishedAt": at(terminated["at"]), "exitCode": terminated["exit"]}
        statuses = [
            {"name": "main", "state": {"terminated": ended}},
            {"name": "deliver", "state": {"terminated": {"exitCode": 0, "message": words}}},
        ]
        status["phase"] = "Failed" if terminated["exit"] else "Succeeded"
    return {"metadata": metadata, "spec": {"nodeName": "here"}, "status": status | {"containerStatuses": statuses}}


def seen(*pods: Document) -> Seen:
    return Seen({"metadata": {"name": "tessera-x", "uid": "job"}}, None, ranks=ranks.by_rank(pods))


@pytest.fixture
def record(make_lease: LeaseMaker) -> Record:
    """A run of three pods."""
    lease, _source = make_lease("x", kind="training", roles=[{"replicas": 3}])
    return Record(lease, "n", "tessera-x", "secret", NOW, job_uid="job")


@pytest.mark.parametrize("volcano", [False, True])
def test_a_pod_says_which_part_it_is(volcano: bool) -> None:
    assert [ranks.rank_of(pod(rank, volcano=volcano)) for rank in (0, 11)] == [0, 11]
    assert ranks.rank_of({"metadata": {"name": "other-7"}}) is None


def test_the_list_is_of_all_parts_in_order_or_is_not_there(record: Record) -> None:
    pods = [pod(rank, told=False) for rank in (2, 0, 1)]
    assert ranks.company_of(record, seen(*pods[:2])) is None
    assert ranks.company_of(record, seen(*pods[:2], pod(1, told=False, began=None))) is None
    found = ranks.company_of(record, seen(*pods))
    assert found is not None
    assert [part["uid"] for part in json.loads(found)["parts"]] == ["u0", "u1", "u2"]
    unheld = pod(1, told=False)
    unheld["metadata"]["finalizers"] = []
    assert ranks.company_of(record, seen(pods[0], pods[1], unheld)) is None, "a pod that may vanish is not let in"


def test_a_list_that_was_shown_does_not_change_for_a_pod_that_came_later(record: Record) -> None:
    late = pod(1, told=False)
    late["metadata"]["uid"] = "another"
    assert ranks.company_of(record, seen(pod(0), late, pod(2, told=False))) == LIST


def test_the_others_of_an_mpi_program_are_done_when_its_first_part_has_ended_well(record: Record, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("x", kind="training", framework="mpi", roles=[{"replicas": 3}])
    mpi = replace(record, lease=lease)
    well, badly = pod(0, at=5, exit=0, state="succeeded"), pod(0, at=5, exit=1, state="failed")
    served = [pod(1), pod(2, at=6, exit=0, state="succeeded")]
    assert [found["metadata"]["uid"] for found in ranks.left_waiting(mpi, seen(well, *served))] == ["u1"]
    assert ranks.left_waiting(mpi, seen(badly, *served)) == []
    assert ranks.left_waiting(mpi, seen(pod(0), *served)) == []
    assert ranks.left_waiting(record, seen(well, *served)) == [], "other programs run in all parts"


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        ({"cpu_millicores": 100}, 1),
        ({"cpu_millicores": 3900}, 3),
        ({"cpu_millicores": 8000, "cards": {"centi_cards": 200, "mode": "whole"}}, 2),
        ({"cpu_millicores": 8000, "cards": {"centi_cards": 50, "mode": "vcuda"}}, 1),
        ({"cpu_millicores": 8000, "cards": {"centi_cards": 150, "max_cards": 2, "mode": "vcuda"}}, 2),
    ],
)
def test_a_pod_has_room_for_a_process_per_card_else_per_processor(resources: dict[str, Any], slots: int) -> None:
    assert slots_of(Resources.model_validate(resources)) == slots


def test_it_runs_from_when_the_last_part_was_there(record: Record) -> None:
    waiting = seen(pod(0, told=False), pod(1, told=False, began=7), pod(2, told=False, began=None))
    assert (ranks.living(record, waiting).phase, ranks.living(record, waiting).meter) == ("STARTING", ())
    run = ranks.living(record, seen(pod(0), pod(1, began=7), pod(2)))
    assert (run.phase, run.uid, run.native_id) == ("RUNNING", "job", "n/tessera-x-0-abcde")
    [start] = run.meter
    assert (start.effective_at, start.spec["cpu"]) == (int(NOW.timestamp()) + 7, 3000)


def test_the_part_that_failed_first_by_itself_says_how_it_ended(record: Record) -> None:
    stopped = {"exit": 143, "state": "cancelled"}
    found = seen(pod(0, at=5, **stopped), pod(1, at=9, exit=6, state="failed"), pod(2, at=8, exit=5, state="failed"))
    assert ranks.is_over(record, found)
    run = ranks.ended(record, found, NOW).run
    assert (run.phase, run.exit_code) == ("FAILED", 5)
    assert run.reason is not None
    assert (run.reason.detail["rank"], run.reason.message) == (2, "part 2: status 5")
    assert [(fact.action, fact.effective_at - int(NOW.timestamp())) for fact in run.meter] == [("START", 1), ("STOP", 9)]


def test_after_an_order_a_part_that_obeyed_says_how_it_ended(record: Record) -> None:
    ordered = replace(record, order=Order("preempt", 5, NOW))
    found = seen(
        pod(0, at=5, exit=1, state="failed"), pod(1, at=6, exit=143, state="preempted"), pod(2, at=4, exit=0, state="succeeded")
    )
    assert ranks.ended(ordered, found, NOW).run.phase == "PREEMPTED"


def test_one_part_that_goes_on_keeps_the_run(record: Record) -> None:
    found = seen(pod(0, at=5, exit=0, state="succeeded"), pod(1), pod(2, at=5, exit=0, state="succeeded"))
    assert not ranks.is_over(record, found)
    assert ranks.failed_part(found) is None
    assert ranks.living(record, found).phase == "RUNNING"


def test_parts_that_waited_only_are_not_billed(record: Record) -> None:
    found = seen(*(pod(rank, told=False, at=5, exit=143, state="cancelled") for rank in range(3)))
    assert ranks.is_over(record, found)
    end = ranks.ended(replace(record, gave_back="no room"), found, NOW)
    assert (end.run.phase, end.run.reason.code if end.run.reason else "", end.run.meter) == ("QUEUED", "cluster.gave_back", ())


SILENT = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": at(20)}]}}
ANSWERS = {"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(0)}]}}


def deleted(rank: int, second: int, **fields: Any) -> dict[str, Any]:
    """Return a pod whose deletion's time is over at *second*."""
    found = pod(rank, **fields)
    found["metadata"]["deletionTimestamp"] = at(second)
    return found


@pytest.mark.parametrize(
    ("candidate", "node"),
    [(pod(0), SILENT), (deleted(0, 50), SILENT), (deleted(0, 30), ANSWERS)],
    ids=["not given up", "still in its grace", "answers"],
)
def test_a_pod_is_not_lost_before_kubernetes_gave_it_up(candidate: dict[str, Any], node: dict[str, Any]) -> None:
    assert as_it_stands(candidate, node, NOW.replace(second=40)) == candidate


@pytest.mark.parametrize(
    ("node", "heard"), [(None, True), (None, False), (ANSWERS, False)], ids=["gone", "gone after a silence", "back since"]
)
def test_a_pod_that_was_collected_with_its_node_is_lost_and_not_evicted(
    record: Record, make_lease: LeaseMaker, node: dict[str, Any] | None, heard: bool
) -> None:
    """An eviction would be placed anew, beside what perhaps still goes on."""
    lease, _source = make_lease("x")
    collected = deleted(0, 30)
    collected["status"] |= {
        "phase": "Failed",
        "conditions": [
            {"type": "Ready", "status": str(heard), "lastTransitionTime": at(2 if heard else 20)},
            {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
            },
        ],
    }
    before = {**collected, "metadata": {**collected["metadata"], "deletionTimestamp": None}}
    for shown in (before, collected):  # it is deleted a moment after it was written that it failed
        found = Seen(None, as_it_stands(shown, node, NOW.replace(second=40)))
        run = standing.ended(replace(record, lease=lease), found, NOW.replace(second=40)).run
        assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "cluster.lost")
        last = 20 if not heard else 30 if shown is collected else 40
        assert run.at == moment(at(last)), "until it was last heard of, where that is known"


@pytest.mark.parametrize(("reason", "last"), [(None, 20), ("ContainersNotReady", 30)], ids=["by its node's silence", "by itself"])
def test_a_pod_that_was_not_ready_by_itself_does_not_tell_when_its_node_fell_silent(
    record: Record, make_lease: LeaseMaker, reason: str | None, last: int
) -> None:
    """A service that never listens is not ready from its birth on, and is not free where its node is deleted."""
    lease, _source = make_lease("x", kind="service")
    shown = deleted(0, 30)
    shown["status"]["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": at(20), "reason": reason}]
    served = services.served_now(replace(record, lease=lease), [as_it_stands(shown, None, NOW.replace(second=40))], NOW)
    assert [(one.action, one.at) for one in served] == [("START", moment(at(1))), ("STOP", moment(at(last)))]


def test_a_lost_node_ends_its_run_when_it_was_last_heard_of(record: Record, make_lease: LeaseMaker) -> None:
    now = NOW.replace(second=40)
    lost = as_it_stands(deleted(1, 30), SILENT, now)
    found = seen(pod(0, at=25, exit=1, state="failed"), lost, pod(2, at=26, exit=143, state="cancelled"))
    run = ranks.ended(record, found, now).run
    assert run.reason is not None
    assert (run.phase, run.reason.code, run.reason.detail["rank"]) == ("FAILED", "cluster.lost", 1)
    assert run.reason.message == "part 1: node here does not answer since 2026-11-24T12:00:20Z"
    lease, _source = make_lease("x")
    alone = replace(record, lease=lease)
    single = Seen(None, as_it_stands(deleted(0, 30), SILENT, now))
    assert standing.is_over(alone, single)
    run = standing.ended(alone, single, now).run
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "cluster.lost")
    stop = run.meter[-1]
    assert (stop.action, stop.effective_at, stop.evidence) == ("STOP", int(NOW.timestamp()) + 20, "estimated")


def test_a_pod_lost_before_its_start_is_placed_anew(record: Record, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("x")
    lost = as_it_stands(deleted(0, 30, began=None), None, NOW.replace(second=40))
    run = standing.ended(replace(record, lease=lease), Seen(None, lost), NOW).run
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("QUEUED", "cluster.gave_back", ())


def test_a_company_that_loses_a_part_before_its_start_is_placed_anew(record: Record) -> None:
    """No part begins before all were shown the list, so none may have begun unseen."""
    lost = as_it_stands(deleted(1, 30, told=False), SILENT, NOW.replace(second=40))
    assert ranks.cannot_meet(record, seen(pod(0, told=False), lost, pod(2, told=False, began=None)))
    stopped = {"at": 41, "exit": 143, "state": "cancelled"}
    others = [deleted(rank, 45, told=False, **stopped) for rank in (0, 2)]
    found = seen(others[0], lost, others[1])
    assert ranks.is_over(record, found)
    run = ranks.ended(record, found, NOW).run
    assert run.reason is not None
    assert (run.phase, run.reason.code, run.reason.detail) == ("QUEUED", "cluster.gave_back", {"reason": standing.NODE_LOST})
    assert not ranks.cannot_meet(record, seen(pod(0), lost, pod(2))), "these have begun, and are ended as others are"
