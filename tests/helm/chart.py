"""The chart as helm renders it, and helm itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.gotools import helm

CHART: Final = Path(__file__).resolve().parents[2] / "helm" / "tessera"
RELEASE: Final = "tessera"
NAMESPACE: Final = "tessera-system"
WORKSPACES: Final = "tessera-system-workspaces"
KUBERNETES: Final = "1.34.4"
SECONDS: Final = 420

API_SERVER: Final = {"networkPolicies": {"apiServer": {"cidrs": ["10.96.0.1/32"]}}}
"""What helm asks the cluster for, where there is none."""

Document = dict[str, Any]


class Refused(Exception):
    """helm ended with an error; the message is what it printed."""


def run(*arguments: str, kubeconfig: Path | None = None) -> str:
    """Run helm and return what it printed.

    Raises:
        Refused: it failed.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HELM_", "KUBE"))}
    way = [] if kubeconfig is None else ["--kubeconfig", str(kubeconfig)]
    done = subprocess.run(
        [helm(), *arguments, *way], capture_output=True, text=True, env=environment, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise Refused(f"{done.stdout}\n{done.stderr}".strip())
    return done.stdout


def written(values: Mapping[str, Any], folder: Path) -> list[str]:
    """Write *values* as a file and return the options that give it to helm."""
    path = folder / f"values-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(values))
    return ["--values", str(path)]


def template(values: Mapping[str, Any], folder: Path, *options: str, namespace: str = NAMESPACE) -> list[Document]:
    """Return the objects of the chart with *values*.

    Raises:
        Refused: the chart does not take them.
    """
    fixed = ["template", RELEASE, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES]
    text = run(*fixed, *written(API_SERVER, folder), *written(values, folder), *options)
    return [document for document in yaml.safe_load_all(text) if document]


def named(documents: list[Document], kind: str, name: str) -> Document:
    """Return the one object of that kind and name."""
    [found] = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pod_templates(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Yield name and pod template of everything that makes pods, with the volumes that it gets from claims."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template = document["spec"]["template"]
            claims = [claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])]
            volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
            spec = {**template["spec"], "volumes": [*template["spec"].get("volumes", []), *volumes]}
            yield document["metadata"]["name"], {**template, "spec": spec}


def containers(pod: Document) -> list[Document]:
    """Return all containers of a pod's spec, those at the beginning, too."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def default_values() -> Document:
    """Return the chart's own values."""
    found: Document = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return found


def leaves(values: Document, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted path and value of every value; an empty table is one, too."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from leaves(value, here)
        else:
            yield here, value
