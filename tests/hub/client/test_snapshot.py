"""What travels with a task, and what is refused before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tessera_hub.client import TesseraError, survey
from tessera_hub.client.download import Arrival, target_of
from tessera_hub.client.snapshot import check_notebook, inputs_of
from tessera_hub.schemas.tasks import OutputFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a script, data, and what must stay behind."""
    root = tmp_path / "project"
    for path in (
        "train.py",
        "lib/model.py",
        ".git/config",
        ".ipynb_checkpoints/x.ipynb",
        "lib/__pycache__/m.pyc",
        "note.ipynb",
        "note-runs/1/o",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def paths(folder: Path, include: object = "folder", limit: int = 1 << 20) -> list[str]:
    return [file.path for file in survey(folder / "train.py", include, limit).files]  # type: ignore[arg-type]


def code(folder: Path, include: object = "folder", limit: int = 1 << 20) -> str:
    with pytest.raises(TesseraError) as refused:
        paths(folder, include, limit)
    assert refused.value.hint, "a refusal says what to do"
    return refused.value.code


def test_a_folder_goes_without_version_control_caches_and_earlier_outputs(folder: Path) -> None:
    assert paths(folder) == ["lib/model.py", "note.ipynb", "train.py"]
    assert paths(folder, "notebook") == ["train.py"]
    assert paths(folder, ["lib"]) == ["lib/model.py", "train.py"]


@pytest.mark.parametrize("include", [["../secret"], ["/etc/passwd"], ["link"]])
def test_nothing_outside_the_folder_is_sent(folder: Path, include: list[str]) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "secret")
    assert code(folder, include) == "snapshot.outside"
    assert code(folder, "folder") == "snapshot.outside"


def test_a_link_to_a_folder_above_is_not_walked_for_ever(folder: Path) -> None:
    (folder / "lib" / "again").symlink_to(folder)
    assert paths(folder) == ["lib/model.py", "note.ipynb", "train.py"]


def test_a_snapshot_of_two_gigabytes_is_refused_without_reading_it(folder: Path) -> None:
    with (folder / "big.bin").open("wb") as file:
        os.truncate(file.fileno(), 2 << 30)
    assert code(folder, "folder", 512 << 20) == "snapshot.too_large"


def test_names_that_cannot_travel_are_refused(folder: Path) -> None:
    (folder / "a\\b").write_text("")
    assert code(folder) == "snapshot.name"


def test_a_missing_file_and_a_broken_notebook_are_told_apart(folder: Path) -> None:
    assert code(folder, ["gone.csv"]) == "snapshot.missing"
    with pytest.raises(TesseraError) as refused:
        check_notebook(folder / "note.ipynb")
    assert refused.value.code == "notebook.invalid"


def test_equal_files_have_one_hash_and_their_mode(folder: Path) -> None:
    (folder / "same.sh").write_text("train.py")
    (folder / "same.sh").chmod(0o755)
    inputs, sources = inputs_of(survey(folder / "train.py", ["same.sh"]))
    assert len({file.sha256 for file in inputs.files}) == len(sources) == 1
    assert {file.path: file.mode & 0o111 for file in inputs.files}["same.sh"]


def output(data: bytes, path: str = "out.bin") -> OutputFile:
    import hashlib
    import uuid

    return OutputFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data), run_id=uuid.uuid4())


def test_an_arrival_goes_on_where_it_was_cut_and_never_replaces_a_file(tmp_path: Path) -> None:
    wanted = output(b"0123456789")
    target = tmp_path / "out.bin"
    with Arrival(target, wanted) as first:
        first.write(b"0123")
    assert not target.exists()
    target.write_text("written meanwhile")
    with Arrival(target, wanted) as second:
        assert second.offset == 4
        second.write(b"456789")
        place = second.publish()
    assert (target.read_text(), place.name, place.read_bytes()) == ("written meanwhile", "out (2).bin", b"0123456789")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out (2).bin", "out.bin"]


def test_damaged_bytes_leave_nothing(tmp_path: Path) -> None:
    with Arrival(tmp_path / "out.bin", output(b"right")) as arrival:
        arrival.write(b"wrong")
        with pytest.raises(TesseraError, match="whole"):
            arrival.publish()
    assert list(tmp_path.iterdir()) == []


def test_an_output_cannot_leave_its_folder_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "out").symlink_to("/etc")
    with pytest.raises(TesseraError) as refused:
        target_of(tmp_path / "back", output(b"", "out/passwd"))
    assert refused.value.code == "output.path"
