"""What is billed of a service, and what its objects are: pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes import services, standing
from tessera_hub.proxy.drivers.kubernetes.objects import lease_secret, pod_template
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import SERVED, Record, parsed, served_text
from tessera_hub.proxy.drivers.kubernetes.standing import NODE_LOST, Seen
from tessera_hub.schemas.tasks import Phase
from tests.proxy.conftest import LeaseMaker

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
OPTIONS = KubernetesOptions(environments={"default": "x:1"}, service_url="http://hub")


UNSTARTED = {
    "exitCode": 128,
    "reason": "StartError",
    "message": 'exec: "python3": not found',
    "startedAt": "1970-01-01T00:00:00Z",
}
"""As a kubelet tells it of a container that containerd 1.6 could not start."""


def at(seconds: int) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def pod(
    uid: str, began: int | None = None, ended: int | None = None, *, restarted: int | None = None, **main: Any
) -> dict[str, Any]:
    """A pod whose program began, began again, and ended so many seconds after noon."""
    state: dict[str, Any] = {"waiting": {"reason": "PodInitializing"}}
    if began is not None:
        state = {"running": {"startedAt": at(began if restarted is None else restarted)}}
    if ended is not None:
        state = {"terminated": {"startedAt": at(began or 0), "finishedAt": at(ended), **main}}
    return {
        "metadata": {"uid": uid, "namespace": "n", "name": uid, "creationTimestamp": at(began or 0)},
        "spec": {"nodeName": "node"},
        "status": {
            "phase": "Running" if ended is None else "Failed",
            "conditions": [] if began is None else [{"type": "Initialized", "status": "True", "lastTransitionTime": at(began)}],
            "containerStatuses": [{"name": "main", "state": state}],
        },
    }


@pytest.fixture
def record(make_lease: LeaseMaker) -> Record:
    lease, _source = make_lease("print(1)", kind="service", resources={"cpu_millicores": 500, "memory_mib": 100})
    secret = lease_secret(lease, OPTIONS, "n")
    secret["metadata"] |= {"uid": "u", "creationTimestamp": at(0)}
    return parsed(secret)


def seen(record: Record, second: int, *pods: dict[str, Any]) -> Record:
    """The record after a look at these pods, read again as a Proxy does that comes back."""
    served = services.served_now(record, pods, NOON + timedelta(seconds=second))
    assert served[: len(record.served)] == record.served, "what was told is never told otherwise"
    secret = lease_secret(record.lease, OPTIONS, "n")
    secret["metadata"] |= {"uid": "u", "creationTimestamp": at(0), "annotations": {SERVED: served_text(served)}}
    again = parsed(secret)
    assert again.served == served
    return replace(again, suspends=record.suspends)


def facts(record: Record) -> list[tuple[str, str | None, int]]:
    return [(f.action, f.subject, f.effective_at - int(NOON.timestamp())) for f in services.meter_of(record)]


def test_each_pod_is_a_subject_by_the_engine_s_times(record: Record) -> None:
    record = seen(record, 1, pod("a"))
    assert services.meter_of(record) == ()
    record = seen(record, 20, pod("a", 10, restarted=18))
    record = seen(record, 90, pod("a", 10, 80), pod("b", 85))
    record = seen(record, 95, pod("b", 85, restarted=94))
    assert facts(record) == [("START", "u/a", 10), ("STOP", "u/a", 80), ("START", "u/b", 85)]
    assert services.meter_of(record)[0].spec == {"cpu": 500, "memory": 100}
    run = services.living(record, Seen(None, None))
    assert (run.phase, run.uid, run.meter) == (Phase.RUNNING, "u", services.meter_of(record))


def test_a_held_pod_pays_for_memory_only_and_one_that_is_gone_ended_now(record: Record) -> None:
    record = seen(record, 20, pod("a", 10))
    record = replace(record, suspends=(("suspended", NOON + timedelta(seconds=30)),))
    record = seen(record, 31, pod("a", 10))
    record = replace(record, suspends=(*record.suspends, ("resumed", NOON + timedelta(seconds=40))))
    record = seen(record, 41, pod("a", 10))
    record = seen(record, 60)
    assert [fact[0::2] for fact in facts(record)] == [("START", 10), ("PAUSE", 30), ("RESUME", 40), ("STOP", 60)]
    assert [fact.spec for fact in services.meter_of(record)][1] == {"memory": 100}
    assert services.meter_of(record)[-1].evidence == "observed"


def test_a_lost_node_ends_the_bill_where_it_was_last_heard_of(record: Record) -> None:
    record = seen(record, 400, pod("a", 10, 50, reason=NODE_LOST))
    assert (facts(record)[-1], services.meter_of(record)[-1].evidence) == (("STOP", "u/a", 50), "estimated")


def test_a_preparation_that_cannot_be_ends_the_service_and_a_later_one_does_not(record: Record) -> None:
    words = '{"code": "inputs.missing", "message": "main.py", "detail": {}}'
    failed = pod("a")
    state = {"terminated": {"exitCode": 66, "finishedAt": at(5), "message": words}}
    failed["status"]["initContainerStatuses"] = [{"name": "prepare", "state": {"waiting": {}}, "lastState": state}]
    end = services.spoiled(record, [failed])
    assert end is not None
    assert (end.phase, end.reason.code if end.reason else "") == (Phase.FAILED, "inputs.missing")
    assert services.spoiled(seen(record, 20, pod("b", 10)), [failed]) is None


def test_the_objects_name_the_port_and_nobody_counts_a_restart_as_a_new_claim(record: Record) -> None:
    lease = record.lease.model_copy(update={"spec": record.lease.spec.model_copy(update={"port": 9000})})
    secret = {"metadata": {"name": record.name, "namespace": "n", "uid": "u"}}
    made = services.deployment(lease, OPTIONS, secret, pod_template(lease, OPTIONS, "x:1", "code", {}, None))["spec"]
    spec = made["template"]["spec"]
    assert (made["replicas"], spec["restartPolicy"], "activeDeadlineSeconds" in spec) == (1, "Always", False)
    assert spec["initContainers"][0]["env"] == [{"name": "TESSERA_CLAIMANT", "value": "u"}]
    assert {"name": "TESSERA_PORT", "value": "9000"} in spec["containers"][0]["env"]
    front = services.front(lease, OPTIONS, secret)["spec"]
    assert (front["type"], front["ports"][0]["port"], front["selector"]) == ("ClusterIP", 9000, made["selector"]["matchLabels"])


def test_a_program_that_could_not_be_started_is_not_billed_since_1970(record: Record) -> None:
    unstartable = pod("a", 5)
    unstartable["status"]["containerStatuses"][0]["state"] = {"terminated": UNSTARTED | {"finishedAt": at(6)}}
    assert services.began_at(unstartable) is None
    assert seen(record, 7, unstartable).served == ()


def test_a_run_whose_program_could_not_be_started_is_over_and_says_why(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("print(1)")
    secret = lease_secret(lease, OPTIONS, "n")
    secret["metadata"] |= {"uid": "u", "creationTimestamp": at(0)}
    unstartable = pod("a", 5)  # goes on, since what delivers in it waits for the program
    unstartable["status"]["containerStatuses"][0]["state"] = {"terminated": UNSTARTED | {"finishedAt": at(6)}}
    shown = Seen(None, unstartable)
    assert standing.is_over(parsed(secret), shown)
    run = standing.ended(parsed(secret), shown, NOON).run
    assert (run.phase, run.meter) == (Phase.FAILED, ())
    assert run.reason is not None
    assert (run.reason.code, run.reason.message) == ("cluster.start_failed", 'exec: "python3": not found')
    assert not standing.is_over(parsed(secret), Seen(None, pod("a", 5)))
