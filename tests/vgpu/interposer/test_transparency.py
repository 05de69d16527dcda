"""Within its slice a program finds the driver as it is: the programs of the driver's own guarantees pass."""

from __future__ import annotations

import pytest

from tests.vgpu.interposer.conftest import Slice
from tests.vgpu.simulator.test_guarantees import PARTS


@pytest.fixture
def large(make_slice) -> Slice:
    return make_slice(8192)


@pytest.mark.parametrize("part", PARTS)
def test_the_driver_keeps_its_word_in_a_slice(large: Slice, part: str) -> None:
    large.run("driver_guarantees", part)


@pytest.mark.parametrize("part", ["memory", "streams", "callbacks", "graphs", "modules", "pools"])
def test_programs_built_for_per_thread_default_streams_run(large: Slice, part: str) -> None:
    large.run("driver_guarantees_per_thread", part)


@pytest.mark.parametrize("program", ["driver_entries", "driver_entries_per_thread"])
def test_versions_flags_and_statuses_stay_right(large: Slice, program: str) -> None:
    large.run(program)


@pytest.mark.parametrize("part", ["forked", "forked_before", "share 1000", "share 4194304", "share_physical"])
def test_processes_share_what_they_may(large: Slice, part: str) -> None:
    assert large.run("driver_worker", *part.split()).strip() in {"alive", "shared"}
