"""Parts of the node agent by themselves: whose a process is, what is counted, what is delivered, what the driver tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_vgpu.agent import processes
from tessera_vgpu.agent.debts import MOST_S, Debts
from tessera_vgpu.agent.delivery import LIBRARY_IN_CONTAINER, inodes, install
from tessera_vgpu.agent.evidence import Context, Evidence, Holding, Tenant
from tessera_vgpu.agent.fairness import Part, dues, never_below, takers
from tessera_vgpu.agent.judging import judge
from tessera_vgpu.agent.meters import Meter
from tessera_vgpu.agent.pace import Pace
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.agent.view import Bypass
from tessera_vgpu.bindings import Binding, Contexts, Owner, Share, Terms, held, resized
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import CardLimits, Ledger, ProcessUsage, Usage
from tessera_vgpu.turns import Claim
from tests.vgpu.agent.conftest import Node, eventually

MIB = 1 << 20
UID = "0f1e2d3c-0000-4000-8000-00000000abcd"
UNDERSCORES = UID.replace("-", "_")
CONTAINER = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (f"0::/kubepods/burstable/pod{UID}/{CONTAINER}\n", (UID, CONTAINER)),
        (f"9:pids:/tessera/kubepods/pod{UID}/{CONTAINER}\n0::/\n", (UID, CONTAINER)),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORES}.slice/cri-containerd-{CONTAINER}.scope\n",
            (UID, CONTAINER),
        ),
        (f"0::/kubepods.slice/kubepods-pod{UNDERSCORES}.slice/crio-{CONTAINER}.scope\n", (UID, CONTAINER)),
        # What a process makes below its own group does not count.
        (f"0::/kubepods/pod{UID}/{CONTAINER}/podother/{'f' * 64}\n", (UID, CONTAINER)),
        ("0::/user.slice/session-1.scope\n1:name=systemd:/\n", None),
        ("", None),
    ],
)
def test_a_process_is_its_control_groups_pods(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, found: tuple[str, str] | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(groups)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert processes.of_pod(7) == found
    assert processes.of_pod(8) is None


@pytest.mark.root
def test_the_kernel_says_what_a_process_has_open_and_mapped(tmp_path: Path) -> None:
    node, library = tmp_path / "nvidia0", tmp_path / "library"
    node.write_text("node")
    library.write_bytes(b"x" * 4096)
    program = """
