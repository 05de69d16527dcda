"""What pods use, as the metrics API and kubelets tell it, and what becomes of it; the real kubelet is in tests/cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tessera_hub.proxy.drivers.base import Usage
from tessera_hub.proxy.drivers.kubernetes.kubelets import address_of
from tessera_hub.proxy.drivers.kubernetes.usage import (
    Averages,
    Running,
    Told,
    running,
    told_by_kubelet,
    told_by_metrics,
    usage_of,
)

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = UUID(int=7)


def text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def pod(name: str = "a", **main: Any) -> dict[str, Any]:
    statuses = [{"name": "deliver", "state": {"running": {"startedAt": text(START)}}}]
    statuses += [{"name": "main", "state": main}] if main else []
    return {
        "metadata": {"namespace": "n", "name": name},
        "spec": {"nodeName": "node-1"},
        "status": {"containerStatuses": statuses},
    }


# --- reading ----------------------------------------------------------------------------------------------------------


def test_pods_count_while_their_user_code_runs() -> None:
    began = {"startedAt": text(START)}
    pods = [
        pod("waits"),
        pod("runs", running=began),
        pod("is over", terminated={**began, "finishedAt": text(START + timedelta(seconds=3))}),
        pod("pulls", waiting={"reason": "ContainerCreating"}),
    ]
    assert running(pods) == [Running(("n", "runs"), "node-1", START)]


def metrics(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "n", "name": "a"}, "timestamp": text(START), "containers": list(containers), **more}


@pytest.mark.parametrize(
    ("cpu", "memory", "expected"),
    [
        ("0", "0", (0, 0)),
        ("1500m", "2Gi", (1500, 2048)),
        ("123456789n", "131072Ki", (123, 128)),
        ("999999n", "1048575", (0, 0)),
        ("2", "1M", (2000, 0)),
    ],
)
def test_the_metrics_api_tells_rates_of_user_code_alone(cpu: str, memory: str, expected: tuple[int, int]) -> None:
    courier = {"name": "deliver", "usage": {"cpu": "9", "memory": "9Gi"}}
    main = {"name": "main", "usage": {"cpu": cpu, "memory": memory}}
    assert told_by_metrics([metrics(courier, main)]) == {("n", "a"): Told(expected[1], START, millicores=expected[0])}


@pytest.mark.parametrize(
    "item",
    [
        metrics(),
        metrics({"name": "deliver", "usage": {"cpu": "1", "memory": "1"}}),
        metrics({"name": "main", "usage": {"cpu": "1"}}),
        metrics({"name": "main"}),
        metrics({"name": "main", "usage": {"cpu": "1", "memory": "1"}}, timestamp=None),
    ],
)
def test_metrics_without_figures_of_user_code_tell_nothing(item: dict[str, Any]) -> None:
    assert told_by_metrics([item]) == {}


def summary(**main: Any) -> dict[str, Any]:
    cpu = {"time": text(START), "usageNanoCores": 5, "usageCoreNanoSeconds": 3_000_000_000}
    container = {"name": "main", "cpu": cpu, "memory": {"time": text(START), "workingSetBytes": 200 << 20}, **main}
    courier = {"name": "deliver", "cpu": cpu, "memory": {"workingSetBytes": 1 << 40}}
    return {"node": {}, "pods": [{"podRef": {"namespace": "n", "name": "a", "uid": "u"}, "containers": [courier, container]}]}


def test_a_kubelet_tells_processor_time_and_memory_of_user_code_alone() -> None:
    assert told_by_kubelet(summary()) == {("n", "a"): Told(200, START, cpu_nanoseconds=3_000_000_000)}


@pytest.mark.parametrize(
    "main",
    [
        {"cpu": None},
        {"cpu": {"time": text(START)}},
        {"cpu": {"usageCoreNanoSeconds": 1}},
        {"cpu": {"time": text(START), "usageCoreNanoSeconds": "1"}},
        {"memory": {}},
        {"name": "other"},
    ],
)
def test_a_kubelet_that_does_not_know_yet_tells_nothing(main: dict[str, Any]) -> None:
    assert told_by_kubelet(summary(**main)) == {}


def test_an_empty_summary_is_one() -> None:
    assert told_by_kubelet({}) == told_by_kubelet({"pods": None}) == {}


# --- averages ---------------------------------------------------------------------------------------------------------

POD = Running(("n", "a"), "node-1", START)


def told(seconds: int, cpu_seconds: float) -> Told:
    return Told(100, START + timedelta(seconds=seconds), cpu_nanoseconds=int(cpu_seconds * 10**9))


def test_the_first_average_is_since_the_start_and_the_next_since_the_last() -> None:
    averages = Averages()
    assert averages.millicores(POD, told(20, 10)) == 500
    assert averages.millicores(POD, told(80, 130)) == 2000
    assert averages.millicores(POD, told(140, 130)) == 0


def test_times_of_whole_seconds_are_not_divided_by_too_few() -> None:
    averages = Averages()
    assert averages.millicores(POD, told(0, 0.2)) is None
    assert averages.millicores(POD, told(4, 4)) == 1000
    assert averages.millicores(POD, told(10, 5)) == 500, "still since the start"
    assert averages.millicores(POD, told(11, 5.5)) == 500, "since the look at ten seconds"
    assert averages.millicores(POD, told(15, 10)) == 1000


def test_a_time_that_goes_back_is_no_negative_use() -> None:
    averages = Averages()
    assert averages.millicores(POD, told(20, 10)) == 500
    assert averages.millicores(POD, told(40, 1)) == 0


def test_what_runs_no_more_is_forgotten() -> None:
    averages = Averages()
    averages.millicores(POD, told(20, 10))
    averages.keep_only([])
    assert averages.millicores(POD, told(40, 40)) == 1000, "since the start again"


A, B = ("n", "a"), ("n", "b")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({A: Told(10, START, millicores=300), B: Told(20, START, millicores=400)}, Usage(RUN, START, 700, 30)),
        ({A: Told(10, START, millicores=300)}, None),
        ({A: Told(10, START, millicores=300), B: Told(20, START)}, None),
    ],
)
def test_a_run_of_several_pods_uses_their_sum_or_is_not_told(told: dict[tuple[str, str], Told], expected: Usage | None) -> None:
    pods = [POD, Running(("n", "b"), "node-2", START)]
    assert usage_of(RUN, pods, told, Averages(), START) == expected


def test_a_run_without_a_running_pod_uses_nothing_that_could_be_told() -> None:
    assert usage_of(RUN, [], {}, Averages(), START) is None


# --- the way to a kubelet ---------------------------------------------------------------------------------------------


def node(address: str, port: Any = 10250, kind: str = "InternalIP") -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": "evil.example.org"}, {"type": kind, "address": address}]
    return {"status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (node("192.0.2.7"), "https://192.0.2.7:10250"),
        (node("2001:db8::7", 1), "https://[2001:db8::7]:1"),
    ],
)
def test_the_address_of_a_kubelet_is_its_nodes(document: dict[str, Any], expected: str) -> None:
    assert address_of(document) == expected


@pytest.mark.parametrize(
    "document",
    [
        {},
        node("192.0.2.7", kind="ExternalIP"),
        node("192.0.2.7@evil.example.org"),
        node("evil.example.org"),
        node("192.0.2.7", port="80/x"),
        node("192.0.2.7", port=0),
        node("192.0.2.7", port=70000),
    ],
)
def test_an_address_that_is_none_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"address|IPv4"):
        address_of(document)
