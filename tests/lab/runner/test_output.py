"""Output without end, without sense and without room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tessera_lab.runner.output import Budget, Decoder, fold_returns, printable, trimmed

KIB_200 = 200 * 1024


def test_output_without_end_is_bounded_and_the_notebook_goes_on(folder: Any) -> None:
    flood = "import sys\nfor i in range(40_000):\n    print(i, 'x' * 90)"
    folder.notebook(flood, "print('later'); open('later', 'w').write('ran')", limits={"output_bytes": KIB_200})
    assert folder.run() == 0, folder.log[-2000:]
    assert (folder.path / "work" / "sub" / "later").read_text() == "ran"
    assert (folder.path / "log").stat().st_size < KIB_200 + 1000
    assert (folder.path / "output" / "train.ipynb").stat().st_size < 2 * KIB_200
    assert (folder.path / "progress.jsonl").stat().st_size < 2 * KIB_200
    (note,) = folder.notes("output.truncated")
    assert note["limit_bytes"] == KIB_200
    outputs = folder.output.cells[0].outputs
    assert [out.name for out in outputs] == ["stdout", "stderr"]
    assert outputs[0].text.startswith("0 xxx")
    assert "is not kept" in outputs[1].text


def test_a_script_without_end_is_bounded_and_goes_on(folder: Any) -> None:
    folder.prepare(entry="flood.sh", content="yes | head -c 3000000; touch later", limits={"output_bytes": KIB_200})
    assert folder.run() == 0
    assert (folder.path / "work" / "later").exists()
    assert KIB_200 <= (folder.path / "log").stat().st_size < KIB_200 + 1000
    assert len(folder.notes("output.truncated")) == 1


def test_bytes_that_are_no_text_break_nothing(folder: Any) -> None:
    folder.notebook(
        "import os, sys\nos.write(1, bytes(range(256)))\nsys.stdout.flush()",
        "print('a\\0b\\x1b[31mred\\x1b[0m')",
        "import subprocess; subprocess.run(['head', '-c', '5000', '/dev/urandom'])",
        "raise ValueError('\\0\\udcff')",
    )
    assert folder.run() == 1, folder.log
    assert folder.reason["code"] == "cell.error"
    text = folder.log
    assert "\0" not in text
    assert "a\ufffdb\x1b[31mred" in text
    assert "a\ufffdb" in folder.output.cells[1].outputs[0].text
    assert folder.events()[-1]["event"] == "finished"


def test_a_progress_bar_costs_one_line(folder: Any) -> None:
    folder.notebook("import sys\nfor i in range(2000):\n    sys.stdout.write(f'\\r{i:5d} of 2000')\nprint()")
    assert folder.run() == 0
    (out,) = folder.output.cells[0].outputs
    assert out.text == " 1999 of 2000\n"


def test_a_rich_output_over_the_bound_is_left_out(folder: Any) -> None:
    source = "from IPython.display import HTML, display\ndisplay(HTML('y' * 300_000))\nprint('after')"
    folder.notebook(source, limits={"output_bytes": KIB_200})
    assert folder.run() == 0
    assert [out.output_type for out in folder.output.cells[0].outputs] == ["stream", "stream"]
    assert len(folder.notes("output.truncated")) == 1


def test_a_display_is_updated_in_place_and_cleared_output_is_gone(folder: Any) -> None:
    folder.notebook(
        "from IPython.display import clear_output, display\nhandle = display('one', display_id=True)",
        "handle.update('two')\nprint('gone')\nclear_output()\nprint('here')\nclear_output(wait=True)\nprint('last')",
    )
    assert folder.run() == 0, folder.log
    first, second = folder.output.cells
    assert first.outputs[0].data["text/plain"] == "'two'"
    assert [out.text for out in second.outputs] == ["last\n"]


def test_the_text_of_an_event_is_bounded(folder: Any) -> None:
    folder.notebook("print('é' * 20_000)")
    assert folder.run() == 0
    assert max(len(event["text"].encode()) for event in folder.events("output")) <= 8192
    assert len(folder.output.cells[0].outputs[0].text) == 20_001


@pytest.mark.parametrize(
    "source",
    [
        "with open('big', 'wb') as f:\n    while True:\n        f.write(bytes(65536)); f.flush()",
        "while True:\n    print('x' * 5000, flush=True)",
        # Everything is full and a failing cell still has to be told.
        """f = open('big', 'wb', buffering=0)
try:
    while True:
        f.write(bytes(4096))
except OSError:
    pass
print('y' * 50_000)
import time; time.sleep(30)""",
    ],
)
@pytest.mark.root
def test_a_full_disk_is_told_and_the_record_is_written(make_folder: Any, small_disk: Path, source: str) -> None:
    folder = make_folder(small_disk / "run")
    folder.notebook("print('one')", source)
    assert folder.run() == 74, folder.log[-3000:]
    assert (folder.record["state"], folder.reason["code"]) == ("failed", "disk.full")
    assert folder.record["cells_done"] == 1
    assert folder.output.cells[0].outputs[0].text == "one\n"
    assert folder.living() == []


@pytest.mark.root
def test_a_full_disk_under_a_script_is_told(make_folder: Any, small_disk: Path) -> None:
    folder = make_folder(small_disk / "run")
    folder.prepare(entry="fill.sh", content="cat /dev/zero > big")
    assert folder.run() == 74
    assert folder.reason["code"] == "disk.full"
    assert folder.record["exit_code"] == 1


def test_a_log_reader_that_goes_away_does_not_end_the_run(folder: Any) -> None:
    folder.prepare(entry="talk.py", content="import time\nfor i in range(20):\n    print(i)\n    time.sleep(0.05)")
    read_end, write_end = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "tessera_lab.runner", str(folder.path)], stdout=write_end)
    os.close(write_end)
    os.read(read_end, 1)
    os.close(read_end)
    assert process.wait(20) == 0
    assert folder.record["state"] == "succeeded"


def test_text_is_made_printable() -> None:
    assert printable("a\0\x07\tb\n\x1b[0m\x7f\udc80é漢") == "a\ufffd\ufffd\tb\n\x1b[0m\ufffd\ufffdé漢"
    assert not re.search(r"[\x00-\x07]", printable("".join(map(chr, range(256)))))


def test_a_character_cut_between_reads_stays_whole() -> None:
    data = "漢字é".encode()
    decoder = Decoder()
    assert "".join(decoder.feed(data[i : i + 1]) for i in range(len(data))) + decoder.feed(b"") == "漢字é"
    broken = Decoder()
    assert broken.feed(data[:2]) + broken.feed(b"") == "\ufffd"


def test_carriage_returns_fold_and_budgets_count_bytes() -> None:
    assert fold_returns("a\rb\nc\r") == "b\nc\r"
    assert fold_returns("plain\n") == "plain\n"
    budget = Budget(5)
    assert budget.take("漢字") == "漢"
    assert budget.take("x") == ""
    budget.give_back(5)
    assert budget.fits(5)
    assert trimmed("漢字", 4) == "漢"
