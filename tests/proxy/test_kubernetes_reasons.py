"""Texts of schedulers, as Kubernetes and Volcano write them, to our codes; the real cluster makes some of them, too."""

from __future__ import annotations

from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes.reasons import CODES, reason_for
from tessera_hub.tasks.reasons import REASONS
from volcano_client import causes_of_event, causes_of_pod, causes_of_pod_group
from volcano_client.pending import causes_of_scheduling

GANG = (
    "3/6 tasks in gang unschedulable: pod group is not ready, 6 Pending, 6 minAvailable; Pending: 3 Unschedulable, 3 Schedulable"
)
NODES = "0/4 nodes are available: "
QUEUE = "queue resource quota insufficient: insufficient nvidia.com/gpu"


def pod(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"status": {"conditions": [condition]}}


def codes(causes: list[Any]) -> list[str]:
    return [CODES[cause.kind] for cause in causes]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"{NODES}1 Insufficient cpu. preemption: {NODES}1 No preemption victims found.",
            ["capacity.no_free_node"],
        ),
        (
            f"{NODES}3 Insufficient nvidia.com/gpu, 1 Insufficient memory.",
            ["capacity.no_free_cards", "capacity.no_free_node"],
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {team: other}.", ["cluster.taint"]),
        ("0/2 nodes are available: 2 node(s) were unschedulable.", ["cluster.nodes_down"]),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", ["cluster.affinity"]),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", ["cluster.volume"]),
        ('0/1 nodes are available: persistentvolumeclaim "none" not found.', ["cluster.volume"]),
        ("0/1 nodes are available: 1 Too many pods.", ["capacity.no_free_node"]),
        ("something new", ["cluster.waiting"]),
    ],
)
def test_what_the_scheduler_says(message: str, expected: list[str]) -> None:
    assert codes(causes_of_pod(pod(message))) == expected


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_does_not_come(reason: str) -> None:
    state = {"waiting": {"reason": reason, "message": "Back-off pulling image"}}
    found = causes_of_pod({"status": {"initContainerStatuses": [{"name": "prepare", "image": "x:1", "state": state}]}})
    assert codes(found) == ["cluster.image"]
    assert found[0].detail == {"image": "x:1", "reason": reason}


def test_volcano_says_why_in_conditions_and_events() -> None:
    condition = {"type": "Unschedulable", "status": "True", "reason": "NotEnoughResources", "message": GANG}
    [cause] = causes_of_pod_group({"status": {"conditions": [condition]}})
    assert (CODES[cause.kind], cause.detail["unschedulable"], cause.detail["tasks"]) == ("capacity.gang", 3, 6)
    later = {"type": "Scheduled", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"}
    assert (
        causes_of_pod_group({"status": {"conditions": [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}, later]}})
        == []
    )
    [cause] = causes_of_event({"reason": "Unschedulable", "message": QUEUE})
    assert (CODES[cause.kind], cause.detail) == ("quota.native", {"resource": "nvidia.com/gpu"})
    overused = {
        "reason": "Unschedulable",
        "message": "resource in cluster is overused: overused cpu, overused huawei.com/Ascend910",
    }
    assert codes(causes_of_event(overused)) == ["capacity.no_free_cards", "capacity.no_free_node"]
    assert codes(causes_of_event(overused | {"message": "resource in cluster is overused"})) == ["capacity.no_free_node"]
    possible = "Pod ns/p can possibly be assigned to node-1, once minAvailable is satisfied"
    [cause] = causes_of_scheduling(possible)
    assert (CODES[cause.kind], cause.detail) == ("capacity.gang", {"possible_node": "node-1"})
    [cause] = causes_of_scheduling(possible.replace("once", "once resource is released and"))
    assert CODES[cause.kind] == "capacity.no_free_node"
    nothing = "0/0 tasks in gang unschedulable: pod group is not ready, 1 minAvailable"
    assert causes_of_event({"reason": "Unschedulable", "message": nothing}) == []


def test_a_missing_secret_is_the_persons_to_mend() -> None:
    state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "secret-db" not found'}}
    found = reason_for(causes_of_pod({"status": {"containerStatuses": [{"name": "main", "state": state}]}}))
    assert found is not None
    assert found.code == "secret.unknown"


def test_a_folder_that_a_data_sets_volume_has_not_is_told_as_such() -> None:
    words = 'failed to create subPath directory for volumeMount "{}" of container "main"'
    for volume, code in (("dataset-0", "dataset.missing"), ("home", "cluster.start_failed")):
        state = {"waiting": {"reason": "CreateContainerConfigError", "message": words.format(volume)}}
        found = reason_for(causes_of_pod({"status": {"containerStatuses": [{"name": "main", "state": state}]}}))
        assert found is not None
        assert found.code == code


def test_every_code_has_a_text() -> None:
    assert set(CODES.values()) <= REASONS.keys()