import mmap, sys
ready = lambda: (print("ready", flush=True), sys.stdin.readline())
ready()
card = open(sys.argv[1])
ready()
file = open(sys.argv[2], "rb")
mapped = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)
ready()
"""
    inode = frozenset({library.stat().st_ino})
    seen = []
    with subprocess.Popen(
        [sys.executable, "-c", program, str(node), str(library)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _step in range(3):
            assert child.stdout.readline() == "ready\n"
            seen.append((processes.holds_card(child.pid), processes.has_library(child.pid, inode)))
            child.stdin.write("\n")
            child.stdin.flush()
    assert seen == [(False, False), (True, False), (True, True)]
    assert (processes.holds_card(child.pid), processes.has_library(child.pid, inode)) == (False, None)
    assert processes.look(child.pid) is None


@pytest.mark.root
def test_only_the_very_process_is_ended(node: Node) -> None:
    container = node.run("train", 30)
    worker = container.worker()
    process = processes.look(worker.pid)
    assert process is not None
    assert (process.pod_uid, process.container_id) == ("uid-train", container.group.name)
    other = Process(process.pid, process.start_ticks + 1, process.pid_inside, process.pod_uid, process.container_id)
    assert not processes.end(other)
    assert worker.poll() is None
    assert processes.end(process)
    assert worker.wait(10) == -9
    assert not processes.end(process)


times = st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 10**15), st.lists(st.tuples(times, times, times, st.integers(0, 600), st.integers(0, 10**10)), max_size=8))
def test_counters_never_fall_and_are_never_faster_than_time(age: int, readings: list[tuple[int, int, int, int, int]]) -> None:
    meter, now = Meter(age, 10**16), 10**16
    last = meter.times
    for count, (device, waiting, throttled, inside, passed) in enumerate(readings, start=1):
        now += passed
        read = meter.read(Ledger(0, device, waiting, throttled), inside, now)
        assert last.device_ns <= read.device_ns <= age + (now - 10**16) + count * 10**9
        assert last.waiting_ns <= read.waiting_ns <= last.waiting_ns + 512 * (age + (now - 10**16) + 10**9)
        assert last.throttled_ns <= read.throttled_ns
        last = read


def test_honest_readings_are_counted_exactly() -> None:
    meter = Meter(0, 0)
    for second in range(1, 50):
        read = meter.read(Ledger(0, 300_000_000 * second, 0, 100_000_000 * second), 2, second * 10**9)
        assert (read.device_ns, read.waiting_ns, read.throttled_ns) == (300_000_000 * second, 0, 100_000_000 * second)
    # A container that starts again begins at 0; what was counted stays.
    assert meter.read(Ledger(0, 0, 0, 0), 0, 50 * 10**9).device_ns == 49 * 300_000_000
    assert meter.read(Ledger(0, 7, 0, 0), 1, 51 * 10**9).device_ns == 49 * 300_000_000 + 7


def test_a_library_that_changes_leaves_containers_the_one_they_have(tmp_path: Path) -> None:
    source = tmp_path / "library.so"
    source.write_bytes(b"\x7fELF first")
    first = install(source, tmp_path / "kept")
    assert install(source, tmp_path / "kept") == first
    (old,) = (path for path, inside in first.items() if inside == LIBRARY_IN_CONTAINER)
    before = old.stat()
    source.write_bytes(b"\x7fELF second")
    second = install(source, tmp_path / "kept")
    (new,) = (path for path, inside in second.items() if inside == LIBRARY_IN_CONTAINER)
    assert (old.read_bytes(), old.stat().st_ino, old.stat().st_mtime_ns) == (b"\x7fELF first", before.st_ino, before.st_mtime_ns)
    assert inodes(tmp_path / "kept") == {old.stat().st_ino, new.stat().st_ino}
    # Cut short by a crash or by somebody, it is made anew, never written into.
    new.write_bytes(b"\x7fELF sec")
    install(source, tmp_path / "kept")
    assert new.read_bytes() == b"\x7fELF second"


def binding(memory: int = 1000, still: int = 0) -> Binding:
    share = Share("GPU-a", tuple(f"slot-{number}" for number in range(30)), memory, still)
    return Binding(Owner("uid", "lab", "train", "main"), (share,), False, Terms())


CONTEXTS = Contexts(32, {"GPU-a": 300 * MIB})
HONEST = Process(100, 5, 7, "uid", CONTAINER)


def evidence(
    used_mib: int, booked_mib: int | None, library: bool | None = True, card: str = "GPU-a", still: int = 0, before_mib: int = 0
) -> Evidence:
    def usage(mib: int | None) -> Usage:
        ledger = (Ledger((mib or 0) * MIB, 0, 0, 0),)
        entries = () if mib is None else (ProcessUsage(0, 1, 7, 5, 0, ledger),)
        return Usage(1, ((mib or 0) * MIB,), ledger, entries, ())

    holding = Holding(
        "n", binding(still=still), usage(before_mib or booked_mib), usage(booked_mib), (Claim(),), binding(still=still).limits()
    )
    return Evidence((holding,), (Context(Tenant(HONEST, holding, library), card, used_mib * MIB),))


@pytest.mark.parametrize(
    ("seen", "kinds"),
    [
        (evidence(800, 500), set()),  # a context of 300 MiB
        (evidence(900, 500), set()),  # and the tolerance of 100
        (evidence(901, 500), {Bypass.HIDDEN_MEMORY}),
        (evidence(900, 0, before_mib=500), set()),  # freed between the two readings
        (evidence(1401, 0, before_mib=500), {Bypass.OVER_LIMIT}),  # which is no excuse for more than the limit
        (evidence(1400, 1000), set()),
        (evidence(1401, 1001), {Bypass.OVER_LIMIT}),  # explained by its books, and too much
        (evidence(1401, 1001, still=1200), set()),  # which it may, until it has given back what it had before
        (evidence(1, None), {Bypass.HIDDEN_MEMORY}),
        (evidence(0, None), set()),
        (evidence(400, 100, library=False), {Bypass.NO_LIBRARY}),
        (evidence(400, 100, library=None), set()),
        (evidence(10, 10, card="GPU-b"), {Bypass.FOREIGN_CARD}),
    ],
)
def test_what_is_a_bypass_and_what_is_not(seen: Evidence, kinds: set[Bypass]) -> None:
    found = judge(seen, CONTEXTS, 100 * MIB)
    assert {finding.kind for finding in found} == kinds
    assert all(who == (HONEST,) for who in found.values())


def looks(busy: list[int], booked_s: list[float]) -> set[Bypass]:
    """Return what is found in any of looks half a second apart."""
    pace, found = Pace(), set[Bypass]()
    for look, (percent, seconds) in enumerate(zip(busy, booked_s, strict=True)):
        seen = evidence(100, 0)
        (before,) = seen.holdings
        after = replace(before.after, totals=(Ledger(0, int(seconds * 1e9), 0, 0),))
        holding = replace(before, after=after)
        context = replace(seen.contexts[0], tenant=replace(seen.contexts[0].tenant, holding=holding))
        told = replace(seen, holdings=(holding,), contexts=(context,), busy={("GPU-a", HONEST.pid): percent})
        found |= {finding.kind for finding in pace.judge(told, look * 500_000_000)}
    return found


def on_card(request: int, limit: int = 100, weight: int = 1, priority: int = 0) -> tuple[CardLimits, int]:
    return CardLimits("GPU-a", MIB, request, limit, weight), priority


@pytest.mark.parametrize(
    ("limits", "active", "used", "due"),
    [
        ([on_card(30), on_card(70)], [True, True], [0.5, 0.5], [0.3, 0.7]),
        ([on_card(30), on_card(30)], [True, True], [0.5, 0.5], [0.5, 0.5]),
        ([on_card(30), on_card(30, weight=3)], [True, True], [0.5, 0.5], [0.4, 0.6]),
        ([on_card(30), on_card(30)], [True, False], [1.0, 0.0], [1.0, 0.5]),  # what it would be due when it came
        ([on_card(30, limit=40), on_card(30)], [True, True], [0.5, 0.5], [0.4, 0.5]),
        ([on_card(50), on_card(50, priority=1)], [True, True], [0.2, 0.8], [0.2, 1.0]),
    ],
)
def test_what_a_container_is_due(
    limits: list[tuple[CardLimits, int]], active: list[bool], used: list[float], due: list[float]
) -> None:
    assert dues(limits, active, used) == pytest.approx(due)


def over(*looks: tuple[Part, ...]) -> set[str]:
    """Return who takes time of others, in looks half a second apart."""
    return takers([(look * 500_000_000, parts) for look, parts in enumerate(looks)], (len(looks) - 1) * 500_000_000)


def test_who_takes_time_of_others_and_who_does_not() -> None:
    thief, victim = Part("thief", 0, 0.6, 0.1, 1, True), Part("victim", 0, 0.4, 0.9, 1, True)
    assert over(*[(thief, victim)] * 9) == {"thief"}
    assert over(*[(thief, replace(victim, wants=False))] * 9) == set()  # it uses what nobody wants
    assert over(*[(thief, replace(victim, used=0.05))] * 9) == set()  # nor does who takes next to nothing of its part
    assert over(*[(thief, replace(victim, used=0.8))] * 9) == set()  # nobody has less than its part
    assert over(*[(replace(thief, used=0.2), victim)] * 9) == set()  # what the victim lacks is not there
    assert over(*[(replace(thief, priority=1), victim)] * 9) == set()  # it goes first
    assert over(*[(thief, replace(victim, priority=1))] * 9) == {"thief"}
    # Somebody who has come only now has not been kept waiting.
    assert over(*[(thief,)] * 8, (thief, victim)) == set()


@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_who_comes_makes_nobody_a_taker_by_what_the_driver_says_late(late: int) -> None:
    """The one had the card for itself; the other comes, and each has its half from then on."""
    seen = [(1.0, 0.0, 1.0, False)] * (9 + late) + [(0.5, 0.5, 0.5, True)] * 12
    now = [(1.0, 0.0, 1.0, False)] * 9 + [(0.5, 0.5, 0.5, True)] * (12 + late)
    looks = [
        (Part("first", 0, used, due, 1, True), Part("second", 0, other, 0.5, 1, wants))
        for (used, other, _due, _wants), (_used, _other, due, wants) in zip(seen, now, strict=True)
    ]
    assert [over(*looks[end - 9 : end]) for end in range(9, len(looks) + 1)] == [set()] * (len(looks) - 8)


def test_who_is_over_its_limit_without_a_pause() -> None:
    over, paused = Part("a", 0, 0.6, 0.1, 0.3, True), Part("a", 0, 0.4, 0.1, 0.3, True)
    assert never_below([[over]] * 5) == {"a"}
    assert never_below([[paused]] * 5) == set()
    assert never_below([*[[over]] * 4, [paused]]) == never_below([*[[over]] * 4, []]) == set()


def owing(most: float, *phases: tuple[float, float], late_s: float = 0.0) -> float | None:
    """Return after how many seconds who uses a card so is found, or None: (seconds, share), again and again for five minutes.

    Args:
        late_s: what the driver says is the mean of so long before.
    """
    step = 0.1
    each = [share for seconds, share in phases for _ in range(round(seconds / step))]
    used = (each * (round(300 / step / len(each)) + 1))[: round(300 / step)]
    debts, back = Debts(), max(round(late_s / step), 1)
    for end in range(back, len(used), 5):
        if debts.look([("a", sum(used[end - back : end]) / back, most)], round(end * step * 1e9)):
            return end * step
    return None


@pytest.mark.parametrize("late_s", [0.2, 1.0])
def test_who_pauses_and_begins_again_before_it_has_paid_is_found(late_s: float) -> None:
    limit, most = 0.2, 0.35
    for on_s, off_s in ((0.9, 0.6), (1, 1), (2, 1), (5, 5), (15, 5), (20, 10)):
        found = owing(most, (on_s, 1.0), (off_s, 0.0), late_s=late_s)
        if off_s < late_s:  # then the driver never says that it has paused
            assert found is None, (on_s, off_s)
            continue
        assert found is not None, (on_s, off_s)
        assert found < max(20, 2.5 * (on_s + off_s)), (on_s, off_s)
    for kernel_s in (0.05, 0.5, 1, 2, 5):  # it waits until its limit has made up for the kernel
        assert owing(most, (kernel_s, 1.0), (kernel_s / limit - kernel_s, 0.0), late_s=late_s) is None
    assert owing(most, (30, 1.0), (MOST_S / limit, 0.0), late_s=late_s) is None  # as the library does after so long a one
    assert owing(most, (10, limit), (1, 0.0), late_s=late_s) is None
    assert owing(0.85, (5, 1.0), (5 * 0.3 / 0.7, 0.0), late_s=late_s) is None
    assert owing(most, (300, 1.0), late_s=late_s) is None  # one kernel, for all that anybody knows


def test_a_debt_is_gone_when_it_is_paid_and_with_its_container() -> None:
    debts, now = Debts(), 0

    def look(used: float | None) -> bool:
        nonlocal now
        now += 500_000_000
        return bool(debts.look([] if used is None else [("a", used, 0.35)], now))

    thief = [look(used) for used in [*[1.0] * 8, 0.0, 1.0, 0.0]]
    assert thief == [*[False] * 9, True, True]
    assert debts.owing() == {"a"}
    assert [look(0.0) for _ in range(14)][-1] is False
    assert debts.owing() == set()
    assert not any(look(used) for used in [*[1.0] * 8, None, 0.0, 1.0])


def test_time_that_nobody_booked_is_found_and_late_samples_of_honest_work_are_not() -> None:
    assert looks([100] * 12, [0.0] * 12) == {Bypass.HIDDEN_TIME}
    assert looks([60] * 12, [0.5 * 0.2 * look for look in range(12)]) == {Bypass.HIDDEN_TIME}
    assert looks([100] * 12, [0.5 * look for look in range(12)]) == set()
    assert looks([45] * 12, [0.5 * 0.25 * look for look in range(12)]) == set()  # within the tolerance
    # It works for two seconds and stops for two; the driver says so a second later.
    worked = [0.0]
    for look in range(1, 40):
        worked.append(worked[-1] + (0.5 if look % 8 < 4 else 0.0))
    late = [100 if (look - 2) % 8 < 4 else 0 for look in range(40)]
    assert looks(late, worked) == set()
    # A kernel of ten seconds is booked at its launch, which excuses ten seconds of work and no more.
    assert looks([0, *[100] * 20, *[0] * 5], [0.0, *[10.0] * 25]) == set()
    assert looks([0, *[100] * 40], [0.0, *[10.0] * 40]) == {Bypass.HIDDEN_TIME}
    # A page that goes back, as a container that starts again, proves nothing by itself.
    assert looks([0] * 12, [5.0] * 6 + [0.0] * 6) == set()


def test_less_memory_stays_taken_until_it_is_settled_and_more_ends_that() -> None:
    less = resized(binding(1000), 400, None, None)
    assert [(share.memory_mib, share.still_held_mib) for share in less.shares] == [(400, 1000)]
    assert held([less])["GPU-a"].memory_mib == 1000
    assert less.limits().cards[0].memory_limit_bytes == 400 * MIB
    assert [(s.memory_mib, s.still_held_mib) for s in resized(less, 700, None, None).shares] == [(700, 1000)]
    assert [(s.memory_mib, s.still_held_mib) for s in resized(less, 1500, None, None).shares] == [(1500, 0)]
    with pytest.raises(VgpuError, match="from 1 to"):
        resized(less, 0, None, None)


def test_room_for_contexts_is_given_in_proportion_and_never_twice() -> None:
    shares = [Share("GPU-a", tuple(f"slot-{i}-{n}" for n in range(centi)), 100) for i, centi in enumerate((1, 2, 30, 67))]
    assert [share.contexts(32) for share in shares] == [1, 1, 9, 21]
    bindings = [Binding(Owner(f"uid-{i}", "lab", "p", "main"), (share,), False, Terms()) for i, share in enumerate(shares)]
    assert held(bindings, 32)["GPU-a"].contexts == 32
    assert [one.limits(CONTEXTS).most_processes for one in bindings] == [1, 1, 9, 21]
    # Containers of a pod that have the same slots run one after the other.
    twice = [bindings[2], Binding(Owner("uid-2", "lab", "p", "init"), (shares[2],), False, Terms())]
    assert held(twice, 32)["GPU-a"].contexts == 9


@pytest.mark.root
def test_the_driver_tells_of_its_cards(make_node: Callable[..., Node]) -> None:
    machine = make_node(cards="2xH100-80G,T4-16G").machine
    program = """
