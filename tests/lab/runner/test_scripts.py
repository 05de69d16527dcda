"""Scripts: arguments, environment, exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_a_script_gets_its_parameters_both_ways(folder: Any) -> None:
    source = (
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], json.load(open(os.environ['TESSERA_PARAMETERS'])), os.getcwd()]))"
    )
    parameters = {"lr": 0.1, "name": "a 'b' $c", "deep": {"x": [1]}, "flag": True, "none": None}
    folder.prepare(entry="sub/train.py", content=source, parameters=parameters)
    assert folder.run() == 0, folder.log
    arguments, read, where = json.loads(folder.log)
    assert arguments == ["--lr=0.1", "--name=a 'b' $c", '--deep={"x": [1]}', "--flag=true"]
    assert read == parameters
    assert where == str(folder.path / "work" / "sub")
    assert folder.record["state"] == "succeeded"


def test_data_sets_are_found_below_one_folder(folder: Any, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data.txt").write_text("21")
    source = "import os, pathlib\nprint(pathlib.Path(os.environ['TESSERA_DATASETS'], 'digits', 'data.txt').read_text())"
    (folder.path / "datasets").mkdir()
    (folder.path / "datasets" / "digits").symlink_to(tmp_path / "kept")  # of an earlier start of the same service
    folder.notebook(source, datasets={"digits": str(tmp_path / "kept")})
    assert folder.run() == 0, folder.log
    assert "21" in (folder.path / "output" / "train.ipynb").read_text()


def test_a_data_set_that_is_not_there_ends_the_run_before_its_code(folder: Any, tmp_path: Path) -> None:
    folder.prepare(entry="train.sh", content="echo ran", datasets={"digits": str(tmp_path / "gone")})
    assert folder.run() == 66
    assert (folder.reason["code"], folder.reason["detail"]) == ("dataset.missing", {"dataset": "digits"})
    assert "ran" not in folder.log.splitlines()


def test_a_shell_script_gets_them_unexpanded(folder: Any) -> None:
    folder.prepare(entry="train.sh", content='printf "%s|" "$@"', parameters={"name": "$(touch ran) `x` *"})
    assert folder.run() == 0, folder.log
    assert folder.log == "--name=$(touch ran) `x` *|"


def test_the_status_of_a_script_is_its_own(folder: Any) -> None:
    folder.prepare(entry="train.py", content="import sys\nprint('why it failed', file=sys.stderr)\nsys.exit(75)")
    assert folder.run() == 1
    assert folder.record["exit_code"] == 75
    assert folder.reason["code"] == "script.exit"
    assert folder.reason["detail"] == {"exit_code": 75, "signal": None, "last_line": "why it failed"}


def test_a_script_ended_by_a_signal_is_told_so(folder: Any) -> None:
    folder.prepare(entry="train.sh", content="kill -SEGV $$")
    assert folder.run() == 1
    assert folder.reason["detail"]["signal"] == "SIGSEGV"
    assert folder.record["exit_code"] == 139


def test_metric_lines_become_events(folder: Any) -> None:
    source = (
        'print(\'TESSERA_METRIC {"loss": 0.25, "step": 5}\')\n'
        "print('TESSERA_METRIC {broken')\n"
        "print('not TESSERA_METRIC {\"loss\": 1}')\n"
    )
    folder.prepare(entry="train.py", content=source)
    assert folder.run() == 0
    assert [event["values"] for event in folder.events("metric")] == [{"loss": 0.25, "step": 5}]


def test_a_process_that_a_script_leaves_behind_is_ended(folder: Any) -> None:
    folder.prepare(entry="train.sh", content="setsid sleep 600 &\nsetsid setsid sleep 600 &\necho done")
    assert folder.run(20) == 0, folder.log
    assert folder.living() == []


@pytest.mark.parametrize(("entry", "code", "status"), [("a.exe", "script.unsupported", 66), ("a.py", "script.missing", 66)])
def test_what_cannot_be_run_is_refused(folder: Any, entry: str, code: str, status: int) -> None:
    folder.prepare(entry=entry, content="x" if code == "script.unsupported" else None)
    assert folder.run() == status
    assert folder.reason["code"] == code


@pytest.mark.parametrize("name", ["", "-x", "a b", "a=b"])
def test_a_parameter_that_cannot_be_an_option_is_refused(folder: Any, name: str) -> None:
    folder.prepare(entry="a.py", content="open('ran', 'w')", parameters={name: 1})
    assert folder.run() == 65
    assert folder.reason["code"] == "parameter.name"
    assert not (folder.path / "work" / "ran").exists()
