"""What the context of one process costs on each card, measured: a program that has nothing but a context, and the driver's word.

Run as a program it makes a context, says so, and keeps it until its input ends. Its arguments are the card's UUID and the
driver's library.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tessera_vgpu.agent.driver import Driver
from tessera_vgpu.errors import VgpuError

CALIBRATION: Final = "contexts.json"
_MOST_S: Final = 60.0


def measured(driver: Driver, cards: Mapping[str, str], file: Path, library: str = "libcuda.so.1") -> dict[str, int]:
    """Return the bytes of a context by name of card; *cards* has a card of each.

    What was measured with the same driver is read from *file*: an agent that starts anew may find no room for its own context.

    Raises:
        VgpuError: ``calibration.failed``, ``driver.unavailable``.
    """
    version = driver.version()
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        known = {}
    of_driver: dict[str, int] = known.get(version, {})
    for name, uuid in cards.items():
        if name not in of_driver:
            of_driver[name] = context_bytes(driver, uuid, library)
            file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}")
            temporary.write_text(json.dumps({version: of_driver}), "utf-8")
            temporary.replace(file)
    return {name: of_driver[name] for name in cards}


def context_bytes(driver: Driver, uuid: str, library: str = "libcuda.so.1") -> int:
    """Return the bytes of a context on a card.

    Raises:
        VgpuError: ``calibration.failed``; give the number by hand.
    """
    command = [sys.executable, "-m", "tessera_vgpu.agent.calibration", uuid, library]
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


def _hold(uuid: str, library: str) -> None:
    cuda = ctypes.CDLL(library)
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
    _hold(*sys.argv[1:])
