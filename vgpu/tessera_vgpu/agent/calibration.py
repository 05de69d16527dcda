"""What the context of one process costs on each card, measured: a program that has nothing but a context, and the driver's word.

Run as a program it makes a context on the card whose UUID is its argument, says so, and keeps it until its input ends.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from typing import Final

from tessera_vgpu.agent.driver import Driver
from tessera_vgpu.errors import VgpuError

_MOST_S: Final = 60.0


def context_bytes(driver: Driver, uuid: str) -> int:
    """Return the bytes of a context on a card.

    Raises:
        VgpuError: ``calibration.failed``; give the number by hand.
    """
    command = [sys.executable, "-m", "tessera_vgpu.agent.calibration", uuid]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - this module
        try:
            assert child.stdout is not None
            if child.stdout.readline().strip() != "ready":
                raise _failed(uuid)
            deadline = time.monotonic() + _MOST_S
            while time.monotonic() < deadline:
                if (found := driver.processes(uuid).get(child.pid)) is not None and found > 0:
                    return found
                time.sleep(0.1)
        finally:
            child.kill()
    raise _failed(uuid)


def _failed(uuid: str) -> VgpuError:
    return VgpuError(
        "calibration.failed",
        "What a context costs on card {card} could not be measured.",
        "Start the agent in the machine's process name space with the cards' nodes, or give --context-mib.",
        card=uuid,
    )


def _hold(uuid: str) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        raise SystemExit(1)
    for index in range(count.value):
        found = (ctypes.c_ubyte * 16)()
        if cuda.cuDeviceGet(ctypes.byref(device), index) or cuda.cuDeviceGetUuid(found, device):
            raise SystemExit(1)
        if bytes(found).hex() == uuid.removeprefix("GPU-").replace("-", ""):
            if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
                raise SystemExit(1)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.read()
            return
    raise SystemExit(1)


if __name__ == "__main__":
    _hold(sys.argv[1])
