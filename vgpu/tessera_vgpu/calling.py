"""Calls of the driver from Python, for the self-test of a slice."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tessera_vgpu.errors import VgpuError


def driver() -> Any:
    """Return the driver, initialised.

    Raises:
        VgpuError: ``inside.driver``, as do the others below.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise _refused("libcuda.so.1", error) from error
    call(cuda, "cuInit", 0)
    return cuda


def call(cuda: Any, name: str, *arguments: object) -> None:
    """Call a function that must succeed."""
    if result := getattr(cuda, name)(*arguments):
        raise _refused(name, result)


@contextmanager
def context_on(cuda: Any, uuid: str) -> Iterator[None]:
    """Have the primary context of a card."""
    device, context = _device(cuda, uuid), ctypes.c_void_p()
    call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        call(cuda, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def shown(cuda: Any) -> dict[str, ctypes.c_int]:
    """Return the cards that the driver shows to this program, by UUID without dashes, in its order."""
    count, found = ctypes.c_int(), {}
    call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    for index in range(count.value):
        device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        call(cuda, "cuDeviceGet", ctypes.byref(device), index)
        call(cuda, "cuDeviceGetUuid_v2", uuid, device)
        found[bytes(uuid).hex()] = device
    return found


def plain(uuid: str) -> str:
    """Return a UUID as :func:`shown` has it."""
    return uuid.removeprefix("GPU-").replace("-", "")


def _device(cuda: Any, uuid: str) -> ctypes.c_int:
    device = shown(cuda).get(plain(uuid))
    if device is None:
        raise _refused(uuid, "the driver does not show it")
    return device


def _refused(what: str, reason: object) -> VgpuError:
    return VgpuError(
        "inside.driver",
        "The driver refuses to work: {what}: {reason}.",
        "Standard error of this program says more; if it does not, ask who runs the node.",
        what=what,
        reason=reason,
    )
