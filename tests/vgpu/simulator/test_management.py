"""NVML through nvidia-ml-py, unchanged: what it says of cards, memory and processes, its slow sampling, and MIG."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tessera_vgpu.simulate import read_cards
from tests.vgpu.simulator.conftest import REAL, Card

simulated = pytest.mark.skipif(REAL, reason="a real card's MIG mode and sampling are left alone")
MODELS = read_cards()

BEGIN = """
import json, time
from ctypes import byref, c_uint
from pynvml import *
nvmlInit()
device = nvmlDeviceGetHandleByIndex(0)

def error(function, *arguments):
    try:
        function(*arguments)
    except NVMLError as refusal:
        return refusal.value
    return 0
"""


def ask(card: Card, source: str, **variables: str) -> Any:
    return json.loads(card.python(f"{BEGIN}\n{source}", **variables))


def test_cards_are_found_by_index_uuid_and_address(card: Card) -> None:
    assert ask(
        card,
        """
uuid, address = nvmlDeviceGetUUID(device), nvmlDeviceGetPciInfo(device).busId
same = [nvmlDeviceGetIndex(nvmlDeviceGetHandleByUUID(uuid)), nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId(address))]
print(json.dumps([same, uuid.startswith("GPU-"), nvmlDeviceGetCount() >= 1, len(nvmlDeviceGetName(device)) > 3,
    error(nvmlDeviceGetHandleByIndex, 1000) == NVML_ERROR_INVALID_ARGUMENT,
    error(nvmlDeviceGetHandleByUUID, "GPU-none") in (NVML_ERROR_NOT_FOUND, NVML_ERROR_INVALID_ARGUMENT)]))
""",
    ) == [[0, 0], True, True, True, True, True]


@pytest.mark.parametrize("model", sorted(MODELS))
@simulated
def test_cuda_and_nvml_agree_on_the_card(make_card: Callable[..., Card], model: str) -> None:
    about = MODELS[model]
    seen = ask(
        make_card(f"3x{model}"),
        """
memory = nvmlDeviceGetMemoryInfo(device, version=nvmlMemory_v2)
print(json.dumps([nvmlDeviceGetCount(), nvmlDeviceGetName(device), memory.total >> 20, memory.reserved >> 20, memory.used,
    (memory.total - memory.reserved - memory.free), nvmlDeviceGetArchitecture(device),
    list(nvmlDeviceGetCudaComputeCapability(device)),
    nvmlSystemGetDriverVersion(), nvmlSystemGetCudaDriverVersion()]))
""",
    )
    assert seen == [
        *(3, about.product, about.memory_mib, about.reserved_mib, 0, 0),
        *(about.architecture, list(about.compute_capability), "580.95.05", 13000),
    ]


def test_memory_and_processes_of_a_card(card: Card) -> None:
    holder = card.start("worker", "hold", 500)
    pid, used = ask(
        card,
        """
mine = [process for process in nvmlDeviceGetComputeRunningProcesses(device)]
print(json.dumps([[process.pid for process in mine], sum(process.usedGpuMemory for process in mine)]))
""",
    )
    assert pid == [holder.pid]
    assert used >= 500 << 20
    holder.kill()
    holder.wait()
    assert ask(card, "print(json.dumps(len(nvmlDeviceGetComputeRunningProcesses(device))))") == 0


@simulated
def test_use_of_processes_is_sampled_slowly_in_whole_percents(card: Card) -> None:
    assert (
        ask(card, "print(json.dumps(error(nvmlDeviceGetProcessUtilization, device, 0)))") == 6
    )  # NOT_FOUND: nobody did anything
    workers = [card.start("worker", "flood", 1_000_000) for _ in range(2)]
    time.sleep(2.2)
    first, again, later, rates = ask(
        card,
        """
samples = nvmlDeviceGetProcessUtilization(device, 0)
first = [[sample.pid, sample.smUtil, sample.timeStamp] for sample in samples]
newest = max(sample.timeStamp for sample in samples)
again = error(nvmlDeviceGetProcessUtilization, device, newest)
began = time.monotonic()
while error(nvmlDeviceGetProcessUtilization, device, newest):
    time.sleep(0.005)
