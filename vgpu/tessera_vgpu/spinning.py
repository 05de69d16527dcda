"""How much of a card's time a program gets that asks for all of it: kernels of known length, counted against the clock.

Nothing that the slice's own books say is used, so a library that counts wrongly does not pass its own test.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Final

from tessera_vgpu.calling import call

_KERNEL_NS: Final = 2_000_000
_AHEAD: Final = 4
"""Kernels between two waits: enough that the card is never idle for want of them."""
_IMAGE: Final = b"""
// simulated kernel tessera_spin block_ns=@0 parameters=8
.version 6.0
.target sm_50
.address_size 64
.visible .entry tessera_spin(.param .u64 ns)
{
.reg .u64 %start, %now, %span;
.reg .pred %more;
ld.param.u64 %span, [ns];
mov.u64 %start, %globaltimer;
AGAIN:
mov.u64 %now, %globaltimer;
sub.u64 %now, %now, %start;
setp.lt.u64 %more, %now, %span;
@%more bra AGAIN;
ret;
}
"""
"""PTX of a kernel that works for a while; its first line is for the simulated driver."""


def time_centi(cuda: Any, seconds: float) -> int:
    """Return what part of the card's time the current context got, in hundredths, rounded up.

    Args:
        seconds: how long it is measured, after half as long in which what a launch costs is learnt and what was saved is spent.

    Raises:
        VgpuError: ``inside.driver``.
    """
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    call(cuda, "cuModuleLoadData", ctypes.byref(module), _IMAGE)
    try:
        call(cuda, "cuModuleGetFunction", ctypes.byref(kernel), module, b"tessera_spin")
        _spin(cuda, kernel, seconds / 2)
        began = time.monotonic_ns()
        count = _spin(cuda, kernel, seconds)
        took = time.monotonic_ns() - began
    finally:
        cuda.cuModuleUnload(module)
    return -(-100 * count * _KERNEL_NS // took)


def _spin(cuda: Any, kernel: ctypes.c_void_p, seconds: float) -> int:
    """Launch kernels for a while, wait for them, and return how many they were."""
    span = ctypes.c_uint64(_KERNEL_NS)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(span))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for _ in range(_AHEAD):
            call(cuda, "cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None, arguments, None)
        call(cuda, "cuCtxSynchronize")
        count += _AHEAD
    return count
