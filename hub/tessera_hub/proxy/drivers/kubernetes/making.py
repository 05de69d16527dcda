"""Making what a run is in Kubernetes: a Job, a Job of Volcano, or a Deployment with its Service."""

from __future__ import annotations

from typing import Any

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import wanted
from tessera_hub.proxy.drivers.kubernetes import objects
from tessera_hub.proxy.drivers.kubernetes.homes import home_of
from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.kubernetes.services import DEPLOYMENTS
from tessera_hub.proxy.drivers.kubernetes.serving import make_service
from tessera_hub.proxy.drivers.kubernetes.standing import Document
from volcano_client.collection import Collection
from volcano_client.kinds import Kind
from volcano_client.transport import Transport


def kind_of(record: Record, *, volcano: bool) -> Kind:
    """Return what a run is."""
    if record.is_service:
        return DEPLOYMENTS
    return objects.VOLCANO_JOBS if volcano else objects.PLAIN_JOBS


def claimant_of(kind: Kind, made: Document, size: int) -> str:
    """Return under which name the pods of a run claim it, where they do so as one, and it is billed: their job's.

    Pods of a Volcano job see its uid in the name of their group only (``objects.VOLCANO_JOB_FIELD``).
    """
    metadata = made["metadata"]
    return f"{metadata['name']}-{metadata['uid']}" if size > 1 and kind is objects.VOLCANO_JOBS else str(metadata["uid"])


def make_job(
    transport: Transport, record: Record, options: KubernetesOptions, template: Document, queue: str | None, *, volcano: bool
) -> dict[str, Any]:
    """Make the job of a run, and return it; a repeat finds it.

    Args:
        queue: Volcano's queue for it; None: the one of the options.

    Raises:
        DriverError: a volume of it is not there.
        ClusterApiError: refused, or unreachable.
    """
    _see_claims(transport, record, options)
    if record.is_service:
        return make_service(transport, record, options, template)
    lease = record.lease
    secret = {"metadata": {"name": record.name, "namespace": record.namespace, "uid": record.uid}}
    if volcano:
        document = objects.volcano_job(lease, options, secret, template, queue)
    else:
        document = objects.plain_job(lease, options, secret, template)
        if record.size > 1:  # Volcano gives its pods names itself
            Collection(transport, objects.SERVICES).create_or_get(objects.peers_service(lease, options, secret))
    return Collection(transport, kind_of(record, volcano=volcano)).create_or_get(document)[0]


def _see_claims(transport: Transport, record: Record, options: KubernetesOptions) -> None:
    """A pod with a volume that is not there would wait for ever."""
    claims, namespace = Collection(transport, objects.CLAIMS), record.namespace
    home = home_of(record.lease, options.homes)
    if home is not None and claims.get(home.claim, namespace) is None:
        raise DriverError("inputs.live_refused", f"namespace {namespace} has no volume {home.claim} with people's homes")
    for name, dataset in wanted(record.lease, options.datasets).items():
        if claims.get(dataset.claim, namespace) is None:
            raise DriverError("dataset.missing", f"namespace {namespace} has no volume {dataset.claim}", {"dataset": name})
