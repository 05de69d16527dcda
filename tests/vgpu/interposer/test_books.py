"""Books are right at every instant, whatever becomes of the processes."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tessera_vgpu.layout import UsagePageBytes
from tessera_vgpu.simulate import read_cards
from tests.vgpu.interposer.conftest import EFFORT, MIB, Slice, answer

CONTEXT_OF_CARD = read_cards()["A100-80G"].context_mib * MIB


def used_of_card(slice_: Slice) -> tuple[int, dict[int, int]]:
    """What the simulator says that programs have allocated, without contexts: in all, and by process."""
    processes = slice_.machine.inspect().processes
    used = {process.pid: process.cards[0].used_bytes for process in processes}
    each = {pid: max(0, bytes_ - CONTEXT_OF_CARD) for pid, bytes_ in used.items()}
    return sum(each.values()), each


class Watch(threading.Thread):
    """Looks all the time whether more is reserved, or used in truth, than the limit."""

    def __init__(self, slice_: Slice, mib: int) -> None:
        super().__init__()
        self.slice, self.limit, self.looks, self.most = slice_, mib * MIB, 0, 0
        self.violations: list[tuple[int, int]] = []
        self.going = True

    def run(self) -> None:
        while self.going:
            reserved, used = self.slice.usage().reserved_bytes[0], used_of_card(self.slice)[0]
            if max(reserved, used) > self.limit:
                self.violations.append((reserved, used))
            self.most = max(self.most, used)
            self.looks += 1
            time.sleep(0.01)

    def stop(self) -> None:
        self.going = False
        self.join()
        sys.stdout.write(f"looked {self.looks} times, at most {self.most >> 20} MiB used\n")
        assert self.looks > 5
        assert self.violations == []


def finish(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Let all go, and return how much was refused to each; they hold what they have."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    refused = [int(answer(process, None)) for process in processes]
    for process in processes:
        answer(process, None, "ready")
    return refused


def test_eight_greedy_processes_are_never_over_the_limit(make_slice: Callable[..., Slice]) -> None:
    slice_ = make_slice(512)
    watch = Watch(slice_, 512)
    processes = [slice_.start("torture", seed, 2, 1500 * EFFORT, 256, 1) for seed in range(8)]
    watch.start()
    refused = finish(processes)
    watch.stop()
    assert sum(refused) > 100
    assert watch.most > 256 * MIB


def test_what_fits_is_never_refused(make_slice: Callable[..., Slice]) -> None:
    """Eight processes that together want no more than the slice: a refusal ends them with an error."""
    slice_ = make_slice(512)
    processes = [slice_.start("torture", seed, 2, 1500 * EFFORT, 64, 0) for seed in range(8)]
    assert finish(processes) == [0] * 8


def test_books_are_the_cards_truth_after_torture(make_slice: Callable[..., Slice]) -> None:
    """Some are killed, and others take their place; what the rest say they have is what the card says."""
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    slice_ = make_slice(512)
    watch = Watch(slice_, 512)
    watch.start()
    for _round in range(6 * EFFORT):
        endless = [slice_.start("torture", chance.getrandbits(16), 2, 0, 200, 1) for _place in range(3)]
        time.sleep(chance.random() / 3)
        for process in endless:
            process.kill()
            process.wait()
    lasting = [slice_.start("torture", chance.getrandbits(16), 2, 1000 * EFFORT, 300, 1) for _place in range(4)]
    finish(lasting)
    watch.stop()
    usage, (_total, truth) = slice_.usage(), used_of_card(slice_)
    living = {process.pid: process for process in usage.processes if process.pid in {p.pid for p in lasting}}
    assert {pid: process.ledgers[0].bytes for pid, process in living.items()} == {p.pid: truth[p.pid] for p in lasting}
    assert {process.pending_bytes for process in living.values()} == {0}
    assert usage.reserved_bytes[0] == sum(process.ledgers[0].bytes for process in usage.processes)
    for process in lasting:
        process.kill()
        process.wait()
    assert slice_.units() == 16
    assert slice_.usage().reserved_bytes == (0,)


def test_sixty_four_processes_join_at_once(slice_: Slice) -> None:
    """Each has a slot of its own, whoever was first; when all have ended, a further one has all of the memory."""
    command = [str(slice_.programs["worker"]), "hold", "4"]
    environment = slice_.environment()
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _place in range(64)]
    slice_.started += workers
    for worker in workers:
        answer(worker, None, "ready")
    usage = slice_.usage()
    assert {process.pid for process in usage.processes} == {worker.pid for worker in workers}
    assert usage.reserved_bytes == (256 * MIB,)
    assert usage.anomalies == ()
    assert slice_.units() == 0
    for worker in workers:
        worker.kill()
        worker.wait()
    assert slice_.units() == 8


def test_a_killed_process_gives_its_ledger_back_once(slice_: Slice) -> None:
    for _round in range(3):
        holder, other = slice_.start("hold", 200), slice_.start("hold", 32)
        assert slice_.units() == 0
        holder.kill()
        holder.wait()
        assert slice_.units() == 7
        assert slice_.units() == 7
        other.kill()
        other.wait()
    assert slice_.units() == 8


@pytest.mark.parametrize("sum_", [0, 100, 64, 1000])
def test_a_writer_that_was_killed_in_between_leaves_nothing_wrong(slice_: Slice, sum_: int) -> None:
    """Its mark is there, and the sum says anything: the next writer adds up what the living have."""
    slice_.start("hold", 64)
    path, dead = slice_.pages / "usage", subprocess.Popen(["true"])
    dead.wait()
    page = UsagePageBytes.from_buffer_copy(path.read_bytes())
    page.slots[7].pid = dead.pid
    page.slots[7].generation = 5
    page.slots[7].pending_bytes = page.slots[7].ledger[0].bytes = 100 * MIB
    page.cards[0].reserved_bytes = sum_ * MIB
    page.writer = 8 | 5 << 32
    with path.open("r+b") as file:
        file.write(bytes(page))
    assert slice_.units() == 6
    usage = slice_.usage()
    assert 7 not in {process.slot for process in usage.processes}
    assert usage.reserved_bytes == (64 * MIB,)


def test_a_child_that_has_ended_takes_nothing_along(slice_: Slice) -> None:
    parent = slice_.start("forked", 192)
    assert slice_.units() == 2
    answer(parent, "go", "freed")
    parent.wait()
    assert slice_.units() == 8


def test_a_process_that_closes_all_descriptors_keeps_its_ledger(slice_: Slice) -> None:
    holder = slice_.start("hold_without_descriptors", 192)
    assert slice_.units() == 2
    answer(holder, "go", "ready")
    assert slice_.units() == 8
    holder.kill()


def test_a_process_that_becomes_another_program_gives_its_ledger_back(slice_: Slice) -> None:
    other = slice_.start("replaced", 192)
    assert slice_.units() == 8
    answer(other, "go", "other")


def test_memory_of_a_context_ends_with_it(slice_: Slice) -> None:
    source = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, address = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
for way in range(20):
    if way % 2:
        assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
    else:
        assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        assert cuda.cuCtxSetCurrent(context) == 0
    for size in (200 << 20, 1000, 1000, 1 << 20):
        assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) == 0
    assert (cuda.cuCtxDestroy_v2(context) if way % 2 else cuda.cuDevicePrimaryCtxRelease_v2(0)) == 0
"""
    slice_.run_command(["python3", "-c", source])


