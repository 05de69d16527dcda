"""The benchmark for a real card runs from end to end on a simulated one, with what a bare machine has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_vgpu.simulate import VGPU, make_machine, parse_cards, read_cards
from tests.vgpu.simulator.conftest import REAL

pytestmark = pytest.mark.skipif(REAL, reason="there one runs the benchmark itself")

PARTS = {
    *("guarantees_kept", "launch_added_ns_median", "alloc_added_ns_median", "context_mib", "ipc_found_the_same"),
    *("pieces_of_64_mib_later", "rate_after_to_before", "high_p99_increase_percent", "share_error_points", "split_error_points"),
}


def test_it_measures_everything_and_needs_no_package(tmp_path: Path, libraries: Path) -> None:
    subprocess.run(["make", "--silent", "-C", str(VGPU / "interposer"), f"PYTHON={sys.executable}"], check=True, timeout=280)
    # Compiles the programs, for which the headers are looked for beside this Python's packages.
    subprocess.run([sys.executable, "-m", "benchmarks.vgpu.real_card", "--build"], check=True, timeout=120, cwd=VGPU.parent)
    machine = make_machine(tmp_path / "machine", parse_cards("A100-80G", read_cards()), libraries=libraries)
    rows = tmp_path / "rows"
    bare = [sys.executable, "-I", "-S", str(VGPU.parent / "benchmarks" / "vgpu" / "real_card" / "__main__.py")]
    done = subprocess.run(
        [*bare, "--short", "--json", str(rows)], env=machine.environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    assert {row["metric"] for row in found} >= PARTS
    assert all(row["ok"] for row in found if row["metric"] in {"guarantees_kept", "ipc_found_the_same"}), done.stderr
    assert [row["value"] for row in found if row["metric"].startswith("pieces_of")] == [8, 16]
    assert {row["card"] for row in found} == {"NVIDIA A100-SXM4-80GB (simulated)"}