import json
from dataclasses import asdict
from tessera_vgpu.agent.driver import Driver
driver = Driver()
cards, topology = driver.cards(), driver.topology()
print(json.dumps([driver.version(), [asdict(card) for card in cards], [driver.processes(card.uuid) for card in cards],
    sorted(topology.distances.values())]))
driver.close()
print(len(driver.cards()))
"""
    done = subprocess.run([sys.executable, "-c", program], env=machine.environment(), capture_output=True, text=True, timeout=60)
    first, again = done.stdout.splitlines()
    version, cards, running, distances = json.loads(first)
    assert version == "580.95.05"
    assert [card["name"] for card in cards] == ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "Tesla T4"]
    assert [card["uuid"] for card in cards] == list(machine.uuids)
    assert [card["minor"] for card in cards] == [0, 1, 2]
    assert [card["partitioned"] for card in cards] == [False] * 3
    assert (running, distances, again) == ([{}, {}, {}], [2, 2, 2], "3")


@pytest.mark.root
def test_a_card_with_mig_on_is_not_shared(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "100", cards="H100-80G,T4-16G")
    program = "from pynvml import *; nvmlInit(); nvmlDeviceSetMigMode(nvmlDeviceGetHandleByIndex(0), 1)"
    subprocess.run([sys.executable, "-c", program], env=node.machine.environment(), check=True, timeout=60)
    node.start()
    other = node.machine.cards[1]
    memory = other.memory_mib - other.reserved_mib - 32 * 100
    eventually(lambda: node.api.capacity.get("tessera.io/vgpu-memory") == str(memory), "the memory of the other")
    assert "MIG is on" in node.log.read_text()
    assert node.run("train", 30).limits().cards[0].uuid == node.machine.uuids[1]


def test_without_a_driver_it_says_so() -> None:
    program = "from tessera_vgpu.agent.driver import Driver; Driver().cards()"
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "The driver of the cards does not answer" in done.stderr
    assert "Look whether nvidia-smi works" in done.stderr
