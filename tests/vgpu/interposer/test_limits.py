"""However a program reaches the driver and whatever it allocates, it gets its slice and no more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera_vgpu.pages import change_limits
from tests.vgpu.interposer.conftest import BUILD, MIB, Slice, answer

FAMILIES = {
    **dict.fromkeys(("linear", "pitch", "managed", "ordered", "pool", "physical", "array", "array3d", "graph"), 8),
    "mipmap": 6,  # with their smaller levels 38 MiB each
    "small": 1024,  # of 256 KiB
    "context": 4,  # of 64 MiB, beside the first
}
WAYS = ("linked", "dlsym", "default", "found", "address", "per_thread", "old_address")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_ends_at_the_limit(slice_: Slice, family: str) -> None:
    units = FAMILIES[family]
    assert slice_.run("fill", family, "linked").split() == [str(units), str(units), "256", "256", "256"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["linear", "ordered"])
def test_each_way_to_an_entry_ends_at_the_limit(slice_: Slice, way: str, family: str) -> None:
    assert slice_.run("fill", family, way).split() == ["8", "8", "256", "256", "256"]


def test_without_the_library_there_is_no_limit(slice_: Slice) -> None:
    """Else the tests above would show nothing."""
    program = [str(slice_.programs["fill"]), "linear", "linked"]
    done = subprocess.run(program, env=slice_.machine.environment(), check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[0]) > 2000


def test_cards_have_limits_of_their_own_and_others_are_refused(make_slice: Callable[..., Slice]) -> None:
    two = make_slice(cards="2xA100-80G", of_slice=1)
    source = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 1) == 101
"""
    two.run_command([sys.executable, "-c", source])


TWO = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
contexts = [ctypes.c_void_p(), ctypes.c_void_p()]
managed, other, last = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
def on(card):
    assert cuda.cuCtxSetCurrent(contexts[card]) == 0
def left(card):
    on(card)
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value >> 20
def mib(number):
    return ctypes.c_size_t(number << 20)
assert cuda.cuInit(0) == 0
for card in (0, 1):
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(contexts[card]), card) == 0
on(0)
assert cuda.cuMemAllocManaged(ctypes.byref(managed), mib(200), 1) == 0
assert (left(0), left(1)) == (56, 256)
assert cuda.cuMemAlloc_v2(ctypes.byref(other), mib(100)) == 0
assert (left(0), left(1)) == (56, 156)
on(0)
assert cuda.cuMemPrefetchAsync(managed, mib(200), 1, None) == 2, "no room on the other card"
assert (left(0), left(1)) == (56, 156)
assert cuda.cuMemFree_v2(other) == 0
on(0)
assert cuda.cuMemPrefetchAsync(managed, mib(200), 1, None) == 0
assert (left(0), left(1)) == (256, 56)
on(0)
assert cuda.cuMemAlloc_v2(ctypes.byref(last), mib(256)) == 0
assert cuda.cuMemPrefetchAsync(managed, mib(200), 0, None) == 2
assert cuda.cuMemFree_v2(managed) == 0
assert (left(0), left(1)) == (0, 256)
"""


def test_each_card_has_a_limit_and_managed_memory_counts_where_it_is(make_slice: Callable[..., Slice]) -> None:
    make_slice(cards="2xA100-80G").run_command([sys.executable, "-c", TWO])


POOLS = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, stream, graph = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
address, free, total = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
def left():
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value >> 20
def mib(number):
    return ctypes.c_size_t(number << 20)
assert cuda.cuInit(0) == 0 and cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuStreamCreate(ctypes.byref(stream), 1) == 0
for _ in range(50):  # the stream may have again what it has just freed, at the limit and without waiting
    assert cuda.cuMemAllocAsync(ctypes.byref(address), mib(250), stream) == 0
    assert cuda.cuMemFreeAsync(address, stream) == 0
assert cuda.cuStreamSynchronize(stream) == 0 and left() == 256
assert cuda.cuStreamBeginCapture_v2(stream, 2) == 0
assert cuda.cuMemAllocAsync(ctypes.byref(address), mib(100), stream) == 0
assert cuda.cuMemAllocAsync(ctypes.byref(address), mib(200), stream) == 2
assert cuda.cuMemFreeAsync(address, stream) == 0
assert cuda.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
assert left() == 128
assert cuda.cuGraphDestroy(graph) == 0 and cuda.cuCtxSynchronize() == 0 and left() == 256
"""


def test_pools_are_counted_at_the_limit_and_in_graphs(slice_: Slice) -> None:
    slice_.run_command([sys.executable, "-c", POOLS])


