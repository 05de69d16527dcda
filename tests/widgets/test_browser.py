"""The views in a real JupyterLab, in Chromium; pictures go to ``TESSERA_PICTURES`` when it is set."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.centre import Centre
from tests.chromium import browser
from tests.lab.conftest import JUPYTER_TOKEN, LabServer, start_lab

__all__ = ["browser"]
pytestmark = pytest.mark.browser

PROGRAM = "import time\nfor i in range({steps}):\n    print('step', i, flush=True)\n    time.sleep(0.5)\n"
SOURCES = [
    "from tessera_hub.client import TesseraClient; client = TesseraClient()",
    "from tessera_widgets import QuotaView, SubmitForm, TaskView, cost_chart",
    "TaskView(client.submit('job.py', name='seen live', cpu=0.1, memory='256MiB'), every_seconds=1)",
    "QuotaView(client, every_seconds=1)",
    "SubmitForm('job.py', client)",
    "cost_chart('resource')",
]


@pytest.fixture(scope="module")
def lab(centre: Centre, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab of alice's before the shared centre."""
    folder = tmp_path_factory.mktemp("lab")
    with start_lab(folder, centre.hub, centre.service, centre.token, program="jupyterlab") as server:
        server.choose("@jupyterlab/apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        yield server


@pytest.fixture
def limits(centre: Centre) -> Iterator[dict[str, int]]:
    """Limits of the tenant for the length of a test, in millicores and MiB."""
    wanted = {"cpu": 4000, "memory": 8192}
    with centre.service.api(centre.operator) as operator:
        queues = operator.get("/queues").json()
        tenant = next(queue["id"] for queue in queues if queue["tenant"] == "physics" and queue["parent"] is None)
        set_limits(operator, tenant, wanted)
        yield wanted
        set_limits(operator, tenant, dict.fromkeys(wanted))


def set_limits(operator: httpx.Client, queue: int, limits: Mapping[str, int | None]) -> None:
    answer = operator.put(f"/queues/{queue}", json={"quota": {name: {"limit": limit} for name, limit in limits.items()}})
    assert answer.status_code == 200, answer.text


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("TESSERA_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def write_notebook(lab: LabServer, name: str, *sources: str, steps: int) -> None:
    (lab.root / "job.py").write_text(PROGRAM.format(steps=steps))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, lab.root / name)


def open_notebook(page: Page, lab: LabServer, name: str, *, kernel: bool = True) -> None:
    """Open a notebook, with or without a *kernel* if Lab asks; whether it does depends on which answer it gets first."""
    choice = page.locator(f".jp-Dialog-footer .jp-mod-{'accept' if kernel else 'reject'}")
    page.add_locator_handler(choice, choice.click)
    page.goto(f"{lab.url}lab/tree/{name}?reset&token={JUPYTER_TOKEN}")
    expect(page.locator(".jp-NotebookPanel")).to_be_visible(timeout=60_000)


def run_all_cells(page: Page) -> None:
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")).to_be_visible(timeout=60_000)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.evaluate("document.activeElement.blur()")
    page.locator(".jp-NotebookPanel [data-command='runmenu:run-all'], .lm-MenuBar-item").nth(3).click()
    page.locator("li[data-command='runmenu:run-all']").click()


def saved_state(lab: LabServer, name: str) -> dict[str, Any]:
    """Wait until the notebook was saved with its widgets."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        saved: dict[str, Any] = json.loads((lab.root / name).read_text())
        if "widgets" in saved["metadata"]:
            return saved
        time.sleep(0.3)
    raise AssertionError("the state of the widgets was not saved")


def tasks_of_the_form(lab: LabServer) -> set[str]:
    """Return the ids of alice's tasks that are named after the file; other tests have such ones, too."""
    with lab.api() as alice:
        return {task["id"] for task in alice.get("v1/tasks", params={"q": "job.py", "mine": True}).json()["items"]}


def test_views_are_live_and_keep_their_last_state_without_a_kernel(lab: LabServer, browser: Browser) -> None:
    write_notebook(lab, "views.ipynb", *SOURCES, steps=8)
    page = browser.new_page(viewport={"width": 1200, "height": 1600}, locale="en-GB")
    open_notebook(page, lab, "views.ipynb")
    run_all_cells(page)
    view = page.locator(".tessera-view").first
    expect(view).to_contain_text("seen live", timeout=60_000)
    expect(view.locator("pre")).to_contain_text("step 2", timeout=60_000)
    expect(view.get_by_role("button", name="Cancel")).to_be_visible()
    picture(page, "views-running")
    expect(view.locator(".tessera-state")).to_have_text("Succeeded", timeout=60_000)
    expect(page.locator(".tessera-view").nth(1)).to_contain_text("Tenant physics")
    form = page.locator(".jp-OutputArea-output", has=page.get_by_role("textbox", name="Memory"))
    expect(form).to_contain_text("CNY", timeout=30_000)
    form.get_by_label("Parameters").fill("wrong")
    expect(form).to_contain_text("'wrong' is not of the form name=value.", timeout=30_000)
    form.get_by_label("Parameters").fill("")
    form.get_by_label("Processor cores").fill("0.1")
    form.get_by_label("Memory").fill("256MiB")
    before = tasks_of_the_form(lab)
    form.get_by_role("button", name="Run as job").dblclick()
    expect(form).to_contain_text("Submitted job.py as task")
    expect(form.locator(".tessera-view .tessera-state")).to_have_text("Succeeded", timeout=60_000)
    assert len(tasks_of_the_form(lab) - before) == 1, "two clicks are one task"
    page.locator(".jp-CodeCell").nth(5).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".js-plotly-plot .bartext").first).to_contain_text("CNY", timeout=60_000)
    picture(page, "views-ended")
    page.keyboard.press("Control+s")
    saved_state(lab, "views.ipynb")
    page.close()
    with httpx.Client(base_url=lab.url, headers={"Authorization": f"token {JUPYTER_TOKEN}"}) as jupyter:
        for session in jupyter.get("api/sessions").json():
            jupyter.delete(f"api/sessions/{session['id']}")
    page = browser.new_page(viewport={"width": 1200, "height": 1600}, locale="en-GB")
    open_notebook(page, lab, "views.ipynb", kernel=False)
    view = page.locator(".tessera-view").first
    expect(view).to_contain_text("Succeeded", timeout=30_000)
    expect(view.locator("pre")).to_contain_text("step 7")
    expect(view.get_by_text("As of")).to_be_visible()
    expect(page.get_by_text("Error displaying widget")).to_have_count(0)
    picture(page, "views-reopened")
    page.close()


