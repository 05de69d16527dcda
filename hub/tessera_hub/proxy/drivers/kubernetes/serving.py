"""Seeing to a service: its pods are counted, orders are enforced, and its end is written down."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tessera_hub.proxy.drivers.kubernetes import objects, services, standing
from tessera_hub.proxy.drivers.kubernetes.options import ORDER, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import GAVE_UP, SERVED, Record, served_text
from tessera_hub.proxy.drivers.kubernetes.standing import Document
from tessera_hub.proxy.drivers.runrecords import End, Order
from volcano_client.collection import Collection
from volcano_client.transport import Transport

if TYPE_CHECKING:
    from tessera_hub.proxy.drivers.kubernetes.tending import Entry, Tender

DEPLOYMENT_SECONDS: Final = 2.0
"""Pause between two looks at a Deployment, of which nobody but us should take anything away."""


def make_service(transport: Transport, record: Record, options: KubernetesOptions, template: Document) -> dict[str, Any]:
    """Make the objects of a service and return its Deployment; a repeat finds them.

    Raises:
        ClusterApiError: refused, or unreachable.
    """
    secret = {"metadata": {"name": record.name, "namespace": record.namespace, "uid": record.uid}}
    Collection(transport, objects.SERVICES).create_or_get(services.front(record.lease, options, secret))
    document = services.deployment(record.lease, options, secret, template)
    return Collection(transport, services.DEPLOYMENTS).create_or_get(document)[0]


async def look_at_service(tender: Tender, entry: Entry) -> None:
    """Look at a service and do what is to be done.

    Raises:
        ClusterApiError: something could not be done; the next look tries it again.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    pods = [tender.as_it_stands(pod) for pod in tender.picture.pods(entry.record)]
    if not tender.picture.is_behind:
        served = services.served_now(entry.record, pods, now)
        if served != entry.record.served:
            await tender.note(entry, {SERVED: served_text(served)}, served=served)
        for pod in pods:
            if services.is_over(pod):  # its times are written down, and it may go
                await tender.release_pod(pod)
    if entry.record.order is None and services.is_late(entry.record, now):
        order = Order("limit", entry.record.lease.spec.lifecycle.grace_seconds, now)
        await tender.note(entry, {ORDER: json.dumps(order.document())}, order=order)
    if entry.record.order is None and entry.record.gave_up is None and not entry.record.served:
        why = standing.misses(services.current(pods), tender.missing_seconds, now)
        if why is not None:
            await tender.note(entry, {GAVE_UP: why.model_dump_json()}, gave_up=why)
    record, seen = entry.record, replace(tender.seen(entry.record, entry), pod=services.current(pods))
    if (spoiled := services.spoiled(record, pods)) is not None:
        await _take_away(tender, record)
        await tender.conclude(entry, End(spoiled))
        return
    if await _is_gone(tender, entry, pods):
        await tender.conclude(entry, services.ended(record, now))
        return
    if record.order is not None:
        for pod in pods:
            await tender.delete_within(pod, grace_of(record.order))
    elif record.gave_up is not None:
        for pod in pods:
            await tender.delete_within(pod, objects.KILL_SLACK_SECONDS)
    elif record.suspends:
        for pod in pods:
            if not services.is_over(pod):
                await tender.tell_pod(entry, pod, {"suspended": record.is_suspended})
        tender.listen(entry, seen)
    if not record.served:
        await tender.look_for_causes(entry, seen)
    entry.shown = services.living(record, replace(seen, suspended=entry.suspended, causes=entry.causes))


def grace_of(order: Order) -> int:
    """Return the grace in seconds of a pod that is ended: the order's, and some time for the last lines of its log."""
    return objects.KILL_SLACK_SECONDS + (order.grace_seconds + services.LOG_SECONDS if order.grace_seconds > 0 else 0)


async def _is_gone(tender: Tender, entry: Entry, pods: list[Document]) -> bool:
    """Whether nothing lives of a service that was ordered to end, or whose Deployment somebody took away."""
    record, now = entry.record, asyncio.get_running_loop().time()
    ends = record.order is not None or record.gave_up is not None
    if not ends and now - entry.deployment_at < DEPLOYMENT_SECONDS:
        return False
    entry.deployment_at = now
    if ends:
        await _take_away(tender, record)
    deployments = Collection(tender.transport, services.DEPLOYMENTS)
    found = await asyncio.to_thread(partial(deployments.get, record.name, record.namespace))
    alive = any(not services.is_over(pod) for pod in pods)
    if alive or tender.picture.is_behind or (found is not None and not found["metadata"].get("deletionTimestamp")):
        entry.missing_since = None
        return False
    entry.missing_since = entry.missing_since or now
    return now - entry.missing_since >= tender.patience(record)


async def _take_away(tender: Tender, record: Record) -> None:
    """Delete the Deployment; what it made goes with it."""
    collection = Collection(tender.transport, services.DEPLOYMENTS)
    await asyncio.to_thread(partial(collection.delete, record.name, record.namespace, uid=record.job_uid))
