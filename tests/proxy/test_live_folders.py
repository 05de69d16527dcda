"""A task on a live folder works in the person's own files, and never outside the person's home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tessera_hub.installation import Installation
from tessera_hub.processes import proxy_command
from tessera_hub.proxy.command import command
from tessera_hub.schemas.protocol import Lease
from tests.proxy.conftest import Drivers, Inputs, LeaseMaker, is_root

ADA, EVE = 1, 2
"""Principals; as root their uids are those of the driver's range."""


def make_home(homes: Path, name: str, principal_id: int) -> Path:
    """Make a person's home with ``project/main.py``, as the spawner does."""
    project = homes / name / "project"
    project.mkdir(parents=True)
    (project / "data.txt").write_text("21")
    (project / "main.py").write_text("open('result.txt', 'w').write(str(2 * int(open('data.txt').read()))); print('live')")
    if is_root():
        for path in (homes / name, project, *project.iterdir()):
            os.chown(path, 200_000 + principal_id, 200_000 + principal_id)
    (homes / name).chmod(0o700)
    return project


@pytest.fixture
def homes(drivers: Drivers) -> Path:
    """The folder of the homes of ada and eve."""
    folder = drivers.directory / "homes"
    folder.mkdir()
    folder.chmod(0o711)
    make_home(folder, "ada", ADA)
    make_home(folder, "eve", EVE)
    return folder


def live(make_lease: LeaseMaker, folder: Path | str) -> tuple[Lease, Inputs]:
    """A lease of ada's task in *folder*."""
    return make_lease(inputs={"kind": "live", "live_folder": str(folder)}, principal_id=ADA)


async def test_a_live_task_reads_and_writes_in_the_persons_own_folder(
    drivers: Drivers, make_lease: LeaseMaker, homes: Path
) -> None:
    driver = await drivers.start(homes=homes)
    assert "shared_storage" in driver.capabilities
    assert (await driver.inventory()).shared_storage == str(homes)
    lease, source = live(make_lease, homes / "ada" / "project")
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)
    result = homes / "ada" / "project" / "result.txt"
    assert result.read_text() == "42"
    assert result.stat().st_uid == (homes / "ada").stat().st_uid
    assert source.fetched == 0
    assert (await driver.results(lease.run_id)).outputs == (), "what lies in the person's folder is not sent anywhere"
    await driver.forget(lease.run_id)
    assert result.exists(), "forgetting a run touches nothing of the person's"


@pytest.mark.parametrize("where", ["other", "parent", "homes", "dots", "link", "missing", "file", "relative"])
async def test_a_folder_outside_the_home_is_refused(drivers: Drivers, make_lease: LeaseMaker, homes: Path, where: str) -> None:
    driver = await drivers.start(homes=homes)
    home = homes / "ada"
    (home / "way-out").symlink_to(homes / "eve")
    folder = {
        "other": homes / "eve" / "project",
        "parent": "/etc",
        "homes": homes,
        "dots": f"{home}/../eve/project",
        "link": home / "way-out" / "project",
        "missing": home / "nothing",
        "file": home / "project" / "main.py",
        "relative": "project",
    }[where]
    lease, source = live(make_lease, folder)
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "inputs.live_refused")
    assert run.meter == ()
    assert source.claims == []
    assert not (homes / "eve" / "project" / "result.txt").exists()
    assert await driver.logs(lease.run_id, "output", 0, 100) == b""


async def test_without_a_folder_of_homes_live_is_refused(drivers: Drivers, make_lease: LeaseMaker, homes: Path) -> None:
    driver = await drivers.start()
    assert "shared_storage" not in driver.capabilities
    lease, source = live(make_lease, homes / "ada" / "project")
    await drivers.submit(lease, source)
    run = await drivers.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "inputs.live_refused")


def test_the_local_proxy_of_an_installation_is_told_where_the_homes_are(tmp_path: Path) -> None:
    here = Installation(tmp_path, "ada", single_person=True)
    words = proxy_command(here)
    with command.make_context("proxy", words[words.index("proxy") + 1 :]) as context:
        assert context.params["homes"] == tmp_path / "homes"
        assert context.params["data_dir"] == tmp_path / "local"
