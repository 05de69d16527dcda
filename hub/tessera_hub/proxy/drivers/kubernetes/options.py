"""How the Kubernetes driver is set up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tessera_hub.proxy.drivers.datasets import ClaimDataset
from tessera_hub.proxy.drivers.kubernetes.homes import Homes

SITE: Final = "tessera.io/site"
RUN: Final = "tessera.io/run"
TENANT: Final = "tessera.io/tenant-id"
PERSON: Final = "tessera.io/principal-id"
ORDER: Final = "tessera.io/order"
COMPANY: Final = "tessera.io/company"
"""The list of all parts of a run of several pods, at each of them."""
END: Final = "tessera.io/end"
RECORD: Final = "tessera.io/record"
"""Finalizer of a run's pods: the engine's history stays until the Proxy has written down how the run ended."""
USAGE_ACCOUNT: Final = "tessera-usage"
"""The account that kubelets are asked with for what pods use; it may do nothing else."""
DEFAULT_QUOTA: Final = {"pods": "1000", "count/jobs.batch": "2000", "services.loadbalancers": "0", "services.nodeports": "0"}


def tenant_role(prefix: str) -> str:
    """Return the name of the ClusterRole that says what the Proxy may do in a tenant's namespace."""
    return f"{prefix}-proxy-tenant"


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """Options.

    Attributes:
        kubeconfig: None: the service account of the pod that the Proxy runs in.
        environments: environment name → image.
        service_url: address of the service as a run's pod reaches it.
        prefix: of the tenants' namespaces, and the mark of what is ours: two Proxies of one cluster need two.
        queue: of Volcano, for runs whose own queue is not mirrored.
        namespace: the Proxy's own, for its orders to Volcano; empty: ``<prefix>-system``.
        mirror_queues: keep a queue at Volcano for each queue of the service.
        volcano: use Volcano where its definitions are.
        python: program of the image that runs runner and courier.
        user: Unix id of the processes in a pod.
        cpu_limits: hold a run to its processors even when others are idle; else they are in proportion to what was asked.
        tenant_quota: ResourceQuota of each tenant's namespace.
        egress: addresses (CIDR) that runs may reach besides the service, names and the public internet.
        pull_secret: name of an image pull secret in the tenants' namespaces.
        output_bytes: of what a run prints.
        plain_gangs: without Volcano, too, take runs of several pods: they wait for each other before any user code.
        gang_seconds: after which such a run is given back when only some of its pods found a node.
        missing_seconds: after which a run fails that waits for a secret, or for a folder of a data set, that is not there.
        kubelets: ask the kubelets what runs use where the cluster has no metrics API.
        homes: volume with people's homes, for live folders; None: snapshots only.
        datasets: volumes that runs may read.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    environments: Mapping[str, str] = field(default_factory=dict)
    service_url: str = ""
    prefix: str = "tessera"
    namespace: str = ""
    queue: str = "default"
    mirror_queues: bool = True
    volcano: bool = True
    python: str = "python3"
    user: int = 1000
    cpu_limits: bool = False
    tenant_quota: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_QUOTA))
    egress: tuple[str, ...] = ()
    pull_secret: str | None = None
    output_bytes: int = 64 << 20
    plain_gangs: bool = False
    gang_seconds: int = 300
    missing_seconds: int = 300
    kubelets: bool = False
    homes: Homes | None = None
    datasets: Mapping[str, ClaimDataset] = field(default_factory=dict)
