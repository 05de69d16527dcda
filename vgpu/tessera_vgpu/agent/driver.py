"""What the driver says of the cards of this machine and of the processes on them, through NVML."""

from __future__ import annotations

import ctypes
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pynvml as _pynvml

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.splitting import Topology

pynvml: Final[Any] = _pynvml
"""It has no types, and makes most of its exceptions when it is imported."""
LOG: Final = logging.getLogger(__name__)
_BYTES_PER_MIB: Final = 1 << 20
_HUNDRED: Final = 100
_FRESH_US: Final = 1_500_000
_PCI: Final = Path("/sys/bus/pci/devices")
_NVLINK, _SWITCH, _NODE, _FAR = range(4)
_SWITCHES: Final = frozenset(
    {pynvml.NVML_TOPOLOGY_INTERNAL, pynvml.NVML_TOPOLOGY_SINGLE, pynvml.NVML_TOPOLOGY_MULTIPLE},
)


@dataclass(frozen=True, slots=True)
class DriverCard:
    """A card as the driver has it.

    Attributes:
        minor: the number in the name of its device node, ``/dev/nvidia<minor>``.
        reserved_mib: what the driver keeps for itself.
        numa: None where unknown.
        partitioned: whether MIG is on; such a card is not cut by us.
    """

    uuid: str
    name: str
    minor: int
    memory_mib: int
    reserved_mib: int
    numa: int | None
    partitioned: bool


class Driver:
    """NVML of this machine; safe to call from several threads. A driver that was away is opened again at the next call.

    Process numbers are right only in the machine's own process name space.

    Args:
        library: path of ``libnvidia-ml.so.1``, or the bare name, which is looked for as any library is.
    """

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        self._library = library
        self._lock = Lock()
        self._open = False

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            self._shut()

    def version(self) -> str:
        """Return the driver's release, such as ``580.95.05``.

        Raises:
            VgpuError: ``driver.unavailable``.
        """
        with self._lock:
            self._begin()
            try:
                return str(pynvml.nvmlSystemGetDriverVersion())
            except pynvml.NVMLError as error:
                self._shut()
                raise _unavailable(error) from error

    def cards(self) -> list[DriverCard]:
        """Return the cards that answer; one that has fallen off the bus is not among them.

        Raises:
            VgpuError: ``driver.unavailable``.
        """
        return [card for _handle, card in self._all()]

    def topology(self) -> Topology:
        """Return how far the cards are apart, as far as the driver tells.

        Raises:
            VgpuError: ``driver.unavailable``.
        """
        found: dict[frozenset[str], int] = {}
        for (one, first), (other, second) in combinations(self._all(), 2):
            with suppress(pynvml.NVMLError):
                found[frozenset((first.uuid, second.uuid))] = _distance(one, other)
        return Topology(found)

    def processes(self, uuid: str) -> dict[int, int | None]:
        """Return the processes with a context on a card, and the bytes that each has there; None where the driver does not tell.

        Raises:
            VgpuError: ``driver.unavailable``, also for a card that is lost.
        """
        with self._lock:
            self._begin()
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                found: dict[int, int | None] = {}
                for listing in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
                    with suppress(pynvml.NVMLError_NotSupported):
                        found |= {process.pid: process.usedGpuMemory for process in listing(handle)}
            except pynvml.NVMLError as error:
                self._shut()
                raise _unavailable(error) from error
            return found

    def utilisation(self, uuid: str) -> dict[int, int]:
        """Return the percent of a card's time that processes used in the newest sample of each, of the last seconds.

        Empty where the driver does not tell (MIG, some virtual cards), and where it has no sample.
        """
        with self._lock:
            since_us = time.time_ns() // 1000 - _FRESH_US
            try:
                self._begin()
                samples = pynvml.nvmlDeviceGetProcessUtilization(pynvml.nvmlDeviceGetHandleByUUID(uuid), since_us)
            except (pynvml.NVMLError, VgpuError):
                return {}
            newest: dict[int, Any] = {}
            for sample in samples:
                if sample.pid not in newest or newest[sample.pid].timeStamp < sample.timeStamp:
                    newest[sample.pid] = sample
            return {pid: min(sample.smUtil, _HUNDRED) for pid, sample in newest.items()}

    def _all(self) -> list[tuple[Any, DriverCard]]:
        with self._lock:
            self._begin()
            try:
                count = pynvml.nvmlDeviceGetCount()
            except pynvml.NVMLError as error:
                self._shut()
                raise _unavailable(error) from error
            found: list[tuple[Any, DriverCard]] = []
            for index in range(count):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    found.append((handle, _describe(handle)))
                except pynvml.NVMLError as error:
                    LOG.warning("card %d does not answer: %s", index, error)
            return found

    def _begin(self) -> None:
        if not self._open:
            try:
                # The binding asks for the bare name, which a library that is loaded already has.
                ctypes.CDLL(self._library)
                pynvml.nvmlInit()
            except (pynvml.NVMLError, OSError) as error:
                raise _unavailable(error) from error
            self._open = True

    def _shut(self) -> None:
        if self._open:
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _describe(handle: Any) -> DriverCard:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    partitioned = False
    with suppress(pynvml.NVMLError_NotSupported):
        partitioned = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    return DriverCard(
        pynvml.nvmlDeviceGetUUID(handle),
        pynvml.nvmlDeviceGetName(handle),
        pynvml.nvmlDeviceGetMinorNumber(handle),
        memory.total // _BYTES_PER_MIB,
        -(-memory.reserved // _BYTES_PER_MIB),
        _numa(pynvml.nvmlDeviceGetPciInfo(handle).busId),
        partitioned,
    )


def _numa(bus_id: str) -> int | None:
    """Return the NUMA node of a PCI address; NVML writes its domain with eight digits, the kernel with four."""
    try:
        node = int((_PCI / bus_id.lower()[-12:] / "numa_node").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _distance(one: Any, other: Any) -> int:
    with suppress(pynvml.NVMLError):
        if pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == pynvml.NVML_P2P_STATUS_OK:
            return _NVLINK
    level = pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other)
    if level in _SWITCHES:
        return _SWITCH
    return _FAR if level == pynvml.NVML_TOPOLOGY_SYSTEM else _NODE


def _unavailable(error: Exception) -> VgpuError:
    return VgpuError(
        "driver.unavailable",
        "The driver of the cards does not answer: {reason}.",
        "Look whether nvidia-smi works on this node, and mount the driver's libraries into the node agent.",
        reason=error,
    )