later = nvmlDeviceGetProcessUtilization(device, newest)[0].timeStamp
print(json.dumps([first, again, later - newest, nvmlDeviceGetUtilizationRates(device).gpu]))
""",
    )
    assert sorted(pid for pid, _percent, _time in first) == sorted(worker.pid for worker in workers)
    for _pid, percent, stamp in first:
        assert isinstance(percent, int)
        assert 40 <= percent <= 50
        assert 0.09e6 < time.time() * 1e6 - stamp < 60e6  # the lag
    assert again == 6
    assert later >= 166_000
    assert 85 <= rates <= 100


@simulated
def test_functions_without_a_counterpart_say_so(card: Card) -> None:
    assert ask(card, "print(json.dumps([error(nvmlDeviceGetFanSpeed, device), error(nvmlDeviceGetMigMode, device)]))") == [3, 0]
    source = "import pynvml\ntry: pynvml.nvmlDeviceGetCount()\nexcept pynvml.NVMLError as error: print(error.value)"
    assert card.python(source).strip() == "1"  # before nvmlInit


LAYOUT = """
def create(profile, start=None):
    if start is None:
        return nvmlDeviceCreateGpuInstance(device, profile)
    placement = c_nvmlGpuInstancePlacement_t()
    info = next(i for i in infos if i.id == profile)
    placement.start, placement.size = start, sizes[profile]
    return nvmlDeviceCreateGpuInstanceWithPlacement(device, profile, byref(placement))

def profiles():
    for number in range(NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            yield nvmlDeviceGetGpuInstanceProfileInfo(device, number, version=2)
        except NVMLError_NotSupported:
            pass

def placements(profile):
    count = c_uint(0)
    function = nvmlDeviceGetGpuInstancePossiblePlacements
    function(device, profile, None, byref(count))
    array = (c_nvmlGpuInstancePlacement_t * count.value)()
    function(device, profile, array, byref(count))
    return [(place.start, place.size) for place in array]

infos = list(profiles())
sizes = {info.id: placements(info.id)[0][1] for info in infos}
"""


@simulated
def test_mig_profiles_and_placements_are_the_cards(make_card: Callable[..., Card]) -> None:
    for model in ("A30-24G", "A100-80G", "H100-80G", "H200-141G"):
        table = MODELS[model].mig
        assert table is not None
        numbers = "i.id, i.sliceCount, i.instanceCount, i.multiprocessorCount, i.memorySizeMB"
        seen = ask(
            make_card(model),
            LAYOUT + f"print(json.dumps([[{numbers}, placements(i.id)] for i in infos]))",
        )
        assert seen == [
            [row.id, row.slices, row.instances, row.multiprocessors, row.memory_mib, [[start, row.size] for start in row.starts]]
            for row in sorted(table.profiles, key=lambda row: row.nvml)
        ]


@simulated
def test_mig_instances_are_made_used_and_refused(make_card: Callable[..., Card]) -> None:
    card = make_card("H100-80G")
    refusals = ask(
        card,
        LAYOUT
        + """
before = error(create, 19)
assert nvmlDeviceSetMigMode(device, 1) == 0 and nvmlDeviceGetMigMode(device) == [1, 1]
large = create(9, 4)
overlap = error(create, 9, 4)
wrong_place = error(create, 9, 2)
small = create(19, 0)
left = nvmlDeviceGetGpuInstanceRemainingCapacity(device, 19)
too_large = error(create, 0)
none_yet = error(nvmlDeviceGetMigDeviceHandleByIndex, device, 0)
compute = nvmlGpuInstanceCreateComputeInstance(large, NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE)
no_more = error(nvmlGpuInstanceCreateComputeInstance, large, NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE)
has_compute = error(nvmlGpuInstanceDestroy, large)
mig = nvmlDeviceGetMigDeviceHandleByIndex(device, 0)
parent = nvmlDeviceGetIndex(nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig))
uuid = nvmlDeviceGetUUID(mig)
info = nvmlGpuInstanceGetInfo(large)
memory = nvmlDeviceGetMemoryInfo(mig).total >> 20
switched_off = nvmlDeviceSetMigMode(device, 0)
nvmlDeviceSetMigMode(device, 1)
print(json.dumps([before, overlap, wrong_place, left, too_large, none_yet, no_more, has_compute, parent, uuid,
    [info.profileId, info.placement.start, info.placement.size], memory, switched_off]))
