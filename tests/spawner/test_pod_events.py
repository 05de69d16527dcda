"""What pods and their events tell: sentences for the person, reasons by code, and when a start is hopeless."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.workspaces import Reservation
from tessera_spawner.options import WorkspaceOptions
from tessera_spawner.pod_events import end_of, ended_at, is_hopeless, is_stuck, notice_of, started_at, waits_for
from tessera_spawner.pods import Cards, cards_of, joined_terms
from tessera_spawner.progress import describe

BACK_OFF = 'Back-off pulling image "tessera.test/absent:1"'


def event(reason: str, message: str = "", kind: str = "Normal") -> dict[str, Any]:
    return {"reason": reason, "message": message, "type": kind, "involvedObject": {"kind": "Pod", "name": "tessera-1"}}


def pod(*, waiting: str = "", terminated: dict[str, Any] | None = None, message: str = "", **status: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    if waiting:
        state = {"waiting": {"reason": waiting, "message": message}}
    elif terminated is not None:
        state = {"terminated": terminated}
    containers = [{"name": "notebook", "image": "tessera.test/absent:1", "state": state}] if state else []
    return {"metadata": {"name": "tessera-1"}, "status": {"phase": "Pending", "containerStatuses": containers, **status}}


@pytest.mark.parametrize(
    ("told", "percent", "words"),
    [
        (event("Scheduled", "Successfully assigned a/b to node"), 45, "A node was found."),
        (event("Pulling", 'Pulling image "x"'), 50, "being fetched"),
        (
            event(
                "Pulled", 'Successfully pulled image "x:1" in 34.512s (34.512s including waiting). Image size: 838860800 bytes.'
            ),
            60,
            "800 MiB in 35 s",
        ),
        (event("Pulled", 'Successfully pulled image "x" in 1m2.5s (1m2.5s including waiting)'), 60, "after 62 s"),
        (event("Pulled", 'Successfully pulled image "x" in 850ms (850ms including waiting)'), 60, "after 1 s"),
        (event("Pulled", 'Container image "x:1" already present on machine'), 60, "already"),
        (event("Started", "Started container notebook"), 65, "container runs"),
        (event("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.", "Warning"), 45, "No node has enough"),
        (event("Failed", 'Failed to pull image "x": not found', "Warning"), 45, "cannot get the image"),
        (event("FailedMount", "MountVolume.SetUp failed for volume", "Warning"), 45, "A volume of the run is not ready"),
    ],
)
def test_an_event_becomes_a_sentence_in_the_persons_language(told: dict[str, Any], percent: int, words: str) -> None:
    notice = notice_of(told)
    assert notice is not None
    english, chinese = describe(notice, "en"), describe(notice, "zh_CN")
    assert (english["progress"], words in english["message"]) == (percent, True), english
    assert any("一" <= character <= "鿿" for character in chinese["message"]), chinese


@pytest.mark.parametrize(
    "told", [event("Created", "Created container notebook"), event("Started", "Started container home"), event("Odd")]
)
def test_what_tells_a_person_nothing_is_left_out(told: dict[str, Any]) -> None:
    assert notice_of(told) is None


def test_the_engines_words_are_shown_small_and_cannot_be_markup() -> None:
    words = 'Failed to pull image "<script>alert(1)</script>"'
    notice = notice_of(event("Failed", words, "Warning"))
    assert notice is not None
    shown = describe(notice, "en")
    assert "<script>" not in shown["html_message"]
    assert "&lt;script&gt;" in shown["html_message"]
    assert "script" not in shown["message"]


@pytest.mark.parametrize(
    ("seen", "code", "stuck", "hopeless"),
    [
        (pod(waiting="ContainerCreating"), None, False, False),
        (pod(waiting="ImagePullBackOff", message=BACK_OFF), "cluster.image", True, False),
        (pod(waiting="ErrImagePull", message="not found"), "cluster.image", True, False),
        (pod(waiting="InvalidImageName", message="Failed to apply default image tag"), "cluster.image", True, True),
        (pod(waiting="CreateContainerConfigError", message='secret "a" not found'), "secret.unknown", True, False),
        (
            pod(
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                    }
                ]
            ),
            "capacity.no_free_cards",
            False,
            False,
        ),
        (pod(terminated={"exitCode": 3, "finishedAt": "2026-01-01T00:00:09Z"}), None, False, True),
    ],
)
def test_why_a_pod_waits_and_whether_it_can_still_come_up(
    seen: dict[str, Any], code: str | None, stuck: bool, hopeless: bool
) -> None:
    reason = waits_for(seen)
    assert ((reason and reason.code), is_stuck(seen), is_hopeless(seen)) == (code, stuck, hopeless)


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (None, "cluster.cancelled"),
        (pod(terminated={"exitCode": 0}), "workspace.stopped"),
        (pod(terminated={"exitCode": 1}), "workspace.ended"),
        (pod(terminated={"exitCode": 137, "reason": "OOMKilled"}), "limit.memory"),
        (pod(terminated={"exitCode": 137}, reason="Evicted", message="The node was low on memory."), "cluster.evicted"),
        (pod(phase="Failed", reason="NodeLost"), "cluster.lost"),
        (pod(phase="Failed", reason="UnexpectedAdmissionError"), "cluster.evicted"),
    ],
)
def test_why_a_pod_ended(seen: dict[str, Any] | None, code: str) -> None:
    reason = end_of(seen)
    assert reason is not None
    assert reason.code == code


def test_a_pod_that_is_taken_away_says_whether_it_made_room() -> None:
    running = pod(phase="Running")
    assert end_of(running) is None
    running["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert (end_of(running) or pytest.fail("no end")).code == "cluster.cancelled"
    ended_well = pod(terminated={"exitCode": 0})
    ended_well["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert (end_of(ended_well) or pytest.fail("no end")).code == "cluster.cancelled", "it was told to end"
    running["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    assert (end_of(running) or pytest.fail("no end")).code == "cluster.evicted"


def test_start_and_end_are_the_engines_own() -> None:
    seen = pod(terminated={"exitCode": 0, "startedAt": "2026-01-01T08:00:05+08:00", "finishedAt": "2026-01-01T00:00:09Z"})
    assert started_at(seen) == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert ended_at(seen) == datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC)
    assert started_at(None) is ended_at(pod()) is None


def granted(card_class: str | None, **values: str) -> Reservation:
    return Reservation(state="granted", card_class=card_class, spec=WorkspaceOptions.parse(values).specification())


def node(name: str, product: str, **allocatable: str) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "81920"}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", **allocatable}},
    }


NODES = [
    node("whole", "NVIDIA-A100-SXM4-80GB", **{"nvidia.com/gpu": "8"}),
    node("parts", "NVIDIA-A100-SXM4-80GB", **{"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "2"}),
    node("shared", "NVIDIA-A100-SXM4-80GB", **{"tessera.io/vgpu": "400", "tessera.io/vgpu-memory": "327680"}),
]


def test_whole_cards_and_shares_become_what_the_cluster_hands_out() -> None:
    whole = cards_of(granted("A100-80G", compute="whole", cards="2"), NODES)
    assert whole.limits == {"nvidia.com/gpu": "2"}
    assert whole.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert whole.terms[0]["matchExpressions"][0]["values"] == ["NVIDIA-A100-SXM4-80GB"]
    share = cards_of(granted("A100-80G", compute="share", share="25"), NODES)
    assert share.limits == {"tessera.io/vgpu": "25", "tessera.io/vgpu-memory": "20480"}
    assert cards_of(granted(None), NODES) == Cards()


def test_cards_that_the_cluster_does_not_have_are_refused_by_code() -> None:
    with pytest.raises(DriverError) as refused:
        cards_of(granted("H100-80G", compute="whole"), NODES)
    assert refused.value.code == "never.no_card_class"


def test_the_operators_own_node_terms_hold_besides_those_of_the_cards() -> None:
    own = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}, {"matchFields": [{"key": "b"}]}]
    asked = [{"matchExpressions": [{"key": "gpu"}]}]
    assert joined_terms(own, asked) == [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}, {"key": "gpu"}]},
        {"matchExpressions": [{"key": "gpu"}], "matchFields": [{"key": "b"}]},
    ]
    assert joined_terms(own, []) == own
    assert joined_terms([], []) == []
