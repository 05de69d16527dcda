"""The pages that agent and interposer share: one layout, never torn, and harmless whatever a tenant writes."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import STRUCTURES, LimitsPageBytes, ProcessSlotBytes, UsagePageBytes
from tessera_vgpu.pages import (
    HIGHEST,
    CardLimits,
    DeviceMode,
    Ledger,
    Limits,
    change_limits,
    create_limits,
    create_usage,
    read_limits,
    read_usage,
)

HEADER = Path(__file__).parents[2] / "vgpu" / "interposer" / "pages.h"
GIB = 1 << 30

READER = r"""
#include "pages.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t crc32(const unsigned char *bytes, size_t count) {
    uint32_t crc = 0xffffffffu;
    while (count--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1u));
    }
    return ~crc;
}

/* Reads as pages.h says until the generation is argv[2]; the memory limit must always be 1 GiB times the generation. */
int main(int argc, char **argv) {
    int file = open(argv[1], O_RDONLY);
    const struct tessera_limits_page *page = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, file, 0);
    unsigned long long last = 0, valid = 0, until = 0;
    if (argc != 3 || page == MAP_FAILED || sscanf(argv[2], "%llu", &until) != 1 || page->magic != TESSERA_LIMITS_MAGIC) return 2;
    while (last < until) {
        const _Atomic uint64_t *word = (const _Atomic uint64_t *)&page->sequence;
        uint64_t before = atomic_load_explicit(word, memory_order_acquire);
        struct tessera_limits_bank bank = page->bank[before & 1];
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(word, memory_order_relaxed) != before) continue;
        uint32_t checksum = bank.checksum;
        bank.checksum = 0;
        if (crc32((unsigned char *)&bank, sizeof bank) != checksum) return 3;
        if (bank.generation < last || bank.cards[0].memory_limit_bytes != bank.generation << 30) return 4;
        if (strcmp(bank.cards[1].uuid, "GPU-1") || strcmp(bank.pod_uid, "pod-a") || bank.card_count != 2) return 5;
        last = bank.generation;
        valid++;
        if (valid == 1) { puts("ready"); fflush(stdout); }
    }
    printf("%llu\n", valid);
    return 0;
}
"""


def compiled(folder: Path, source: str) -> Path:
    """Build a C program against the header, with all warnings as errors."""
    compiler = shutil.which("cc")
    assert compiler is not None, "install a C compiler (Debian: gcc)"
    (folder / "program.c").write_text(source)
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-I", str(HEADER.parent)]
    subprocess.run([*command, str(folder / "program.c"), "-o", str(folder / "program")], check=True)
    return folder / "program"


def limits(scale: int = 1) -> Limits:
    cards = CardLimits("GPU-0", scale * GIB, 30, 60, 2, 400 << 20), CardLimits("GPU-1", 5 * GIB, 10, 10)
    return Limits("pod-a", "main", cards, 3, DeviceMode.ONE_DEVICE, 64)


def test_every_offset_is_that_of_the_header(tmp_path: Path) -> None:
    lines, expected = [], []
    for name, structure in STRUCTURES.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        expected.append(f"{name} {ctypes.sizeof(structure)}")
        for member, *_type in structure._fields_:
            place = getattr(structure, member)
            size = f"sizeof(((struct {name} *)0)->{member})"
            lines.append(f'printf("{name}.{member} %zu %zu\\n", offsetof(struct {name}, {member}), {size});')
            expected.append(f"{name}.{member} {place.offset} {place.size}")
    # A member that Python lacks would leave a gap, and the sizes would differ: none of these structures has padding.
    assert all(sum(getattr(s, f[0]).size for f in s._fields_) == ctypes.sizeof(s) for s in STRUCTURES.values())
    source = '#include "pages.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    done = subprocess.run([compiled(tmp_path, source)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


def test_limits_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    create_limits(path, limits())
    assert read_limits(path) == (1, limits())
    assert change_limits(path, limits(2)) == 2
    assert change_limits(path, limits(3)) == 3
    assert read_limits(path) == (3, limits(3))
    assert path.stat().st_mode & 0o777 == 0o444
    create_limits(path, limits())
    assert read_limits(path) == (1, limits())
    assert [p.name for p in tmp_path.iterdir()] == ["limits"]


def test_a_program_in_c_never_sees_torn_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    create_limits(path, limits())
    reader = subprocess.Popen([compiled(tmp_path, READER), path, "2000"], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for scale in range(2, 2001):
        change_limits(path, limits(scale))
    assert reader.wait(60) == 0
    assert int(reader.stdout.read()) >= 1
    reader.stdout.close()


CHANGER = """
import sys
from pathlib import Path
from tessera_vgpu.pages import CardLimits, Limits, change_limits
print("ready", flush=True)
scale = 2
while True:
    cards = (CardLimits("GPU-0", scale << 30, 30, 60), CardLimits("GPU-1", 1, 1, 1))
    change_limits(Path(sys.argv[1]), Limits("pod-a", "main", cards))
    scale += 1
