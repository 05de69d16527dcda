"""Run as job from JupyterLab: the dialog, the job as it runs, what it leaves, and what may go wrong on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tessera_hub.client import TaskHandle
from tests.browser.running import RunningHub, notebook, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SLOW = "import time\nfor second in range(%d):\n    print('second', second, flush=True)\n    time.sleep(1)"


@dataclass(frozen=True)
class Words:
    """What a person reads, in one language."""

    run: str
    up_to: str
    starts_now: str
    a_number: str
    finished: str
    cells: str
    output: str
    timeline: str
    why: str
    cost: str
    sum: str
    files: str
    open: str
    compute: str
    no_limit: str
    nothing_runs: str
    jobs: str


WORDS = {
    "zh-CN": Words(
        *("作为任务运行", "至多", "立即开始", "需要一个数", "已完成", "6 / 6 个单元格", "输出", "时间线", "为何在此运行", "费用"),
        *("合计", "文件", "打开", "算力", "无上限", "没有正在运行的任务", "任务"),
    ),
    "en": Words(
        *("Run as job", "up to", "Starts now", "A number is needed", "Succeeded", "6 of 6 cells", "Output", "Timeline"),
        *("Why here", "Cost", "Sum", "Files", "Open", "Compute", "no limit", "Nothing runs", "Jobs"),
    ),
}


class Lab:
    """One person's workspace, and the browser they are signed in with."""

    def __init__(self, hub: RunningHub, browser: Browser) -> None:
        self.hub = hub
        self._browser = browser
        self.home = hub.data_dir / "homes" / hub.here.owner
        page = hub.page(browser)
        page.goto(f"{hub.url}/services/tessera/workspaces/new?opt-compute=share&opt-share=50&opt-cpu=0.2&opt-memory=1")
        page.locator("button.t-start").click()
        page.wait_for_url(re.compile(r"/user/.*/lab"), timeout=90_000)
        self._signed_in = page.context.storage_state()
        page.context.close()

    def context(self, language: str = "en") -> BrowserContext:
        """A window of the person who is signed in already."""
        return self._browser.new_context(locale=language, storage_state=self._signed_in, viewport={"width": 1500, "height": 950})

    def open(self, page: Page, path: str = "") -> None:
        """Open Lab, with nothing but one file."""
        tree = f"/tree/{path}" if path else ""
        page.goto(f"{self.hub.url}/user/{self.hub.here.owner}/lab{tree}?reset")
        if path:
            expect(page.locator(".jp-NotebookPanel-toolbar").get_by_text(re.compile("Run as job|作为任务运行"))).to_be_visible(
                timeout=60_000
            )
        else:
            expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)

    def speak(self, page: Page, locale: str) -> None:
        """Choose a language in Lab's settings."""
        xsrf = next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and "/user/" in c["path"])
        answer = page.request.put(
            f"{self.hub.url}/user/{self.hub.here.owner}/lab/api/settings/@jupyterlab/translation-extension:plugin",
            headers={"X-XSRFToken": xsrf},
            data={"raw": json.dumps({"locale": locale})},
        )
        assert answer.ok, answer.text()

    def write_notebook(self, name: str, *sources: str) -> None:
        """Put a notebook into the person's home."""
        (self.home / name).write_text(json.dumps(notebook(*sources)))
        # The person saves it from Lab before it is submitted.
        (self.home / name).chmod(0o666)

    def tasks(self, name: str) -> list[TaskHandle]:
        """The person's jobs of a name, as the service has them."""
        with self.hub.client() as client:
            return [task for task in client.tasks(mine=True) if task.task.name == name]


@pytest.fixture(scope="module")
def lab(hub: RunningHub, browser: Browser) -> Lab:
    """A running workspace."""
    return Lab(hub, browser)


@pytest.fixture
def page(lab: Lab) -> Iterator[Page]:
    context = lab.context()
    yield context.new_page()
    context.close()


def dialog_of(page: Page, run: str = "Run as job") -> Locator:
    """Press the button of the notebook's toolbar and return the dialog, ready for choices."""
    page.locator(".jp-NotebookPanel-toolbar").get_by_text(run).click()
    dialog = page.get_by_role("dialog", name=run)
    expect(dialog.get_by_role("button", name=run)).to_be_enabled(timeout=30_000)
    return dialog