""",
    )
    uuid = refusals.pop(9)
    assert uuid.startswith("MIG-")
    # NOT_SUPPORTED, INSUFFICIENT_RESOURCES, INVALID_ARGUMENT, three places left, …, NOT_FOUND, …, IN_USE
    assert refusals == [3, 23, 2, 3, 23, 6, 23, 19, 0, [9, 4, 4], 40000, 19]
    assert "multiprocessors 48 memory 40000" in card.python(DEVICE, CUDA_VISIBLE_DEVICES=uuid)
    holder = card.start("worker", "hold", 100, CUDA_VISIBLE_DEVICES=uuid)
    in_use = ask(
        card,
        f"""
mig = nvmlDeviceGetHandleByUUID({uuid!r})
large = nvmlDeviceGetGpuInstanceById(device, nvmlDeviceGetGpuInstanceId(mig))
compute = nvmlGpuInstanceGetComputeInstanceById(large, nvmlDeviceGetComputeInstanceId(mig))
busy = [error(nvmlComputeInstanceDestroy, compute), error(nvmlGpuInstanceDestroy, large)]
busy.append(error(nvmlDeviceGetProcessUtilization, device, 0))
pids = [[process.pid, process.gpuInstanceId] for process in nvmlDeviceGetComputeRunningProcesses(device)]
print(json.dumps([busy, pids, nvmlDeviceGetGpuInstanceId(mig)]))
""",
    )
    assert in_use == [[19, 19, 3], [[holder.pid, in_use[2]]], in_use[2]]
    holder.kill()
    holder.wait()
    gone = ask(
        card,
        f"""
mig = nvmlDeviceGetHandleByUUID({uuid!r})
large = nvmlDeviceGetGpuInstanceById(device, nvmlDeviceGetGpuInstanceId(mig))
nvmlComputeInstanceDestroy(nvmlGpuInstanceGetComputeInstanceById(large, nvmlDeviceGetComputeInstanceId(mig)))
nvmlGpuInstanceDestroy(large)
print(json.dumps(error(nvmlDeviceGetHandleByUUID, {uuid!r})))
""",
    )
    assert gone == 6


@simulated
def test_a_changed_mode_waits_for_users_and_on_ampere_for_a_reset(make_card: Callable[..., Card]) -> None:
    hopper = make_card("H100-80G")
    holder = hopper.start("worker", "hold", 1)
    assert ask(hopper, "print(json.dumps([nvmlDeviceSetMigMode(device, 1), nvmlDeviceGetMigMode(device)]))") == [19, [0, 1]]
    holder.kill()
    holder.wait()
    assert ask(hopper, "print(json.dumps([nvmlDeviceSetMigMode(device, 1), nvmlDeviceGetMigMode(device)]))") == [0, [1, 1]]
    assert ask(
        make_card("A100-80G"),
        """
asked = [nvmlDeviceSetMigMode(device, 1), nvmlDeviceGetMigMode(device)]
nvmlDeviceRemoveGpu(nvmlDeviceGetPciInfo(device))
print(json.dumps([asked, nvmlDeviceGetMigMode(device)]))
""",
    ) == [[16, [0, 1]], [1, 1]]  # RESET_REQUIRED


DEVICE = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
count, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
cuda.cuDeviceGetCount(ctypes.byref(count))
cuda.cuDeviceGetAttribute(ctypes.byref(number), 16, 0)
cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
print("count", count.value, "multiprocessors", number.value, "memory", memory.value >> 20)
"""


@simulated
def test_visible_devices_are_those_of_the_environment(make_card: Callable[..., Card]) -> None:
    card = make_card("2xA100-80G,1xT4-16G")
    assert card.python(DEVICE).startswith("count 3 multiprocessors 108")
    assert card.python(DEVICE, CUDA_VISIBLE_DEVICES="2").startswith("count 1 multiprocessors 40")
    assert card.python(DEVICE, CUDA_VISIBLE_DEVICES="2,0").startswith("count 2 multiprocessors 40")
    assert card.python(DEVICE, CUDA_VISIBLE_DEVICES="1,9,2").startswith("count 1 multiprocessors 108")
    nothing = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    assert card.python(nothing, CUDA_VISIBLE_DEVICES="").strip() == "100"
    assert card.python(nothing, GPU_SIMULATOR_STATE="/nowhere").strip() == "100"
