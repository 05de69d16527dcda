"""Whether this kind of cluster can ever run a lease. Pure."""

from __future__ import annotations

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes.homes import home_of
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.tasks import SCRIPT_KINDS, TaskKind


def check_lease(lease: Lease, options: KubernetesOptions) -> None:
    """Refuse what can never run here.

    Raises:
        DriverError: with a typed reason.
    """
    spec = lease.spec
    if spec.kind is not TaskKind.NOTEBOOK and spec.kind not in SCRIPT_KINDS:
        raise DriverError("never.no_cluster", f"the Kubernetes driver does not run kind {spec.kind.value}")
    if len(spec.roles) != 1:
        raise DriverError("never.gang_too_large", "a run here has one role; its replicas are the pods")
    if spec.kind is TaskKind.NOTEBOOK and spec.roles[0].replicas != 1:
        raise DriverError("never.gang_too_large", "a notebook runs in one pod")
    home_of(lease, options.homes)
    if not spec.entry:
        raise DriverError("script.missing", "the task names no notebook or script")
    if spec.environment not in options.environments:
        detail = {"environment": spec.environment, "known": sorted(options.environments)}
        raise DriverError("environment.unknown", f"no environment {spec.environment}", detail)