def test_a_view_in_the_dark_in_chinese_outlives_its_kernel(lab: LabServer, browser: Browser, limits: dict[str, int]) -> None:
    lab.choose("@jupyterlab/apputils-extension/themes", theme="JupyterLab Dark")
    lab.choose("@jupyterlab/translation-extension/plugin", locale="zh_CN")
    remember = "import os, pathlib; pathlib.Path('kernel').write_text(str(os.getpid()))"
    write_notebook(lab, "dark.ipynb", remember, *SOURCES, steps=600)
    page = browser.new_page(viewport={"width": 1200, "height": 1600}, locale="zh-CN")
    open_notebook(page, lab, "dark.ipynb")
    run_all_cells(page)
    view = page.locator(".tessera-view").first
    state, cost = view.locator(".tessera-state"), view.locator("dd").last
    expect(state).to_have_text("运行中", timeout=60_000)
    quota = page.locator(".tessera-view").nth(1)
    expect(quota).to_contain_text("租户 physics", timeout=60_000)
    expect(quota.locator("meter").first).to_be_visible()
    expect(page.get_by_role("textbox", name="处理器核数")).to_be_visible(timeout=60_000)
    expect(page.locator(".js-plotly-plot .gtitle")).to_contain_text("合计", timeout=60_000)
    expect(page.locator(".js-plotly-plot .main-svg").first).to_have_css("background-color", "rgb(17, 17, 17)")
    first = cost.inner_text()
    expect(cost).not_to_have_text(first, timeout=20_000)
    picture(page, "views-dark-chinese")
    os.kill(int((lab.root / "kernel").read_text()), signal.SIGKILL)
    expect(view.get_by_text("截至")).to_be_visible(timeout=60_000)
    expect(quota.get_by_text("截至")).to_be_visible()
    expect(view.get_by_role("button", name="取消")).to_have_count(0)
    expect(state).to_have_text("运行中")
    kept = cost.inner_text()
    assert re.fullmatch(r"CNY 0\.\d{2,6}", kept)
    page.wait_for_timeout(2500)
    assert cost.inner_text() == kept, "nobody knows whether the task still runs"
    picture(page, "views-dark-dead-kernel")
    page.close()
    with lab.api() as alice:
        for task in alice.get("v1/tasks", params={"phase": "RUNNING", "mine": True}).json()["items"]:
            alice.post(f"v1/tasks/{task['id']}/cancel")
