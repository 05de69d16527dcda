"""What is killed, cut, closed and stopped around a job does not end it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.running import RunningHub, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


SECONDS = 40
"""How long the job runs: over everything that is cut meanwhile."""


def slow_notebook(folder: Path, seconds: int) -> Path:
    cells = [f"import time\nfor second in range({seconds}):\n    print('second', second, flush=True)\n    time.sleep(1)", "1 + 1"]
    path = folder / "slow.ipynb"
    path.write_text(
        json.dumps(
            {
                "cells": [
                    {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
                    for n, source in enumerate(cells)
                ],
                "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    return path


def test_a_job_survives_hub_service_network_browser_and_workspace(hub: RunningHub, browser: Browser, tmp_path: Path) -> None:
    page = hub.page(browser, language="zh-CN")
    page.goto(f"{hub.url}/services/tessera/workspaces/new")
    page.locator("button.t-start").click()
    page.wait_for_url(re.compile(r"/user/.*/lab"), timeout=90_000)
    with hub.client() as client:
        job = client.submit(slow_notebook(tmp_path, SECONDS), cpu=0.2, memory="512MiB")
        page.goto(f"{hub.url}/services/tessera/tasks/{job.id}")
        output = page.locator(".t-log")
        expect(output).to_contain_text("second 1", timeout=60_000)
        expect(page.get_by_text("运行中").first).to_be_visible()
        expect(page.get_by_text("单元 0/2")).to_be_visible()

        killed = hub.child("jupyterhub")
        killed.kill()
        until(lambda: hub.child("jupyterhub").pid != killed.pid if _alive(hub, "jupyterhub") else False, 60)
        until(lambda: _answers(f"{hub.url}/hub/login"), 60)

        away = page.locator("#t-offline")
        service = hub.child("cli service")
        service.suspend()  # first: it may be back sooner after a kill than the page looks
        expect(away).to_be_visible(timeout=40_000)
        service.kill()
        until(lambda: hub.child("cli service").pid != service.pid if _alive(hub, "cli service") else False, 60)
        expect(away).to_be_hidden(timeout=40_000)

        page.context.set_offline(True)
        expect(away).to_be_visible(timeout=20_000)
        page.context.set_offline(False)
        expect(away).to_be_hidden(timeout=20_000)
        expect(page.get_by_text("运行中").first).to_be_visible()

        # The page goes on where it was: every line once.
        expect(output).to_contain_text(f"second {SECONDS - 1}", timeout=90_000)
        shown = output.inner_text()
        assert [shown.count(f"second {n}\n") for n in range(SECONDS - 1)] == [1] * (SECONDS - 1)
        expect(page.get_by_text("已完成").first).to_be_visible(timeout=30_000)

        page.goto(f"{hub.url}/services/tessera/")
        page.get_by_role("button", name="停止").first.click()
        page.context.close()

        done = job.wait(30)
        assert (done.phase, done.attempts) == ("SUCCEEDED", 1), done.reasons
        text = "".join(job.logs())
        assert [text.count(f"second {n}\n") for n in range(SECONDS)] == [1] * SECONDS
        workspace = next(iter(client.tasks(kind="workspace", mine=True)))
        ended = until(lambda: (t := client.task(workspace.id).refresh()).phase.final and t, 60)
        assert ended.cost is not None
        assert ended.cost.nano_per_hour == 0
        assert ended.cost.micro > 0


def _alive(hub: RunningHub, marker: str) -> bool:
    try:
        hub.child(marker)
    except AssertionError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_ctrl_c_leaves_jobs_running_which_the_next_start_picks_up(tmp_path: Path) -> None:
    hub = RunningHub().start().joined()
    try:
        with hub.client() as client:
            job = client.submit(slow_notebook(tmp_path, 20), cpu=0.2, memory="512MiB")
            until(lambda: job.refresh().phase == "RUNNING", 60)
        said = hub.stop()
        assert "1 jobs are still running" in said
        hub.start()
        with hub.client() as client:
            done = client.task(job.id).wait(90)
        assert done.phase == "SUCCEEDED", done.reasons
        assert done.attempts == 1
    finally:
        hub.remove()
