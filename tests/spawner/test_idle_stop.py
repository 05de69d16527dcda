"""Idle workspaces with the real hub: real kernels, terminals and files keep one, an open tab does not."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera_hub.demo import token_of
from tests.browser.running import RunningHub, until
from tests.spawner.jupyter import Jupyter
from tests.spawner.workspaces import ask, call, end_all, ended, started

pytestmark = [pytest.mark.timeout(300), pytest.mark.root]

IDLE_SECONDS = 6
GRACE_SECONDS = 5
MARGIN_SECONDS = 6
"""For a report each second on a machine with much to do."""


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    folder = Path(tempfile.mkdtemp(prefix="tessera-idle-"))
    folder.chmod(0o711)  # the servers of people go through
    (folder / "jupyterhub_extra.py").write_text('c.Spawner.args = ["--TesseraExtension.activity_seconds=1"]\n')
    config = folder / "tessera_config.py"
    config.write_text(f"c.TesseraService.idle_seconds = {IDLE_SECONDS}\nc.TesseraService.idle_grace_seconds = {GRACE_SECONDS}\n")
    running = RunningHub("--person", "ben:vision", data_dir=folder, environment={"TESSERA_CONFIG": str(config)})
    try:
        yield running.start()
    finally:
        running.remove()


@pytest.fixture(autouse=True)
def _tidy(hub: RunningHub) -> Iterator[None]:
    yield
    end_all(hub, "ben")


class Ben:
    """Ben's running workspace and what he does in it."""

    def __init__(self, hub: RunningHub, client: Any) -> None:
        self.client = client
        self.handle = started(client, ask(client))
        self.jupyter = Jupyter(f"{hub.url}/user/ben/", token_of(hub.here, "ben", ["access:servers!user"]))

    def notes(self) -> list[str]:
        return [e.reason.code for e in self.handle.events() if e.kind == "note" and e.reason]

    def is_left_alone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert "workspace.idle_warned" not in self.notes()
            time.sleep(0.5)
        assert self.handle.refresh().phase == "RUNNING"


@pytest.fixture
def ben(hub: RunningHub) -> Iterator[Ben]:
    with hub.client("ben") as client:
        yield Ben(hub, client)


def test_an_open_tab_is_no_work_and_the_stop_says_why(ben: Ben) -> None:
    deadline = time.monotonic() + IDLE_SECONDS + GRACE_SECONDS + 3 * MARGIN_SECONDS
    while "workspace.idle_warned" not in ben.notes():
        ben.jupyter.look()
        assert time.monotonic() < deadline
    warned = next(e for e in ben.handle.events() if e.reason and e.reason.code == "workspace.idle_warned")
    done = ended(ben.handle)
    assert done.finished_at is not None
    assert (done.finished_at - warned.at).total_seconds() >= GRACE_SECONDS - 1
    assert (done.phase, [reason.code for reason in done.reasons]) == ("SUCCEEDED", ["workspace.idle"])
    before = ben.handle.bill().amount_micro
    time.sleep(2)
    assert ben.handle.bill().amount_micro == before


def test_a_silent_busy_kernel_keeps_it_until_it_is_interrupted(ben: Ben) -> None:
    kernel = ben.jupyter.run("import time; time.sleep(600)")
    ben.is_left_alone(IDLE_SECONDS + GRACE_SECONDS + MARGIN_SECONDS)
    ben.jupyter.post(f"kernels/{kernel}/interrupt")
    assert [reason.code for reason in ended(ben.handle).reasons] == ["workspace.idle"]


def test_a_program_in_a_terminal_keeps_it_and_a_waiting_shell_does_not(ben: Ben) -> None:
    ben.jupyter.type("sleep 17; true")
    ben.is_left_alone(15)
    assert [reason.code for reason in ended(ben.handle).reasons] == ["workspace.idle"]


def test_saving_takes_the_warning_back_and_keeping_holds_for_an_hour(ben: Ben) -> None:
    until(lambda: "workspace.idle_warned" in ben.notes(), 30)
    ben.jupyter.save("notes.txt", "still here")
    until(lambda: "workspace.active" in ben.notes(), GRACE_SECONDS + MARGIN_SECONDS)
    until(lambda: ben.notes().count("workspace.idle_warned") == 2, 30)
    assert call(ben.client, "POST", f"workspaces/{ben.handle.id}/keep").status_code == 200
    time.sleep(GRACE_SECONDS + MARGIN_SECONDS)
    assert ben.handle.refresh().phase == "RUNNING"
    assert ben.notes() == ["workspace.idle_warned", "workspace.active", "workspace.idle_warned", "workspace.kept"]
