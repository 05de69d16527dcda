"""Kinds of objects and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: API group and version (``v1`` for the core), plural and singular name."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the path of the collection or of one object; without a namespace, of all namespaces."""
        base = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        if self.namespaced and namespace is not None:
            base = f"{base}/namespaces/{namespace}"
        return f"{base}/{self.plural}" if name is None else f"{base}/{self.plural}/{name}"


JOBS: Final = Kind("batch.volcano.sh/v1alpha1", "Job", "jobs")
POD_GROUPS: Final = Kind("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups")
QUEUES: Final = Kind("scheduling.volcano.sh/v1beta1", "Queue", "queues", namespaced=False)
COMMANDS: Final = Kind("bus.volcano.sh/v1alpha1", "Command", "commands")
DEFINITIONS: Final = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
