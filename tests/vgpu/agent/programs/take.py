"""A program in a real container: takes all memory that it can get, prints what happened, and does what ``/work/ask`` says.

It needs nothing but Python and the driver. Started with an argument it prints how many units of 32 MiB it got, and ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNIT = 32 << 20
ASK = Path("/work/ask")


def begin() -> Any:
    """Return the driver, with a context on the slice's card. The simulated one does not look at nodes: it is told the card."""
    limits = Path("/run/tessera/limits").read_bytes()
    found = re.search(rb"GPU-[0-9a-f-]{36}", limits)
    assert found is not None
    os.environ["CUDA_VISIBLE_DEVICES"] = found[0].decode()
    cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    return cuda


def take(cuda: Any, most: int) -> list[ctypes.c_uint64]:
    """Allocate units until there is no more."""
    held: list[ctypes.c_uint64] = []
    while len(held) < most:
        address = ctypes.c_uint64()
        if cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(UNIT)) != 0:
            break
        held.append(address)
    return held


def say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main() -> None:
    cuda = begin()
    held = take(cuda, 9999)
    if len(sys.argv) > 1:
        say(len(held))
        return
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    seen = {
        "units": len(held),
        "total": total.value >> 20,
        "devices": sorted(path.name for path in Path("/dev").iterdir() if path.name.startswith("nvidia")),
        "library": "libtessera_vgpu.so" in Path("/proc/self/maps").read_text(),
    }
    for address in held:
        cuda.cuMemFree_v2(address)
    state = f"GPU_SIMULATOR_STATE={os.environ['GPU_SIMULATOR_STATE']}"
    bare = subprocess.run(["env", "-i", state, sys.executable, __file__, "bare"], capture_output=True, text=True)
    take(cuda, 10)
    say(seen | {"bare": json.loads(bare.stdout or "null"), "error": bare.stderr})
    while True:
        if ASK.exists():
            ASK.unlink()
            say({"more": len(take(cuda, 9999))})
        time.sleep(0.2)


main()
