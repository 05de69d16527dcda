"""The device plugin of ``tessera.io/vgpu``: slots that belong to no card until their pod is known.

``Allocate`` names no pod. It answers with a path that does not exist yet, below a nonce made for this answer. In
``PreStartContainer`` the kubelet's books say whose the ids are; only then a card is chosen and the path made. If that fails, the
runtime finds no path and starts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any, Final

import grpc

from tessera_vgpu.apiserver import ENDED, Pods
from tessera_vgpu.asking import RESOURCE, asked
from tessera_vgpu.bindings import Owner
from tessera_vgpu.cards import Card
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.kubelet import Entry, pods_with, read_checkpoint
from tessera_vgpu.kubelet_api import HEALTHY, UNHEALTHY, plugin
from tessera_vgpu.slots import SlotStore
from tessera_vgpu.splitting import Topology

LOG: Final = logging.getLogger(__name__)
IN_CONTAINER: Final = Path("/run/tessera")
UNCLAIMED_S: Final = 600.0
"""A promise that the kubelet does not know after this time is taken back."""


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Where the kubelet of this node is."""

    plugins: Path = Path("/var/lib/kubelet/device-plugins")
    pod_resources: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")

    @property
    def socket(self) -> Path:
        """Where a plugin registers."""
        return self.plugins / "kubelet.sock"

    @property
    def checkpoint(self) -> Path:
        """Its books."""
        return self.plugins / "kubelet_internal_checkpoint"


@dataclass(frozen=True, slots=True)
class Container:
    """What every container with a slice gets besides.

    Attributes:
        mounts: read-only, host path → path inside.
        shared: likewise, and all may write there: the state of simulated cards, nothing else.
        environment: variables.
    """

    mounts: Mapping[Path, Path] = field(default_factory=dict)
    shared: Mapping[Path, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: {"NVIDIA_VISIBLE_DEVICES": "void"})


