"""MIG: which GPU instances a card is to have, and the card brought there through NVML.

What a card shall have follows from the reservations alone, so that a restart, or a crash between a GPU instance and its compute
instance, is mended by reconciling once more. MIG's mode is switched on cards that nobody uses only.

Sources: NVIDIA Multi-Instance GPU user guide; NVML API reference, "Multi Instance GPU Management".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ctypes import byref, c_uint
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import pynvml as _pynvml

from tessera_vgpu.cards import Card, Piece, new_card, piece_fits
from tessera_vgpu.catalogue import Placements
from tessera_vgpu.errors import VgpuError

pynvml: Final[Any] = _pynvml
"""It has no types, and makes most of its exceptions when it is imported."""
_MEDIA: Final = ("+me", ".me")
"""What the driver and what the catalogue append to profiles with media engines."""


class Action(StrEnum):
    """What is done to a GPU instance."""

    REMOVE = "remove"
    COMPLETE = "complete"
    MAKE = "make"


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance that is there.

    Attributes:
        number: the driver's number of it.
        uuid: of its MIG device; None while it has no compute instance.
        used: whether processes run on it.
    """

    number: int
    piece: Piece
    uuid: str | None = None
    used: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One change; ``number`` is of the instance that is there, None for one to make."""

    action: Action
    piece: Piece
    number: int | None = None


def plan(there: Iterable[Instance], reserved: Iterable[Piece]) -> list[Step]:
    """Return what turns the instances that are *there* into those that are *reserved*, removals first.

    Raises:
        VgpuError: ``mig.in_use``, an instance that nobody has reserved has processes.
    """
    wanted = Counter(reserved)
    steps: list[Step] = []
    kept: list[Step] = []
    for instance in sorted(there, key=lambda instance: instance.number):
        if wanted[instance.piece] > 0:
            wanted[instance.piece] -= 1
            if instance.uuid is None:
                kept.append(Step(Action.COMPLETE, instance.piece, instance.number))
        elif instance.used:
            raise _in_use(instance.piece)
        else:
            steps.append(Step(Action.REMOVE, instance.piece, instance.number))
    return [*steps, *kept, *(Step(Action.MAKE, piece) for piece in sorted(wanted.elements()))]


def arrange(cut: Placements, profiles: Sequence[str]) -> tuple[Piece, ...]:
    """Return where *profiles* lie on one empty card, the largest first; equal ones are the strategy *single*, others *mixed*.

    Raises:
        VgpuError: ``mig.layout``, there is no such profile, or they do not fit together.
    """
    unknown = sorted(set(profiles) - set(cut.profiles))
    if unknown:
        raise VgpuError(
            "mig.layout",
            "There is no profile {profile} on this card.",
            "Use one of {known}.",
            profile=unknown[0],
            known=", ".join(cut.profiles),
        )
    order = sorted(profiles, key=lambda name: (-cut.profiles[name].size, -cut.compute_of(name), name))
    found = _arranged(new_card("", "", 0, cut), order)
    if found is None:
        raise VgpuError(
            "mig.layout",
            "The profiles {profiles} do not fit on one card together.",
            "Leave one out, or choose smaller ones.",
            profiles=", ".join(order),
        )
    return tuple(sorted(found))


def as_many_as_fit(cut: Placements, profile: str) -> tuple[Piece, ...]:
    """Return the layout of the strategy *single*: one profile, as often as it goes.

    Raises:
        VgpuError: ``mig.layout``, there is no such profile.
    """
    found = arrange(cut, [profile])
    with suppress(VgpuError):
        while True:
            found = arrange(cut, [profile] * (len(found) + 1))
    return found


def _arranged(card: Card, profiles: Sequence[str]) -> tuple[Piece, ...] | None:
    if not profiles:
        return card.taken
    assert isinstance(card.cut, Placements)
    for start in card.cut.profiles[profiles[0]].starts:
        piece = Piece(profiles[0], start)
        if piece_fits(card, piece):
            found = _arranged(replace(card, taken=tuple(sorted((*card.taken, piece)))), profiles[1:])
            if found is not None:
                return found
    return None


class PartitionedCard:
    """One card with MIG, by NVML, which must be open. Not for several threads at once."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._profiles = {profile.id: _name(profile.name) for profile in self._all_profiles()}

    def mode(self) -> tuple[bool, bool]:
        """Return whether MIG is on, and whether it will be after the next reset."""
        try:
            current, pending = pynvml.nvmlDeviceGetMigMode(self._device)
        except pynvml.NVMLError as error:
            raise _refused(self.uuid, error) from error
        return bool(current), bool(pending)

    def switch(self, *, on: bool) -> None:
        """Turn MIG on or off.

        Raises:
            VgpuError: ``mig.in_use``, somebody uses the card; ``mig.needs_reset``, the card keeps its mode until it is reset;
                ``mig.refused``, the driver does not let us.
        """
        current, pending = self.mode()
        if (current, pending) == (on, on):
            return
        if pynvml.nvmlDeviceGetComputeRunningProcesses(self._device):
            raise VgpuError("mig.in_use", "Card {uuid} is in use.", "Wait until nobody uses it.", uuid=self.uuid)
        try:
            pynvml.nvmlDeviceSetMigMode(self._device, int(on))
        except pynvml.NVMLError as error:
            raise _refused(self.uuid, error) from error
        if self.mode()[0] != on:
            raise VgpuError(
                "mig.needs_reset",
                "Card {uuid} changes its mode at its next reset only.",
                "Reset it with nvidia-smi --gpu-reset, or restart the node, while nobody uses it.",
                uuid=self.uuid,
            )

    def instances(self) -> list[Instance]:
        """Return the GPU instances that are there; none while MIG is off."""
        if not self.mode()[0]:
            return []
        users = {process.gpuInstanceId for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._device)}
        devices = self._devices()
        found = []
        for handle in self._handles():
            info = pynvml.nvmlGpuInstanceGetInfo(handle)
            piece = Piece(self._profiles[info.profileId], int(info.placement.start))
            found.append(Instance(int(info.id), piece, devices.get(int(info.id)), int(info.id) in users))
        return sorted(found, key=lambda instance: instance.number)

    def reconcile(self, reserved: Mapping[str, Piece]) -> dict[str, str]:
        """Bring the card to what is reserved and return reservation → UUID of its MIG device. May be repeated.

        Args:
            reserved: name of the reservation → its place, no two of which overlap.

        Raises:
            VgpuError: ``mig.in_use``, an instance in the way has processes; ``mig.refused``, the driver refuses.
        """
        for step in plan(self.instances(), reserved.values()):
            try:
                self._take(step)
            except pynvml.NVMLError_InUse as error:
                raise _in_use(step.piece) from error
            except pynvml.NVMLError as error:
                raise _refused(self.uuid, error) from error
        there: dict[Piece, list[str]] = {}
        for instance in self.instances():
            if instance.uuid is not None:
                there.setdefault(instance.piece, []).append(instance.uuid)
        return {name: there[piece].pop() for name, piece in sorted(reserved.items())}

    def _take(self, step: Step) -> None:
        if step.number is None:
            profile = next(number for number, name in self._profiles.items() if name == step.piece.name)
            place = next(p for p in self._places(profile) if p.start == step.piece.start)
            handle = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(self._device, profile, byref(place))
            self._complete(handle)
            return
        handle = pynvml.nvmlDeviceGetGpuInstanceById(self._device, step.number)
        if step.action is Action.COMPLETE:
            self._complete(handle)
            return
        for compute in self._computes(handle):
            pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(handle)

    @classmethod
    def _complete(cls, handle: Any) -> None:
        """Give a GPU instance one compute instance with all of its slices."""
        whole = max(cls._compute_profiles(handle), key=lambda profile: profile.sliceCount)
        pynvml.nvmlGpuInstanceCreateComputeInstance(handle, whole.id)

    @staticmethod
    def _compute_profiles(handle: Any) -> list[Any]:
        found = []
        for number in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
                found.append(pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(handle, number, 0))
        return found

    def _all_profiles(self) -> list[Any]:
        found = []
        for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
                found.append(pynvml.nvmlDeviceGetGpuInstanceProfileInfo(self._device, number))
        return found

    def _places(self, profile: int) -> list[Any]:
        count = c_uint(0)
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._device, profile, None, byref(count))
        places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._device, profile, places, byref(count))
        return list(places)[: count.value]

    def _handles(self) -> list[Any]:
        found: list[Any] = []
        for profile in self._profiles:
            most = len(self._places(profile))
            handles, count = (pynvml.c_nvmlGpuInstance_t * most)(), c_uint(most)
            pynvml.nvmlDeviceGetGpuInstances(self._device, profile, handles, byref(count))
            found += list(handles)[: count.value]
        return found

    @classmethod
    def _computes(cls, handle: Any) -> list[Any]:
        found: list[Any] = []
        for profile in cls._compute_profiles(handle):
            handles, count = (pynvml.c_nvmlComputeInstance_t * profile.instanceCount)(), c_uint(profile.instanceCount)
            pynvml.nvmlGpuInstanceGetComputeInstances(handle, profile.id, handles, byref(count))
            found += list(handles)[: count.value]
        return found

    def _devices(self) -> dict[int, str]:
        """Return number of the GPU instance → UUID of its MIG device."""
        found = {}
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(self._device)):
            with suppress(pynvml.NVMLError_NotFound):
                device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(self._device, index)
                found[int(pynvml.nvmlDeviceGetGpuInstanceId(device))] = str(pynvml.nvmlDeviceGetUUID(device))
        return found


def _name(driver_name: str | bytes) -> str:
    text = driver_name.decode() if isinstance(driver_name, bytes) else driver_name
    return text.removeprefix("MIG ").replace(*_MEDIA)


def _in_use(piece: Piece) -> VgpuError:
    return VgpuError(
        "mig.in_use",
        "Partition {profile} at {start} is in use and nobody's reservation.",
        "End the processes on it; it is removed then.",
        profile=piece.name,
        start=piece.start,
    )


def _refused(uuid: str, error: Exception) -> VgpuError:
    return VgpuError(
        "mig.refused",
        "The driver refuses to change the partitions of card {uuid}: {error}.",
        "Partitions need root, a card with MIG turned on, and nobody else who manages them.",
        uuid=uuid,
        error=error,
    )