"""


def test_an_agent_that_is_killed_while_it_writes_leaves_sound_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    create_limits(path, Limits("pod-a", "main", (CardLimits("GPU-0", GIB, 30, 60), CardLimits("GPU-1", 1, 1, 1))))
    chance = random.Random(1)
    last = 0
    for _round in range(5):
        with subprocess.Popen([sys.executable, "-c", CHANGER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.02 + chance.random() / 20)
            writer.kill()
        generation, found = read_limits(path)
        assert generation > last
        assert found.pod_uid == "pod-a"
        last = generation
    assert change_limits(path, limits()) == last + 1


@pytest.mark.parametrize(
    "bad",
    [
        {"cards": ()},
        {"cards": (CardLimits("GPU-0", 1, 1, 1),) * 2},
        {"cards": (CardLimits("G" * 96, 1, 1, 1),)},
        {"cards": (CardLimits("GPU-0", 0, 1, 1),)},
        {"cards": (CardLimits("GPU-0", 1, 50, 40),)},
        {"cards": (CardLimits("GPU-0", 1, 1, 101),)},
        {"cards": (CardLimits("GPU-0", 1, 1, 1, weight=0),)},
        {"pod_uid": ""},
        {"container": "日"},
        {"priority_class": -1},
        {"most_processes": 513},
    ],
)
def test_limits_out_of_range_are_refused(bad: dict[str, object]) -> None:
    values: dict[str, object] = {"pod_uid": "pod-a", "container": "main", "cards": (CardLimits("GPU-0", 1, 1, 1),)}
    with pytest.raises(VgpuError, match="out of range"):
        Limits(**{**values, **bad})


@given(
    st.lists(st.tuples(st.integers(0, ctypes.sizeof(LimitsPageBytes) - 1), st.integers(0, 255)), max_size=20),
    st.integers(0, 4448),
)
def test_damaged_limits_are_refused_or_the_same(tmp_path_factory, changes: list[tuple[int, int]], length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    create_limits(path, limits())
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place] = value
    path.chmod(0o644)
    path.write_bytes(content if length > 4000 else content[:length])
    try:
        found = read_limits(path)
    except VgpuError as refused:
        outcome: object = refused.code
    else:
        outcome = found
    assert outcome in ("limits.unreadable", (1, limits()))


def usage_page(path: Path) -> UsagePageBytes:
    if path.exists():
        path.unlink()
    create_usage(path)
    return UsagePageBytes.from_buffer_copy(path.read_bytes())


def test_usage_is_summed_over_the_living_and_the_ended(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    page = usage_page(path)
    assert read_usage(path, 2).anomalies == ()
    page.limits_generation = 7
    page.cards[0].reserved_bytes = 3000
    page.cards[0].retired_device_time_ns = 5
    for index, pid in ((0, 11), (9, 12)):
        page.slots[index].generation = 3
        page.slots[index].pid = pid
        page.slots[index].pid_start_ticks = 99
        page.slots[index].ledger[0].bytes = 1500
        page.slots[index].ledger[0].device_time_ns = 10
    page.slots[1].generation = 2
    page.slots[1].ledger[0].bytes = 1 << 40
    path.write_bytes(bytes(page))
    usage = read_usage(path, 2)
    assert usage.reserved_bytes == (3000, 0)
    assert usage.totals == (Ledger(3000, 25, 0, 0), Ledger(0, 0, 0, 0))
    assert [(p.slot, p.pid, p.generation) for p in usage.processes] == [(0, 11, 3), (9, 12, 3)]
    assert (usage.limits_generation, usage.anomalies) == (7, ())


def test_a_hostile_page_is_saturated_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    page = usage_page(path)
    for slot in page.slots:
        slot.generation = 1
        for ledger in slot.ledger:
            ledger.bytes = ledger.device_time_ns = HIGHEST
    path.write_bytes(bytes(page))
    usage = read_usage(path, 1)
    assert usage.totals == (Ledger(HIGHEST, HIGHEST, 0, 0),)
    assert usage.anomalies == ("process_without_pid", "repeated_pid", "saturated", "unknown_card")
    page.magic = 0
    page.size = 1
    path.write_bytes(bytes(page))
    assert {"magic", "version"} <= set(read_usage(path, 1).anomalies)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 400_000), st.integers(0, 16))
def test_whatever_a_tenant_writes_the_agent_reads_on(tmp_path_factory, chance: random.Random, length: int, cards: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    content = chance.randbytes(length) if chance.random() < 0.5 else bytearray(bytes(usage_page(path)))
    if isinstance(content, bytearray):
        for _change in range(chance.randrange(200)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)
    usage = read_usage(path, cards)
    assert len(usage.totals) == len(usage.reserved_bytes) == cards
    assert all(
        0 <= amount <= HIGHEST for t in usage.totals for amount in (t.bytes, t.device_time_ns, t.waiting_ns, t.throttled_ns)
    )
    assert len(usage.processes) <= 512
    if length < ctypes.sizeof(UsagePageBytes) and not isinstance(content, bytearray):
        assert "truncated" in usage.anomalies


def test_links_pipes_folders_and_nothing_are_no_page(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        usage = read_usage(tmp_path / name, 1)
        assert usage.anomalies == ("not_a_file",)
        assert usage.totals == (Ledger(0, 0, 0, 0),)


def test_a_page_that_is_cut_and_grown_while_it_is_read_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    create_usage(path)
    going = True

    def hostile() -> None:
        while going:
            os.truncate(path, 100)
            os.truncate(path, ctypes.sizeof(UsagePageBytes) + ctypes.sizeof(ProcessSlotBytes))

    tenant = threading.Thread(target=hostile)
    tenant.start()
    try:
        for _reading in range(100):
            assert set(read_usage(path, 16).anomalies) <= {"truncated", "magic", "version", "oversized"}
    finally:
        going = False
        tenant.join()
