"""The zipapp: the whole runner in one file that needs nothing of ours around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tessera_lab.runner import build_zipapp


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zipapp(tmp_path_factory.mktemp("zipapp") / "runner.pyz")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the standard library only, standing for an environment that lacks something."""
    path = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    return str(path / "bin" / "python")


def test_the_same_sources_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    assert build_zipapp(tmp_path / "again.pyz").read_bytes() == archive.read_bytes()
    assert os.access(archive, os.X_OK)
    names = zipfile.ZipFile(archive).namelist()
    assert {name.rpartition("/")[0] for name in names} == {"", "tessera_lab", "tessera_lab/runner"}


def test_it_runs_a_notebook_isolated_from_everything_else(folder: Any, archive: Path) -> None:
    folder.notebook("import sys\nprint([p for p in sys.path if 'pyz' in p])", parameters={"x": 1})
    assert folder.run(command=[sys.executable, "-I", str(archive)]) == 0, folder.log
    assert "[]\n" in folder.log


def test_it_builds_itself_again_from_inside(archive: Path, tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from tessera_lab.runner import build_zipapp; build_zipapp(sys.argv[2])"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(archive), str(tmp_path / "copy.pyz")], check=True)
    assert (tmp_path / "copy.pyz").read_bytes() == archive.read_bytes()


def test_a_script_needs_nothing_but_python(folder: Any, archive: Path, bare_python: str) -> None:
    folder.prepare(entry="a.py", content="import sys; print(sys.prefix)")
    assert folder.run(command=[bare_python, "-I", str(archive)]) == 0, folder.log
    assert folder.log.strip() == str(Path(bare_python).parents[1])


def test_an_environment_without_nbclient_is_told_what_to_install(folder: Any, archive: Path, bare_python: str) -> None:
    folder.notebook("1")
    assert folder.run(command=[bare_python, "-I", str(archive)]) == 69, folder.log
    assert folder.reason["code"] == "environment.missing_package"
    assert folder.reason["detail"] == {"package": "nbformat", "python": bare_python}


def test_parameters_can_be_read_with_the_standard_library_alone(archive: Path) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tessera_lab.runner.parameters import infer\n"
        "print(json.dumps([p.as_json() for p in infer(json.load(sys.stdin))]))\n"
        "assert not {'nbformat', 'nbclient', 'jupyter_client'} & set(sys.modules)\n"
    )
    cell = nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    text = nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))
    command = [sys.executable, "-I", "-S", "-c", code, str(archive)]
    found = json.loads(subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout)
    assert [(p["name"], p["type"], p["default"]) for p in found] == [("n", "int", 1)]
