"""The chart of nodes with cards: what it refuses, and its pods on a real kubelet, with simulated cards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.configuration import NODE
from tests.cluster.machine import Machine
from tests.helm.chart import KUBERNETES, Refused, run, written
from tests.helm.images import image
from tests.vgpu.agent.conftest import eventually
from tests.vgpu.agent.site import RULES, TAKE, Site, administrator
from tests.vgpu.interposer.conftest import MIB, built

__all__ = ["built"]
pytestmark = pytest.mark.root
CHART = Path(__file__).resolve().parents[3] / "helm" / "tessera-node"
NAMESPACE = "tessera-node"
RELEASE = "cards"


def render(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    fixed = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    return [found for found in yaml.safe_load_all(run(*fixed, *written(values, folder))) if found]


def test_helm_lint_finds_nothing(tmp_path: Path) -> None:
    said = run("lint", str(CHART), "--strict", "--quiet", *written({}, tmp_path))
    assert "WARNING" not in said
    assert "ERROR" not in said


def test_it_has_the_rights_that_the_guide_names_and_no_others(tmp_path: Path) -> None:
    made = {found["kind"]: found for found in render({}, tmp_path)}
    assert set(made) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"}
    assert made["ClusterRole"]["rules"] == RULES
    page = (CHART.parents[1] / "docs" / "how-to" / "share-the-cards-of-a-node.md").read_text("utf-8")
    for rule in RULES:
        assert f"| `{rule['resources'][0]}` | `{rule['verbs'][0]}` |" in page


def test_what_is_said_reaches_the_agent(tmp_path: Path) -> None:
    values = {"driverDirs": ["/a", "/b"], "contextMib": 7, "onBypass": "end", "metricsPort": 9999, "environment": {"A": "1"}}
    (pod,) = (found["spec"]["template"]["spec"] for found in render(values, tmp_path) if found["kind"] == "DaemonSet")
    (container,) = pod["containers"]
    arguments = ["--driver-dir=/a", "--driver-dir=/b", "--context-mib=7", "--on-bypass=end", "--listen=0.0.0.0:9999"]
    assert [one for one in container["args"] if one in arguments] == arguments
    assert {"name": "A", "value": "1"} in container["env"]
    assert pod["hostPID"] is True
    assert container["securityContext"]["privileged"] is True
    assert pod["nodeSelector"] == {"tessera.io/vgpu": "true"}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"onBypass": "forgive"}, "/onBypass"),
        ({"contexts": 0}, "/contexts"),
        ({"driverDirs": []}, "/driverDirs"),
        ({"driverDirs": ["usr/lib"]}, "/driverDirs/0"),
        ({"stateDir": "/run/a b"}, "/stateDir"),
        ({"image": "no image"}, "/image"),
        ({"replicas": 2}, "replicas"),
    ],
    ids=json.dumps,
)
def test_a_bad_value_is_refused_with_its_place(values: dict[str, Any], place: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=place):
        render(values, tmp_path)


class Installed(Site):
    """The chart on the test cluster."""

    def start(self) -> None:
        label = {"pod-security.kubernetes.io/enforce": "privileged"}
        space = {"metadata": {"name": NAMESPACE, "labels": label}}
        self.http.post("/api/v1/namespaces", json=space).raise_for_status()
        patch = {"metadata": {"labels": {"tessera.io/vgpu": "true"}}}
        kind = {"Content-Type": "application/merge-patch+json"}
        self.http.patch(f"/api/v1/nodes/{NODE}", content=json.dumps(patch), headers=kind).raise_for_status()
        values = {
            "image": image("node").load(self.machine),
            "pullPolicy": "Never",
            # The test cluster takes no privileged pods, and simulated cards need none.
            "privileged": False,
            "driverDirs": [str(self.cards_of.libraries)],
            "deviceRoot": str(self.folder / "nodes"),
            "stateDir": str(self.folder / "state"),
            "libraryDir": str(self.folder / "library"),
            "podResources": str(self.machine.home / "kubelet" / "pod-resources"),
            "environment": {"GPU_SIMULATOR_STATE": str(self.simulated / "machine")},
        }
        wanted = self.folder / "values"
        wanted.mkdir()
        self.helm("install", RELEASE, str(CHART), *written(values, wanted), "--wait", "--timeout", "120s")
        self.wait_for_slots()

    def helm(self, *arguments: str) -> str:
        """Run helm in the chart's namespace."""
        return run(*arguments, "--namespace", NAMESPACE, kubeconfig=self.machine.kubeconfig)

    def check(self) -> None:
        """Helm has waited for the pod."""

    def agents(self) -> list[dict[str, Any]]:
        """Return the agent's pods."""
        found: list[dict[str, Any]] = self.http.get(f"/api/v1/namespaces/{NAMESPACE}/pods").raise_for_status().json()["items"]
        return found

    def metrics_url(self) -> str:
        (pod,) = self.agents()
        return f"http://{pod['status']['podIP']}:9445/metrics"

    def stop(self) -> None:
        self.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")

    def remove_account(self) -> None:
        """The chart's own goes with it."""


def forget(machine: Machine) -> None:
    """Remove what helm does not: the namespace, wholly gone before others begin, and the node's label."""
    patch, kind = {"metadata": {"labels": {"tessera.io/vgpu": None}}}, {"Content-Type": "application/merge-patch+json"}
    path = f"/api/v1/namespaces/{NAMESPACE}"
    with administrator(machine) as http:
        http.patch(f"/api/v1/nodes/{NODE}", content=json.dumps(patch), headers=kind).raise_for_status()
        http.delete(path)
        eventually(lambda: http.get(path).status_code == 404, "the end of the namespace", 60)


@pytest.fixture(scope="module")
def installed(cluster: Machine, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    try:
        made = Installed(cluster, tmp_path_factory.mktemp("chart"))
        yield made
        made.close()
    finally:
        forget(cluster)


def test_a_pod_of_the_chart_shares_the_cards_of_its_node(installed: Installed) -> None:
    installed.pod_of("held", TAKE, 30, 1024)
    installed.wait(lambda: len(installed.printed("held")) > 0, 150, "output")
    (seen,) = installed.printed("held")
    assert (seen["units"], seen["total"], seen["library"], seen["bare"]) == (32, 1024, True, 32)
    key = "tessera_vgpu_container_memory_driver_bytes", "held"
    installed.wait(lambda: installed.metrics().get(key) == (320 + 318) * MIB, 15, "the driver's word")
    installed.pod_of("static", ["/work/opens", "/dev/nvidia0", "/dev/nvidia1"], 30, 1024)
    installed.wait(lambda: ("no_library", "static") in installed.metrics(), 60, "the finding")
    assert ("no_library", "held") not in installed.metrics()
