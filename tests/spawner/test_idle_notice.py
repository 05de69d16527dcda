"""An idle workspace says so, in JupyterLab and on the hub's page, in the person's language, and is kept by one press."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.running import RunningHub, until
from tests.chromium import browser
from tests.spawner.workspaces import ask, end_all, started

__all__ = ["browser"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    folder = Path(tempfile.mkdtemp(prefix="tessera-notice-"))
    folder.chmod(0o711)  # the servers of people go through
    (folder / "jupyterhub_extra.py").write_text('c.Spawner.args = ["--TesseraExtension.activity_seconds=1"]\n')
    config = folder / "tessera_config.py"
    config.write_text("c.TesseraService.idle_seconds = 3\nc.TesseraService.idle_grace_seconds = 200\n")
    running = RunningHub(data_dir=folder, environment={"TESSERA_CONFIG": str(config)})
    try:
        yield running.start()
    finally:
        running.remove()


@pytest.mark.parametrize(
    ("code", "theme", "says", "keep", "history"),
    [
        ("en", "light", "Nothing runs in this workspace.", "Keep for an hour", "The workspace is kept although it is idle."),
        ("zh-CN", "dark", "此开发环境中没有任何程序在运行。", "保留一小时", "开发环境虽然闲置，但予以保留。"),
    ],
)
def test_the_notice_is_in_lab_and_on_the_page(
    hub: RunningHub, browser: Browser, code: str, theme: str, says: str, keep: str, history: str
) -> None:
    with hub.client() as client:
        handle = started(client, ask(client))
        page = hub.page(browser, language=code, theme=theme)
        place = f"{hub.url}/services/tessera/workspaces/{handle.id}"
        page.goto(place)
        notice = page.get_by_role("alert").filter(has_text=says)
        expect(notice).to_be_visible(timeout=40_000)
        expect(notice.get_by_role("button", name=keep)).to_be_visible()
        page.goto(f"{place}/open")
        toast = page.locator(".jp-toast, .Toastify__toast").filter(has_text=says)
        expect(toast).to_be_visible(timeout=60_000)
        expect(toast).to_contain_text(re.compile(r"\d\d?:\d\d"))
        toast.get_by_role("button", name=keep).click()
        until(lambda: [e.reason.code for e in handle.events() if e.reason][-1] == "workspace.kept", 20)
        expect(toast).to_have_count(0, timeout=20_000)
        page.goto(place)
        page.get_by_role("main").locator("summary").click()
        expect(page.get_by_text(history)).to_be_visible()
        expect(page.get_by_role("alert").filter(has_text=says)).to_have_count(0)
        page.context.close()
        end_all(hub, None)