def test_physical_memory_is_there_as_long_as_it_is_mapped(slice_: Slice) -> None:
    source = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
class Properties(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("type", "handles", "place", "device")] + [("rest", ctypes.c_char * 24)]
none, no_flags = ctypes.c_uint64(0), ctypes.c_ulonglong(0)
size = ctypes.c_size_t(128 << 20)
context, handle, again, address = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
def left():
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value >> 20
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and cuda.cuCtxSetCurrent(context) == 0
for _ in range(10):
    about = Properties(1, 0, 1, 0)
    assert cuda.cuMemCreate(ctypes.byref(handle), size, ctypes.byref(about), ctypes.c_ulonglong(0)) == 0
    assert cuda.cuMemAddressReserve(ctypes.byref(address), size, none, none, no_flags) == 0
    assert cuda.cuMemMap(address, size, ctypes.c_size_t(0), handle, ctypes.c_ulonglong(0)) == 0
    assert cuda.cuMemRelease(handle) == 0 and left() == 128
    assert cuda.cuMemRetainAllocationHandle(ctypes.byref(again), ctypes.c_void_p(address.value)) == 0
    assert again.value == handle.value
    assert cuda.cuMemUnmap(address, size) == 0 and left() == 128
    assert cuda.cuMemRelease(again) == 0 and left() == 256
    assert cuda.cuMemRelease(again) != 0 and left() == 256
    assert cuda.cuMemAddressFree(address, size) == 0
"""
    slice_.run_command(["python3", "-c", source])


def test_a_call_that_the_driver_refuses_costs_nothing(make_slice: Callable[..., Slice]) -> None:
    """The slice says more than the card has: all is refused by the driver, and the books are empty."""
    slice_ = make_slice(200_000)
    worker = slice_.start("told")
    for _try in range(3):
        answer(worker, "alloc 190000", "2")
    assert slice_.usage().reserved_bytes == (0,)
