"""The mode of one device: a container with parts of two cards sees one, and its processes have it in proportion."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tessera_vgpu.pages import CardLimits, DeviceMode, Limits, create_limits
from tests.vgpu.interposer.conftest import CONTEXT, MIB, Slice, answer

# What a framework does: it asks NVML and the driver for devices, takes the first, and allocates there.
PROGRAM = """
import ctypes, json, pynvml, sys
cuda, count, device, other = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
pynvml.nvmlInit()
before = pynvml.nvmlDeviceGetCount()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
uuid, context, address = (ctypes.c_ubyte * 16)(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
assert cuda.cuDeviceGetUuid_v2(uuid, device) == 0
beyond = cuda.cuDeviceGet(ctypes.byref(other), 1)
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(2 << 20)) == 0
foreign = []
for ordinal in range(3):  # the driver's own numbers of devices
    if ordinal != device.value:
        foreign.append(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal))
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
print("ready", flush=True)
text = bytes(uuid).hex()
print(json.dumps({
    "handle": device.value,
    "devices": [before, count.value, pynvml.nvmlDeviceGetCount()],
    "driver": "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
    "nvml": pynvml.nvmlDeviceGetUUID(handle),
    "mib": [total.value >> 20, pynvml.nvmlDeviceGetMemoryInfo(handle).total >> 20],
    "errors": [beyond, *foreign],
}), flush=True)
sys.stdin.readline()
"""
INVALID_DEVICE = 101


@contextmanager
def running(container: Slice, **variables: str) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=container.environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        answer(process, None, "ready")
        yield json.loads(answer(process, None))
    finally:
        process.kill()
        process.communicate()


def test_processes_are_placed_on_the_cards_in_proportion_and_see_one(make_slice: Callable[..., Slice]) -> None:
    container = make_slice(cards="3xA100-80G")
    _unused, small, large = container.machine.uuids
    given = (
        CardLimits(small, 100 * MIB, 30, 30, context_bytes=CONTEXT),
        CardLimits(large, 200 * MIB, 60, 60, context_bytes=CONTEXT),
    )
    create_limits(container.pages / "limits", Limits("pod-a", "main", given, mode=DeviceMode.ONE_DEVICE, most_processes=6))
    with ExitStack() as stack:
        seen = [stack.enter_context(running(container)) for _process in range(5)]
        assert Counter(one["driver"] for one in seen[:3]) == {small: 1, large: 2}
        # One ends, and the next takes its place.
        with running(container) as last:
            assert Counter(one["driver"] for one in [*seen, last]) == {small: 2, large: 4}
        # A program that wants the first device wants the one that there is.
        with running(container, CUDA_VISIBLE_DEVICES="0") as again:
            assert (again["driver"], again["devices"]) == (last["driver"], [1, 1, 1])
        for one in [*seen, last]:
            assert one["devices"] == [1, 1, 1]
            assert one["handle"] == 0  # as programs write it that know of one device
            assert one["nvml"] == one["driver"]
            assert one["mib"] == ([100, 100] if one["driver"] == small else [200, 200])
            assert one["errors"] == [INVALID_DEVICE] * 3


def test_a_slice_of_one_card_is_one_device_anyhow(make_slice: Callable[..., Slice]) -> None:
    container = make_slice(of_slice=1)
    given = (CardLimits(container.uuids[0], 100 * MIB, 30, 30, context_bytes=CONTEXT),)
    create_limits(container.pages / "limits", Limits("pod-a", "main", given, mode=DeviceMode.ONE_DEVICE))
    with running(container) as seen:
        assert seen["devices"] == [1, 1, 1]
        assert seen["driver"] == seen["nvml"] == container.uuids[0]


def test_the_self_test_tries_the_card_that_the_program_sees(make_slice: Callable[..., Slice]) -> None:
    container = make_slice(cards="2xA100-80G")
    given = tuple(CardLimits(uuid, 100 * MIB, 50, 50, context_bytes=CONTEXT) for uuid in container.uuids)
    create_limits(container.pages / "limits", Limits("pod-a", "main", given, mode=DeviceMode.ONE_DEVICE))
    program = "import tessera_vgpu\nfor test in tessera_vgpu.self_test(seconds=0.2): print(test.card, test.memory_passed)"
    with running(container) as other:
        (elsewhere,) = set(container.uuids) - {other["driver"]}
        assert container.run_command([sys.executable, "-c", program]).split() == [elsewhere, "True"]
