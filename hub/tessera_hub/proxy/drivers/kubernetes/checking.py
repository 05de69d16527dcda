"""Whether this kind of cluster can ever run a lease, and what a refusal of its API server means. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera_hub.proxy.drivers.base import DriverError, NativeRun
from tessera_hub.proxy.drivers.kubernetes.homes import home_of
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.reasons import waits_for_queue
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.runrecords import End
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.tasks import SCRIPT_KINDS, Phase, TaskKind
from volcano_client.errors import ClusterApiError


def check_lease(lease: Lease, options: KubernetesOptions) -> None:
    """Refuse what can never run here.

    Raises:
        DriverError: with a typed reason.
    """
    spec = lease.spec
    if spec.kind not in (TaskKind.NOTEBOOK, TaskKind.SERVICE, *SCRIPT_KINDS):
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


def of_api_error(error: ClusterApiError | ValueError) -> DriverError:
    """Return what an API server's refusal means for a run."""
    if isinstance(error, ClusterApiError) and (error.unreachable or error.status == 409):
        return DriverError("cluster.unreachable", f"the API server does not take it now: {error}", give_back=True)
    if isinstance(error, ClusterApiError) and error.status == 403 and "exceeded quota" in error.message:
        return DriverError("quota.native", error.message[:1000], give_back=True)
    if isinstance(error, ClusterApiError) and waits_for_queue(error.message):
        return DriverError("cluster.back_pressure", error.message[:1000], give_back=True)
    return DriverError("cluster.start_failed", str(error)[:1000])


def never_started(record: Record, error: DriverError) -> End:
    """Return the end of a run whose job could not be made."""
    phase = Phase.QUEUED if error.give_back else Phase.FAILED
    at = datetime.now(UTC).replace(microsecond=0)
    uid = record.job_uid or record.uid
    return End(NativeRun(record.lease.run_id, record.lease, phase, uid, at, reason=error.reason), delivered=False)
