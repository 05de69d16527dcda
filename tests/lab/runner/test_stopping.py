"""Stopping early: SIGTERM with the checkpoint grace, and limits of time and memory."""

from __future__ import annotations

import time
from typing import Any

import pytest

WAIT_FOR_NOTICE = """
import os, pathlib, time
print('working', flush=True)
while not os.path.exists(os.environ['TESSERA_PREEMPT_NOTICE']):
    time.sleep(0.05)
pathlib.Path(os.environ['TESSERA_CHECKPOINT_DIR'], 'state').write_text('half way')
print('saved')
"""


@pytest.mark.parametrize(("why", "state"), [("cancel", "cancelled"), ("preempt", "preempted"), (None, "preempted")])
def test_a_cell_may_save_its_state_before_the_run_ends(folder: Any, why: str | None, state: str) -> None:
    folder.notebook("print('one')", WAIT_FOR_NOTICE, "print('never')")
    process = folder.start()
    folder.wait_for(lambda: "working" in folder.log)
    folder.stop(why, process)
    assert process.wait(20) == 143, folder.log
    assert (folder.record["state"], folder.reason["code"], folder.reason["detail"]) == (state, "signal.term", {"why": why})
    assert (folder.path / "checkpoint" / "state").read_text() == "half way"
    assert folder.record["cells_done"] == 2
    assert folder.output.cells[1].outputs[0].text == "working\nsaved\n"
    assert folder.output.metadata.tessera.state == state
    assert "never" not in folder.log
    assert folder.notes("stop.requested") == [{"why": why, "grace_seconds": 30}]


def test_a_cell_that_goes_on_is_interrupted_within_the_grace(folder: Any) -> None:
    source = "import time\ntry:\n    print('go', flush=True)\n    time.sleep(600)\nfinally:\n    print('cleaned')"
    folder.notebook(source, grace_seconds=3)
    process = folder.start()
    folder.wait_for(lambda: "go" in folder.log)
    begun = time.monotonic()
    folder.stop("cancel", process)
    assert process.wait(20) == 143, folder.log
    assert 1.5 < time.monotonic() - begun < 4.5
    assert "cleaned" in folder.log
    assert folder.output.cells[0].outputs[-1].ename == "KeyboardInterrupt"


def test_a_cell_that_ignores_the_interrupt_is_killed(folder: Any) -> None:
    loop = "while True:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass"
    source = f"import time\nprint('go', flush=True)\n{loop}"
    folder.notebook(source, grace_seconds=3)
    process = folder.start()
    folder.wait_for(lambda: "go" in folder.log)
    folder.stop("preempt", process)
    assert process.wait(20) == 143, folder.log
    assert folder.record["state"] == "preempted"
    assert folder.living() == []


def test_a_notebook_that_ends_within_the_grace_has_succeeded(folder: Any) -> None:
    folder.notebook(WAIT_FOR_NOTICE)
    process = folder.start()
    folder.wait_for(lambda: "working" in folder.log)
    folder.stop("preempt", process)
    assert process.wait(20) == 0, folder.log
    assert folder.record["state"] == "succeeded"


def test_a_stop_while_the_kernel_starts_runs_no_cell(folder: Any) -> None:
    folder.notebook("open('ran', 'w')")
    process = folder.start()
    folder.wait_for(lambda: folder.events("started"))
    folder.stop("cancel", process)
    assert process.wait(20) == 143, folder.log
    assert folder.record["state"] == "cancelled"
    assert not (folder.path / "work" / "sub" / "ran").exists()


def test_a_script_gets_sigterm_and_its_grace(folder: Any) -> None:
    source = (
        "import os, pathlib, signal, sys, time\n"
        "def save(number, frame):\n"
        "    pathlib.Path(os.environ['TESSERA_CHECKPOINT_DIR'], 'state').write_text('half way')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('working')\n"
        "time.sleep(600)\n"
    )
    folder.prepare(entry="train.py", content=source)
    process = folder.start()
    folder.wait_for(lambda: "working" in folder.log)
    folder.stop("preempt", process)
    assert process.wait(20) == 143, folder.log
    assert (folder.path / "checkpoint" / "state").read_text() == "half way"
    assert (folder.record["state"], folder.record["exit_code"]) == ("preempted", 0)


