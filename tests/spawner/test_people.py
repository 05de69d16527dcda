"""Workspaces of several people on one machine, as root: own Unix users, closed homes, reservations, limits, meters."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tessera_hub.demo import token_of
from tests.browser.running import RunningHub, until
from tests.spawner.workspaces import ask, end_all, ended, nothing_is_held, started

pytestmark = [pytest.mark.timeout(240), pytest.mark.root]


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    running = RunningHub("--person", "ben:vision", "--person", "eve:speech")
    # Beside the data directory, through which people cannot look.
    data = Path(tempfile.mkdtemp(prefix="tessera-data-", dir="/var/tmp"))
    (data / "data.txt").write_text("21")
    data.chmod(0o755)
    (running.data_dir / "datasets.toml").write_text(
        f'[datasets.birds]\npath = "{data}"\ntenants = ["vision"]\nworkspaces = true\n'
    )
    try:
        yield running.start().joined()
    finally:
        running.remove()
        shutil.rmtree(data)


@pytest.fixture(autouse=True)
def _tidy(hub: RunningHub) -> Iterator[None]:
    yield
    end_all(hub, "ben", "eve")


def process_of(hub: RunningHub, name: str) -> psutil.Process:
    home = str(hub.data_dir / "homes" / name)

    def find() -> psutil.Process | None:
        for process in psutil.process_iter():
            try:
                if "jupyterhub.singleuser" in " ".join(process.cmdline()) and process.environ().get("HOME") == home:
                    return process
            except psutil.Error:
                continue
        return None

    found = until(find, 30)
    assert isinstance(found, psutil.Process)
    return found


def test_each_person_has_an_own_user_and_a_closed_home_with_the_examples(hub: RunningHub) -> None:
    with hub.client("ben") as ben, hub.client("eve") as eve:
        assert ask(eve, datasets=["birds"]).json()["code"] == "dataset.unknown"
        first, second = started(ben, ask(ben, datasets=["birds"])), started(eve, ask(eve))
        uids = [process_of(hub, name).uids().real for name in ("ben", "eve")]
        limits = Path(f"/proc/{process_of(hub, 'ben').pid}/limits").read_text()
        assert re.search(r"^Max processes +4096 +4096 ", limits, re.MULTILINE)
        assert len({0, *uids}) == 3
        for name, uid in zip(("ben", "eve"), uids, strict=True):
            home = hub.data_dir / "homes" / name
            assert (home.stat().st_uid, home.stat().st_mode & 0o777) == (uid, 0o700)
            assert (home / "examples" / "digits.ipynb").stat().st_uid == uid
        assert unreadable(uids[1], hub.data_dir / "homes" / "ben" / "examples")
        # What the workspace reads is linked where the person can neither change it nor list that of others.
        links = Path(process_of(hub, "ben").environ()["TESSERA_DATASETS"])
        assert "TESSERA_DATASETS" not in process_of(hub, "eve").environ()
        assert [link.name for link in links.iterdir()] == ["birds"]
        assert not unreadable(uids[0], links / "birds" / "data.txt")
        assert unreadable(uids[1], links.parent)
        assert (links.stat().st_uid, links.stat().st_mode & 0o777) == (0, 0o755)
        for secret in ("secrets", "local", "logs", "tessera.sqlite", "jupyterhub.sqlite"):
            assert unreadable(uids[0], hub.data_dir / secret), secret
        for handle in (first, second):
            handle.cancel()
            ended(handle)
        until(lambda: not links.exists(), 30)


def unreadable(uid: int, path: Path) -> bool:
    """Whether a process of *uid* can neither list nor read *path*."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            list(path.iterdir()) if path.is_dir() else path.read_bytes()
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_second_request_finds_the_workspace_that_is_there(hub: RunningHub) -> None:
    with hub.client("ben") as ben:
        handle = started(ben, ask(ben))
        again = ask(ben)
        assert (again.status_code, again.json()["code"]) == (409, "workspace.exists")
        assert again.json()["detail"]["task_id"] == str(handle.id)
        handle.cancel()
        done = ended(handle)
        assert [r.code for r in done.reasons] == ["workspace.stopped"]


def test_the_meter_runs_from_the_start_of_the_process_to_its_end(hub: RunningHub) -> None:
    with hub.client("ben") as ben:
        handle = started(ben, ask(ben))
        began = process_of(hub, "ben").create_time()
        time.sleep(3)
        handle.cancel()
        ended(handle)
        bill = handle.bill()
        task = handle.task
        assert task.started_at is not None
        assert task.finished_at is not None
        assert abs(task.started_at.timestamp() - began) < 3
        assert abs(bill.seconds - (task.finished_at - task.started_at).total_seconds()) <= 1
        assert {line.dimension: line.unit_seconds for line in bill.lines} == {
            "cpu": 200 * bill.seconds,
            "memory": 512 * bill.seconds,
        }
        assert nothing_is_held(ben)


def test_a_workspace_ends_at_its_time_limit(hub: RunningHub) -> None:
    with hub.client("ben") as ben:
        handle = started(ben, ask(ben, max_run_seconds=4))
        done = ended(handle)
        assert [r.code for r in done.reasons] == ["limit.time"]


def test_a_process_that_is_killed_ends_the_workspace_and_its_meter(hub: RunningHub) -> None:
    with hub.client("ben") as ben:
        handle = started(ben, ask(ben))
        process_of(hub, "ben").kill()
        done = ended(handle)
        assert done.phase == "FAILED"
        assert [r.code for r in done.reasons] == ["workspace.ended"]
        before = handle.bill().amount_micro
        time.sleep(2)
        assert handle.bill().amount_micro == before


def test_what_a_terminal_leaves_ends_with_the_workspace_and_none_takes_more_memory_than_it_pays(hub: RunningHub) -> None:
    eat = "x = bytearray(1500 << 20); x[::4096] = b'x' * len(x[::4096])"
    with hub.client("ben") as ben:
        handle = started(ben, ask(ben))
        home = hub.data_dir / "homes" / "ben"
        # The shell of a new terminal reads this file. The daemon is a child of nobody and knows no run.
        orders = f'env -i setsid -f sleep 4711\n{sys.executable} -c "{eat}"\necho $? > {home}/status\n'
        (home / ".bashrc").write_text(orders)
        token = token_of(hub.here, "ben", ["access:servers!user"])
        answer = httpx.post(f"{hub.url}/user/ben/api/terminals", headers={"Authorization": f"token {token}"}, timeout=20)
        assert answer.status_code == 200, answer.text
        assert until(lambda: (home / "status").exists() and (home / "status").read_text().strip(), 60) == "137"
        assert sleepers("4711")
        assert handle.refresh().phase == "RUNNING"
        handle.cancel()
        ended(handle)
        until(lambda: not sleepers("4711"), 20)


def sleepers(seconds: str) -> list[int]:
    """Return the process ids of ``sleep`` for so many seconds."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", seconds]]