def state_of(page: Page) -> Locator:
    """The state in the head of a job's detail."""
    return page.locator(".tsr-panel-head .tsr-phase.tsr-mod-large")


# Chinese first: a new person's Lab speaks the language of the browser by itself.
@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_a_notebook_becomes_a_job_and_comes_back_executed(lab: Lab, language: str) -> None:
    words = WORDS[language]
    context = lab.context(language)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    if language == "en":
        lab.open(page)
        lab.speak(page, "en")
    lab.open(page, "examples/digits.ipynb")
    expect(page.get_by_role("menubar").get_by_text("文件" if language == "zh-CN" else "File", exact=True)).to_be_visible()

    dialog = dialog_of(page, words.run)
    expect(dialog).to_contain_text(words.up_to)
    expect(dialog).to_contain_text(words.starts_now)
    dialog.get_by_label("learning_rate").fill("fast")
    expect(dialog).to_contain_text(words.a_number)
    expect(dialog.get_by_role("button", name=words.run)).to_be_disabled()
    dialog.get_by_label("learning_rate").fill("0.02")
    dialog.get_by_label("epochs").fill("12")
    dialog.get_by_role("button", name=words.run).click()
    expect(dialog).to_be_hidden(timeout=30_000)

    expect(state_of(page)).to_contain_text(words.finished, timeout=90_000)
    expect(page.locator(".tsr-figures")).to_contain_text(words.cells)
    live = page.get_by_role("tabpanel").locator(".tsr-notebook")
    expect(live).to_contain_text("epochs = 12")
    expect(live).to_contain_text("learning_rate = 0.02")
    expect(live).to_contain_text("epoch  12/12")

    page.get_by_role("tab", name=words.output, exact=True).click()
    expect(page.get_by_role("log")).to_contain_text("epoch  12/12")
    page.get_by_role("tab", name=words.timeline, exact=True).click()
    expect(page.get_by_role("heading", name=words.why)).to_be_visible()
    page.get_by_role("tab", name=words.cost, exact=True).click()
    expect(page.get_by_role("row", name=re.compile(f"^{words.sum}"))).to_contain_text("¥0.00")
    page.get_by_role("tab", name=words.files, exact=True).click()
    page.get_by_role("button", name=re.compile(rf"^{words.open} result\.json")).wait_for(timeout=30_000)
    page.get_by_role("button", name=re.compile(rf"^{words.open} digits\.ipynb")).click()
    expect(page.get_by_role("tab", name="digits.ipynb")).to_have_count(2)

    task = lab.tasks("digits")[0]
    results = lab.home / "examples/digits-runs" / str(task.id)[:8]
    # Lab keeps a checkpoint of what it has opened.
    assert {file.name for file in results.iterdir() if not file.name.startswith(".")} == {"digits.ipynb", "result.json"}
    assert json.loads((results / "result.json").read_text())["epochs"] == 12
    original = json.loads((lab.home / "examples/digits.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in original["cells"])
    assert errors == []
    context.close()


def test_compute_shows_slice_money_and_quota_and_the_chip_opens_it(lab: Lab, page: Page) -> None:
    lab.open(page)
    chip = page.locator(".tsr-chip-status")
    expect(chip).to_contain_text("A100-80G ½", timeout=30_000)
    expect(chip).to_contain_text("GiB", timeout=30_000)
    expect(chip).to_contain_text("/h")
    chip.click()
    panel = page.locator(".tsr-compute")
    expect(panel).to_contain_text("½ × A100-80G")
    expect(panel).to_contain_text("40 GiB of card memory")
    expect(panel).to_contain_text("Quota of default")
    expect(panel.get_by_role("meter", name="A100-80G")).to_have_attribute("aria-valuenow", "50")
    today = panel.locator("dd").first
    before = today.inner_text()
    expect(today).not_to_have_text(before)


def test_a_terminal_of_the_workspace_knows_the_command_and_its_person(lab: Lab, page: Page) -> None:
    lab.open(page)
    page.locator(".jp-LauncherCard", has_text="Terminal").click()
    expect(page.locator(".jp-Terminal .xterm")).to_be_visible(timeout=30_000)
    # What is typed before the shell has begun waits in the terminal.
    page.keyboard.type("tessera whoami --json > who.json.part && mv who.json.part who.json\n")
    who = lab.home / "who.json"
    until(who.exists, 30)
    assert json.loads(who.read_text())["name"] == lab.hub.here.owner


def test_a_double_click_and_a_second_press_make_one_job(lab: Lab, page: Page) -> None:
    lab.write_notebook("twice.ipynb", "1 + 1")
    lab.open(page, "twice.ipynb")
    dialog = dialog_of(page)
    dialog.get_by_role("button", name="Run as job").dblclick()
    page.keyboard.press("Control+Enter")
    expect(state_of(page)).to_be_visible(timeout=30_000)
    expect(state_of(page)).to_contain_text("Succeeded", timeout=60_000)
    assert len(lab.tasks("twice")) == 1


def test_two_tabs_show_one_truth_and_one_can_stop_what_the_other_started(lab: Lab, page: Page) -> None:
    lab.write_notebook("long.ipynb", SLOW % 120)
    other = page.context.new_page()
    lab.open(other)
    other.locator(".jp-LauncherCard", has_text="Jobs").click()
    row = other.get_by_role("row", name=re.compile("long"))
    expect(row).to_have_count(0)
    lab.open(page, "long.ipynb")
    dialog_of(page).get_by_role("button", name="Run as job").click()
    expect(row).to_contain_text("Running", timeout=60_000)
    expect(page.locator(".tsr-notebook")).to_contain_text("second 1", timeout=60_000)
    row.get_by_role("checkbox").check()
    other.get_by_role("button", name="Stop 1 job").click()
    other.get_by_role("button", name="Stop job").click()
    expect(row).to_contain_text("Stopped", timeout=60_000)
    expect(state_of(page)).to_contain_text("Stopped", timeout=30_000)


def test_more_windows_than_a_browser_opens_connections_are_all_live(lab: Lab, page: Page) -> None:
    for window in [page, *(page.context.new_page() for _ in range(6))]:
        lab.open(window)
        window.locator(".jp-LauncherCard", has_text="Jobs").click()
        expect(window.locator(".tsr-panel")).to_contain_text("Live", timeout=30_000)


def test_a_job_that_fails_says_why_and_shows_where(lab: Lab, page: Page) -> None:
    lab.write_notebook("broken.ipynb", "import os", "print('has', os.listdir(os.environ['TESSERA_DATASETS']))", "1 / 0")
    lab.open(page, "broken.ipynb")
    dialog = dialog_of(page)
    expect(dialog.get_by_role("radio", name="Service")).to_be_disabled()
    expect(dialog).to_contain_text("A service runs a script, such as serve.py.")
    birds = dialog.get_by_role("checkbox", name=re.compile("birds"))
    expect(dialog.get_by_role("list", name="Data sets")).to_contain_text("At local$TESSERA_DATASETS/birds")
    birds.check()
    dialog.get_by_role("spinbutton", name="Memory").fill("0.5")
    dialog.get_by_role("spinbutton", name="CPU").fill("0.5")
    dialog.get_by_role("button", name="Preview").click()
    expect(dialog).to_contain_text("memory_mib: 512")
    expect(dialog).to_contain_text(re.compile(r"datasets:\s+- birds"))
    dialog.get_by_role("button", name="Back to the form").click()
    dialog.get_by_role("button", name="Run as job").click()
    expect(state_of(page)).to_contain_text("Failed", timeout=60_000)
    expect(page.locator(".tsr-standing")).to_contain_text("ZeroDivisionError")
    expect(page.locator(".tsr-notebook")).to_contain_text("has ['birds']")
    expect(page.locator(".tsr-notebook")).to_contain_text("ZeroDivisionError: division by zero")
    page.get_by_role("tab", name="Cost", exact=True).click()
    expect(page.get_by_role("heading", name="Measured use")).to_be_visible()


def revived(hub: RunningHub, killed: psutil.Process) -> bool:
    """Whether the service runs again."""
    try:
        return hub.child("tessera_hub.cli service").pid != killed.pid
    except AssertionError:  # neither the old nor the new one is there
        return False


def test_lab_finds_a_restarted_service_again_and_misses_no_line(lab: Lab, page: Page) -> None:
    lab.write_notebook("survivor.ipynb", SLOW % 20)
    lab.open(page, "survivor.ipynb")
    dialog_of(page).get_by_role("button", name="Run as job").click()
    expect(page.locator(".tsr-notebook")).to_contain_text("second 1", timeout=60_000)
    killed = lab.hub.child("tessera_hub.cli service")
    killed.kill()
    until(lambda: revived(lab.hub, killed), 60)
    expect(state_of(page)).to_contain_text("Succeeded", timeout=90_000)
    page.get_by_role("tab", name="Output", exact=True).click()
    text = page.get_by_role("log").inner_text()
    assert [text.count(f"second {n}\n") for n in range(19)] == [1] * 19
    assert len(lab.tasks("survivor")) == 1


@pytest.fixture(scope="module")
def ended(lab: Lab) -> TaskHandle:
    """A job that has ended."""
    lab.write_notebook("ended.ipynb", "1 + 1")
    with lab.hub.client() as client:
        job = client.submit(lab.home / "ended.ipynb", name="ended", cpu=0.5, memory="512MiB")
        job.wait(60)
    return job


def test_without_network_the_last_state_stays_with_a_word_about_it(lab: Lab, page: Page, ended: TaskHandle) -> None:
    lab.open(page)
    page.locator(".jp-LauncherCard", has_text="Jobs").click()
    jobs = page.locator(".tsr-panel")
    row = jobs.get_by_role("row", name=re.compile(ended.task.name))
    expect(jobs).to_contain_text("Live", timeout=30_000)
    expect(row).to_be_visible()
    page.context.set_offline(True)
    expect(jobs.get_by_role("alert")).to_contain_text("Jobs go on; what you see is the last state known.", timeout=20_000)
    expect(row).to_be_visible()
    expect(page.locator(".tsr-chip-status")).to_contain_text("Offline since")
    page.context.set_offline(False)
    expect(jobs).to_contain_text("Live", timeout=30_000)
    expect(jobs.get_by_role("alert")).to_have_count(0)


def test_an_ended_sign_in_says_so_and_leads_back_after_a_new_one(lab: Lab, browser: Browser, ended: TaskHandle) -> None:
    page = lab.hub.page(browser)  # a sign-in of its own, since it ends
    lab.open(page)
    page.locator(".jp-LauncherCard", has_text="Jobs").click()
    jobs = page.locator(".tsr-panel")
    row = jobs.get_by_role("row", name=re.compile(ended.task.name))
    expect(row).to_be_visible(timeout=30_000)
    other = page.context.new_page()
    other.goto(f"{lab.hub.url}/hub/logout")
    other.close()
    expect(jobs.get_by_role("alert")).to_contain_text("Your sign-in has expired.", timeout=60_000)
    expect(row).to_be_visible()
    jobs.get_by_role("alert").get_by_role("button", name="Reload").click()
    page.wait_for_url(re.compile("/hub/login"), timeout=20_000)
    lab.hub.sign_in_here(page)
    page.wait_for_url(re.compile(r"/user/.*/lab"), timeout=30_000)
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
    page.context.close()


def test_open_jobs_come_back_with_the_page(lab: Lab, page: Page, ended: TaskHandle) -> None:
    lab.open(page)
    page.locator(".jp-LauncherCard", has_text="Jobs").click()
    page.get_by_role("row", name=re.compile(ended.task.name)).get_by_role("button", name=ended.task.name).click()
    expect(state_of(page)).to_contain_text("Succeeded")
    expect(page.get_by_role("tab", name=ended.task.name)).to_be_visible()
    page.wait_for_timeout(1500)  # Lab saves its layout a second after the last change
    page.goto(f"{lab.hub.url}/user/{lab.hub.here.owner}/lab")
    expect(page.get_by_role("tab", name=ended.task.name)).to_be_visible(timeout=60_000)
    expect(state_of(page)).to_contain_text("Succeeded", timeout=30_000)