def test_a_new_limit_is_in_force_at_once(slice_: Slice) -> None:
    worker = slice_.start("told")
    answer(worker, "alloc 200", "0")
    answer(worker, "info", "56 256")
    answer(worker, "alloc 100", "2")
    change_limits(slice_.pages / "limits", slice_.limits(512))
    answer(worker, "info", "312 512")
    answer(worker, "alloc 100", "0")
    change_limits(slice_.pages / "limits", slice_.limits(64))
    answer(worker, "info", "0 64")
    answer(worker, "alloc 1", "2")
    answer(worker, "free", "0")
    answer(worker, "free", "0")
    answer(worker, "info", "64 64")
    answer(worker, "alloc 64", "0")
    assert slice_.usage().limits_generation == 3


def test_a_container_has_so_many_programs_at_most(slice_: Slice) -> None:
    change_limits(slice_.pages / "limits", slice_.limits(256, processes=1))
    holder = slice_.start("hold", 10)
    slice_.run("worker", "refused")
    holder.kill()
    holder.wait()
    assert slice_.units() == 8


NVML = """
import pynvml
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByIndex(0)
for version in (None, pynvml.nvmlMemory_v2):
    memory = pynvml.nvmlDeviceGetMemoryInfo(card, version=version)
    print(memory.total >> 20, memory.used >> 20, memory.free >> 20)
for process in pynvml.nvmlDeviceGetComputeRunningProcesses(card):
    print(process.pid, process.usedGpuMemory >> 20)
print(len(pynvml.nvmlDeviceGetGraphicsRunningProcesses(card)))
"""


def test_nvml_shows_the_slice_and_its_processes(slice_: Slice) -> None:
    slice_.start("hold", 1000, inside=False)
    mine = slice_.start("hold", 100)
    said = slice_.run_command([sys.executable, "-c", NVML]).splitlines()
    assert said == ["256 100 156", "256 100 156", f"{mine.pid} 164", "0"]
    change_limits(slice_.pages / "limits", slice_.limits(64))
    assert slice_.run_command([sys.executable, "-c", NVML]).splitlines()[0] == "64 64 0"


def dynamic_symbols(library: Path) -> list[list[str]]:
    said = subprocess.run(["objdump", "-T", str(library)], check=True, capture_output=True, text=True).stdout
    return [line.split() for line in said.splitlines() if len(line.split()) >= 6]


def test_it_loads_with_an_old_c_library_and_exports_nothing_but_hooks() -> None:
    symbols = dynamic_symbols(BUILD / "libtessera_vgpu.so")
    needed = {word.strip("()").removeprefix("GLIBC_") for line in symbols for word in line if "GLIBC_" in word}
    assert needed
    assert all(tuple(map(int, version.split("."))) <= (2, 17) for version in needed)
    exported = {line[-1] for line in symbols if "*UND*" not in line}
    assert {"dlsym", "dlvsym", "cuMemAlloc_v2", "nvmlDeviceGetMemoryInfo"} <= exported
    assert all(name.startswith(("cu", "nvmlDevice")) or name in ("dlsym", "dlvsym") for name in exported)


def test_a_tenant_cannot_name_other_pages(slice_: Slice) -> None:
    library = str(BUILD / "libtessera_vgpu.so")
    assert b"TRIAL" not in Path(library).read_bytes()
    assert not Path("/run/tessera/limits").exists()
    slice_.run("worker", "refused", LD_PRELOAD=library)


def test_a_program_that_uses_no_card_does_not_notice(slice_: Slice, tmp_path: Path) -> None:
    for environment in ({}, {"TESSERA_TRIAL_PAGES": str(tmp_path / "nowhere")}):
        assert slice_.run_command(["sh", "-c", "ls / | head -1 && python3 -c 'import ctypes, ssl; print(1)'"], **environment)


def test_sizes_beyond_all_measure_are_refused(slice_: Slice) -> None:
    source = f"""
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, address, pitch = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
huge = [(1 << 64) - 1, 1 << 63, (1 << 64) - {2 * MIB}, 257 << 20]
for size in map(ctypes.c_size_t, huge):
    assert cuda.cuMemAlloc_v2(ctypes.byref(address), size) == 2, size
    assert cuda.cuMemAllocManaged(ctypes.byref(address), size, 1) == 2, size
    assert cuda.cuMemAllocAsync(ctypes.byref(address), size, None) in (1, 2), size
width, height = ctypes.c_size_t(1 << 40), ctypes.c_size_t(1 << 20)
assert cuda.cuMemAllocPitch_v2(ctypes.byref(address), ctypes.byref(pitch), width, height, 4) in (1, 2)
assert cuda.cuMemAlloc(ctypes.byref(address), 100) == 801
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(256 << 20)) == 0
"""
    slice_.run_command([sys.executable, "-c", source])
