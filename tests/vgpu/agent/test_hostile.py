"""A tenant may write anything into its page: the agent goes on, its counters stay possible, and nobody else's change."""

from __future__ import annotations

import ctypes
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tessera_vgpu.agent.driver import Driver
from tessera_vgpu.agent.evidence import Sources
from tessera_vgpu.agent.metrics import Metrics, page
from tessera_vgpu.agent.view import read_seen, write_seen
from tessera_vgpu.agent.watch import Rules, Watch
from tessera_vgpu.bindings import Contexts, Owner
from tessera_vgpu.cards import new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.choosing import Request
from tessera_vgpu.layout import USAGE_MAGIC, VERSION, UsagePageBytes
from tessera_vgpu.slots import SlotStore
from tests.vgpu.agent.conftest import MIB, Node, eventually
from tests.vgpu.interposer.conftest import EFFORT, answer

SIZE = ctypes.sizeof(UsagePageBytes)
CARDS = [new_card(f"GPU-{name}", "A100-80G", 60_000, load().cards["A100-80G"].continuous) for name in "ab"]
HIGHEST = (1 << 64) - 1
number = st.one_of(st.sampled_from([0, 1, 7, 1 << 62, HIGHEST]), st.integers(0, HIGHEST))


@st.composite
def likely_pages(draw: st.DrawFn) -> bytes:
    """Pages that look right, with any numbers in them."""
    made = UsagePageBytes(magic=USAGE_MAGIC, version=VERSION, size=SIZE)
    made.limits_generation, made.writer = draw(number), draw(number)
    for card in draw(st.lists(st.integers(0, 15), max_size=3)):
        made.cards[card].reserved_bytes, made.cards[card].retired_device_time_ns = draw(number), draw(number)
        made.cards[card].retired_waiting_ns = draw(number)
    for place in draw(st.lists(st.integers(0, 511), max_size=6)):
        slot = made.slots[place]
        slot.generation, slot.pid = draw(number), draw(number) & 0xFFFFFFFF
        slot.pid_start_ticks, slot.pending_bytes, slot.contexts = draw(number), draw(number), draw(number)
        for ledger in slot.ledger:
            ledger.bytes, ledger.device_time_ns = draw(number), draw(number)
            ledger.throttled_ns = draw(number)
    return bytes(made)


pages = st.one_of(
    likely_pages(),
    st.binary(max_size=200),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, HIGHEST), st.integers(0, SIZE + 9)),
    st.sampled_from([b"\xff" * SIZE, b"\0" * SIZE, b""]),
)


class Two:
    """A hostile and an honest container, and a watch without a driver."""

    def __init__(self, folder: Path) -> None:
        self.store = SlotStore(folder, lambda _folder, _uuids: None)
        contexts = Contexts(32, dict.fromkeys(("GPU-a", "GPU-b"), 300 * MIB))
        for index, name in enumerate(("hostile", "honest")):
            slot = self.store.allocate(f"slot-{100 * index + place}" for place in range(30))
            self.store.bind(slot.device_ids, Owner(f"uid-{name}", "lab", name, "main"), Request(30, 1000), CARDS)
        usage = {slot.binding.owner.pod: self.store.folder(slot.nonce) / "usage" for slot in self.store.slots() if slot.binding}
        self.hostile = usage["hostile"]
        honest = UsagePageBytes.from_buffer_copy(usage["honest"].read_bytes())
        honest.cards[0].reserved_bytes = 5 * MIB
        honest.slots[0].generation, honest.slots[0].pid, honest.slots[0].ledger[0].bytes = 1, 9, 5 * MIB
        usage["honest"].write_bytes(bytes(honest))
        sources = Sources(self.store, Driver())
        self.watch = Watch(
            sources, CARDS, frozenset, frozenset, dict, Rules(contexts), lambda *_finding: pytest.fail("nobody is here")
        )
        self.metrics = Metrics(lambda: self.watch.view)

    def scrape(self) -> Mapping[tuple[str, str], float]:
        """Look and scrape: name and pod → value."""
        self.watch.look(thorough=False)
        assert page(self.watch.view).isprintable() is False  # it has lines
        text = generate_latest(self.metrics.registry()).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(s.name, s.labels["pod"]): s.value for s in samples if "pod" in s.labels and not s.name.endswith("_remark")}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    made = Two(tmp_path_factory.mktemp("two"))
    yield made
    made.store.close()


@settings(max_examples=150 * EFFORT, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(pages, min_size=1, max_size=3))
def test_no_bytes_harm_the_agent_or_anybody_else(two: Two, written: list[bytes]) -> None:
    begin, before = time.monotonic(), two.scrape()
    for content in written:
        two.hostile.write_bytes(content)
        after = two.scrape()
        assert all(math.isfinite(value) and value >= 0 for value in after.values())
        for name in ("device", "waiting", "throttled"):
            key = f"tessera_vgpu_container_{name}_seconds_total", "hostile"
            grown = after[key] - before[key]
            # A second's slack at each reading; time of waiting for each of at most 512 processes.
            most = (time.monotonic() - begin + 1 + len(written)) * (1 if name == "device" else 512)
            assert 0 <= grown <= most
        assert after["tessera_vgpu_container_memory_reserved_bytes", "honest"] == 5 * MIB
        assert after["tessera_vgpu_container_processes", "honest"] == 1
        assert after["tessera_vgpu_container_memory_limit_bytes", "hostile"] == 1000 * MIB
    folder = two.hostile.parents[2]
    write_seen(folder, two.watch.view)
    assert len(read_seen(folder, time.time()).driver_bytes) == 2


@pytest.mark.root
def test_a_running_agent_goes_on_whatever_is_written(node: Node) -> None:
    hostile, honest = node.run("hostile", 30, "1024"), node.run("honest", 30, "1024")
    worker = honest.worker()
    assert answer(worker, "alloc 500") == "0"
    path = hostile.folder / "usage"
    chance = random.Random(7)
    begin = time.monotonic()
    while time.monotonic() < begin + 5 * EFFORT:
        way = chance.randrange(4)
        if way == 0:
            os.truncate(path, chance.choice([0, 1, 64, SIZE - 1, SIZE, 1 << 40]))
        elif way == 1:
            path.write_bytes(b"\xff" * SIZE)
        else:
            path.write_bytes(chance.randbytes(chance.randrange(SIZE + 5000)))
    eventually(lambda: node.uses("memory_driver_bytes", honest) == (500 + 318) * MIB, "the neighbour's figures")
    assert node.remarks(honest) == set()
    assert node.uses("memory_limit_bytes", hostile) == 1024 * MIB
    assert not {"hidden_memory", "no_library", "over_limit", "foreign_card"} & node.remarks(hostile)
    assert answer(worker, "alloc 500") == "0"
    assert node.run("late", 30, "512").units() == 16
    assert "Traceback" not in node.log.read_text()