class DevicePlugin:
    """The handlers of the five calls, and the loop that takes back what ended pods had.

    Args:
        cards: returns the node's healthy cards, idle; called for each container.
        count: how many cards the node has, healthy or not.
    """

    def __init__(
        self,
        store: SlotStore,
        cards: Callable[[], Sequence[Card]],
        count: int,
        pods: Pods,
        kubelet: Kubelet | None = None,
        container: Container | None = None,
        topology: Topology | None = None,
    ) -> None:
        self.store = store
        self.kubelet = kubelet or Kubelet()
        self._cards, self._count, self._pods = cards, count, pods
        self._container = container or Container()
        self._topology = topology
        self._changed = Condition()
        self._version = 0
        self._closed = False

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service for a gRPC server."""

        def unary(call: Callable[[Any, grpc.ServicerContext], Any], request: str, answer: str) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=plugin[request].FromString, response_serializer=plugin[answer].SerializeToString
            )

        return grpc.method_handlers_generic_handler(
            "v1beta1.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(self._options, "Empty", "DevicePluginOptions"),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self._list_and_watch,
                    request_deserializer=plugin["Empty"].FromString,
                    response_serializer=plugin["ListAndWatchResponse"].SerializeToString,
                ),
                "GetPreferredAllocation": unary(self._prefer, "PreferredAllocationRequest", "PreferredAllocationResponse"),
                "Allocate": unary(self._allocate, "AllocateRequest", "AllocateResponse"),
                "PreStartContainer": unary(self._pre_start, "PreStartContainerRequest", "PreStartContainerResponse"),
            },
        )

    def close(self) -> None:
        """End the streams, so that the server can stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cards_changed(self) -> None:
        """Tell the kubelet that a card came or went."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def devices(self) -> list[tuple[str, str]]:
        """Return id and health of all slots: 100 per card; where cards are ill, those that nobody holds are first to go."""
        ids = [f"slot-{number:04d}" for number in range(self._count * CENTI_CARDS_PER_CARD)]
        ill = len(ids) - len(self._cards()) * CENTI_CARDS_PER_CARD
        busy = {device for slot in self.store.slots() for device in slot.device_ids}
        going = set(sorted(ids, key=lambda device: device in busy)[: max(ill, 0)])
        return [(device, UNHEALTHY if device in going else HEALTHY) for device in ids]

    @staticmethod
    def options() -> Any:
        """Return what the kubelet is told of this plugin."""
        return plugin["DevicePluginOptions"](pre_start_required=True, get_preferred_allocation_available=True)

    def _options(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        return self.options()

    def _list_and_watch(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(self._wake)
        sent = -1
        while context.is_active() and not self._closed:
            with self._changed:
                while self._version == sent and context.is_active() and not self._closed:
                    self._changed.wait(5)
                if not context.is_active() or self._closed:
                    return
                sent = self._version
            answer = plugin["ListAndWatchResponse"]()
            for device, health in self.devices():
                answer.devices.add(ID=device, health=health)
            yield answer

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _prefer(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Prefer ids that no promise holds: after a lost checkpoint the kubelet may think that a living pod's are free."""
        busy = {device for slot in self.store.slots() for device in slot.device_ids}
        answer = plugin["PreferredAllocationResponse"]()
        for wanted in request.container_requests:
            must = list(wanted.must_include_deviceIDs)
            others = sorted(set(wanted.available_deviceIDs) - set(must), key=lambda device: (device in busy, device))
            chosen = [*must, *others][: max(wanted.allocation_size, 0)]
            answer.container_responses.add().deviceIDs.extend(chosen)
        return answer

    def _allocate(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = plugin["AllocateResponse"]()
        try:
            for wanted in request.container_requests:
                slot = self.store.allocate(wanted.devices_ids)
                folder = self.store.folder(slot.nonce)
                made = answer.container_responses.add(envs=dict(self._container.environment))
                for name, read_only in (("limits", True), ("usage", False), ("turns", False)):
                    made.mounts.add(container_path=str(IN_CONTAINER / name), host_path=str(folder / name), read_only=read_only)
                made.mounts.add(container_path=str(IN_CONTAINER / "node"), host_path=str(self.store.node), read_only=True)
                for mounts, read_only in ((self._container.mounts, True), (self._container.shared, False)):
                    for host, inside in mounts.items():
                        made.mounts.add(container_path=str(inside), host_path=str(host), read_only=read_only)
                made.devices.add(container_path="/dev", host_path=str(folder / "dev"), permissions="rw")
        except (VgpuError, OSError) as error:
            LOG.warning("Allocate refused: %s", error)
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        return answer

    def _pre_start(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self.pre_start(request.devices_ids, context.is_active)
        except (VgpuError, OSError) as error:
            LOG.warning("PreStartContainer refused: %s", error)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return plugin["PreStartContainerResponse"]()

    def pre_start(self, device_ids: Sequence[str], wanted: Callable[[], bool] = lambda: True) -> None:
        """Choose cards for the container whose devices these are, and make what it sees.

        Args:
            wanted: whether the kubelet still waits; it gives up after 30 s, and nothing may change after that.

        Raises:
            VgpuError: with the reason that the pod's events show; the kubelet tries again.
        """
        pod, entries = self._find(device_ids)
        owner = Owner(entries[0].pod_uid, pod["metadata"]["namespace"], pod["metadata"]["name"], entries[-1].container)
        request, terms = asked(pod, [entry.container for entry in entries], len(set(device_ids)))
        if not wanted():
            raise VgpuError("plugin.late", "The kubelet has stopped waiting for pod {pod}.", "It is tried again.", pod=owner.pod)
        for entry in entries:
            if entry.nonce:
                self.store.remember(entry.nonce, entry.device_ids)
        self.store.bind(device_ids, owner, request, self._cards(), terms, self._topology)

    def _find(self, device_ids: Sequence[str]) -> tuple[Mapping[str, Any], list[Entry]]:
        """Return the pod with exactly these ids and its containers, by the kubelet's books and its service; never by a guess."""
        ids = frozenset(device_ids)
        entries = [entry for entry in read_checkpoint(self.kubelet.checkpoint, RESOURCE) if entry.device_ids == ids]
        living = {uid: pod for uid, pod in self._pods.pods().items() if pod["status"].get("phase") not in ENDED}
        found = {entry.pod_uid for entry in entries} & set(living)
        if len(found) != 1:
            raise VgpuError(
                "plugin.unknown_pod",
                "{count} pods of this node have the devices that are to start.",
                "It is tried again; if this stays, delete the pod.",
                count=len(found) or "No",
            )
        pod = living[next(iter(found))]
        name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        listed = pods_with(self.kubelet.pod_resources, RESOURCE, ids)
        # An init container's own ids are not listed; where a pod is listed, it must be this one.
        if listed - {name}:
            raise VgpuError(
                "plugin.contradiction",
                "The kubelet's books and its service name different pods for the same devices.",
                "It is tried again; if this stays, drain the node and restart its kubelet.",
            )
        return pod, [entry for entry in entries if entry.pod_uid in found]

    def reconcile(self) -> int:
        """Take back what ended and deleted pods had, and promises that nobody came for; return how many that were.

        A pod that the kubelet has forgotten may still run: only the API server's word counts.

        Raises:
            VgpuError: nobody can tell; nothing was taken back.
        """
        # The promises first: a pod that is bound after the pods were listed is not among them, and lives.
        bound = {slot.binding.owner.pod_uid for slot in self.store.slots() if slot.binding is not None}
        known = {entry.nonce for entry in read_checkpoint(self.kubelet.checkpoint, RESOURCE)}
        living = {uid for uid, pod in self._pods.pods().items() if pod["status"].get("phase") not in ENDED}
        return sum(self.store.release(uid) for uid in bound - living) + self.store.prune(known, UNCLAIMED_S)
