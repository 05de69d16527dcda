"""What the kubelet knows about device ids: whose they are, and what we answered for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.kubelet_api import POD_RESOURCES_LIST, plugin, pod_resources


@dataclass(frozen=True, slots=True)
class Entry:
    """A container and its device ids of one resource. ``nonce`` is in the answer that the kubelet keeps, empty if unreadable."""

    pod_uid: str
    container: str
    device_ids: frozenset[str]
    nonce: str


def read_checkpoint(path: Path, resource: str) -> list[Entry]:
    """Return the entries of a resource in ``kubelet_internal_checkpoint``, init containers among them.

    The kubelet writes it before it calls PreStartContainer. Its checksum is the kubelet's own business: the file is replaced by
    rename, so it is read whole.

    Raises:
        VgpuError: ``kubelet.checkpoint``.
    """
    try:
        entries = json.loads(path.read_bytes())["Data"]["PodDeviceEntries"] or []
        return [
            Entry(
                str(entry["PodUID"]),
                str(entry["ContainerName"]),
                frozenset(str(one) for ids in entry["DeviceIDs"].values() for one in ids),
                _nonce(entry.get("AllocResp") or ""),
            )
            for entry in entries
            if entry["ResourceName"] == resource
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VgpuError(
            "kubelet.checkpoint",
            "The kubelet's checkpoint {file} cannot be read: {reason}.",
            "Mount the kubelet's folder for device plugins into the node agent.",
            file=path,
            reason=repr(error),
        ) from error


def _nonce(answer: str) -> str:
    """Return the nonce in an answer of ours: the folder's name in the path of its devices."""
    try:
        response = plugin["ContainerAllocateResponse"].FromString(base64.b64decode(answer, validate=True))
    except (ValueError, DecodeError):
        return ""
    return next((Path(device.host_path).parent.name for device in response.devices), "")


def pods_with(socket: Path, resource: str, device_ids: Iterable[str], timeout_s: float = 5) -> set[tuple[str, str]]:
    """Return namespace and name of the pods that have any of these ids, as the kubelet's pod resources service says.

    Raises:
        VgpuError: ``kubelet.pod_resources``.
    """
    wanted = set(device_ids)
    try:
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            call: Any = channel.unary_unary(
                POD_RESOURCES_LIST,
                request_serializer=pod_resources["ListPodResourcesRequest"].SerializeToString,
                response_deserializer=pod_resources["ListPodResourcesResponse"].FromString,
            )
            answer = call(pod_resources["ListPodResourcesRequest"](), timeout=timeout_s)
    except grpc.RpcError as error:
        raise VgpuError(
            "kubelet.pod_resources",
            "The kubelet does not answer at {socket}.",
            "It is tried again; mount the kubelet's folder pod-resources into the node agent.",
            socket=socket,
        ) from error
    return {
        (pod.namespace, pod.name)
        for pod in answer.pod_resources
        for container in pod.containers
        for devices in container.devices
        if devices.resource_name == resource and wanted & set(devices.device_ids)
    }