def test_a_script_that_ignores_sigterm_is_killed_with_its_children(folder: Any) -> None:
    folder.prepare(entry="train.sh", content="trap '' TERM\nsleep 600 &\necho working\nwait\nsleep 600", grace_seconds=2)
    process = folder.start()
    folder.wait_for(lambda: "working" in folder.log)
    folder.stop("cancel", process)
    assert process.wait(20) == 143, folder.log
    assert (folder.record["state"], folder.record["exit_code"]) == ("cancelled", 137)
    assert folder.living() == []


@pytest.mark.parametrize("entry", ["long.ipynb", "long.py"])
def test_a_run_ends_at_its_time_limit(folder: Any, entry: str) -> None:
    source = "import time\nprint('go', flush=True)\ntime.sleep(600)"
    limits = {"max_seconds": 5, "memory_mib": None}
    if entry.endswith(".py"):
        folder.prepare(entry=entry, content=source, limits=limits)
    else:
        folder.notebook(source, limits=limits)
    begun = time.monotonic()
    assert folder.run() == 124, folder.log
    assert 4.5 < time.monotonic() - begun < 15
    assert (folder.record["state"], folder.reason["code"]) == ("failed", "limit.time")
    assert folder.reason["detail"] == {"limit_seconds": 5}
    assert "go" in folder.log


GROW = (
    "print('go', flush=True)\nblocks = []\nwhile True:\n    blocks.append(bytearray(8 << 20))\n    import time; time.sleep(0.02)"
)


@pytest.mark.parametrize("entry", ["grow.ipynb", "grow.py"])
def test_a_run_ends_at_its_memory_limit(folder: Any, entry: str) -> None:
    limits = {"max_seconds": None, "memory_mib": 300}
    if entry.endswith(".py"):
        folder.prepare(entry=entry, content=GROW, limits=limits)
    else:
        folder.notebook(GROW, limits=limits)
    assert folder.run() == 137, folder.log
    assert (folder.record["state"], folder.reason["code"]) == ("failed", "limit.memory")
    assert folder.reason["detail"]["limit_mib"] == 300
    assert folder.reason["detail"]["peak_mib"] == folder.record["peak_memory_mib"] > 300


def test_memory_of_workers_counts_and_what_they_share_counts_once(folder: Any) -> None:
    source = (
        "import os, time\n"
        "block = bytearray(os.urandom(1)) * (150 << 20)\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(2)\n"
        "        os._exit(0)\n"
        "time.sleep(2)\n"
        "print('fits')\n"
    )
    folder.prepare(entry="share.py", content=source, limits={"memory_mib": 300})
    assert folder.run() == 0, folder.log
    assert 150 <= folder.record["peak_memory_mib"] < 300


@pytest.mark.parametrize("entry", ["error.ipynb", "error.py"])
def test_a_memory_error_is_told_as_the_memory_limit(folder: Any, entry: str) -> None:
    source = "x = bytearray(1 << 60)"
    if entry.endswith(".py"):
        folder.prepare(entry=entry, content=source)
    else:
        folder.notebook(source)
    assert folder.run() == 137, folder.log
    assert folder.reason["code"] == "limit.memory"
    assert folder.reason["detail"]["limit_mib"] is None


def test_user_code_does_not_outlive_a_killed_runner(folder: Any) -> None:
    folder.notebook("import time\nprint('go', flush=True)\ntime.sleep(600)")
    process = folder.start()
    folder.wait_for(lambda: "go" in folder.log)
    assert folder.living()
    process.kill()
    process.wait()
    folder.wait_for(lambda: not folder.living(), 5)
    assert not (folder.path / "exit.json").exists()
