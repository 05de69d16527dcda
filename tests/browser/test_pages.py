"""Signing in, the form, the wait, and what goes wrong on the way, in Chromium on the real product."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tessera_hub.client import TesseraClient
from tests.browser.running import RunningHub, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def _tidy(hub: RunningHub) -> Iterator[None]:
    yield
    stop_all(hub)


def stop_all(hub: RunningHub) -> None:
    with hub.client() as client:
        for task in client.tasks(kind="workspace", mine=True):
            if not task.task.phase.final:
                task.cancel()
        until(lambda: all(t.task.phase.final for t in client.tasks(kind="workspace", mine=True)), 60)


def test_it_is_ready_within_ten_seconds(hub: RunningHub) -> None:
    # The product says so itself; on a busy machine the wall clock is not asserted, only that it came up at all.
    assert re.search(r"ready after \d+\.\d s", hub.log.read_text())


def test_a_wrong_password_is_refused_in_the_persons_language(hub: RunningHub, browser: Browser) -> None:
    page = browser.new_context(locale="zh-CN").new_page()
    hub.sign_in(page, password="aaaa-bbbb-cccc-dddd")
    expect(page.get_by_role("alert")).to_contain_text("用户名或密码不正确")
    page.context.close()


TEXTS = {
    "en": ("New workspace", "Start workspace", "Starts now", "Your workspace is running.", "Stop", "The workspace was stopped."),
    "zh-CN": ("新建开发环境", "启动开发环境", "立即启动", "开发环境正在运行。", "停止", "开发环境已停止。"),
}


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_workspace_from_the_form_to_its_stop(hub: RunningHub, browser: Browser, language: str) -> None:
    heading, start, now, running, stop, stopped = TEXTS[language]
    page = hub.page(browser, language=language)
    page.get_by_role("link", name=heading).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    expect(page.locator("#summary")).to_contain_text(now)
    page.locator("label[for=compute-share]").click()
    expect(page.get_by_text("A100-80G").first).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("¼ × A100-80G")
    page.locator("#share").fill("50")
    expect(page.locator("#share-range")).to_have_value("50")
    expect(page.locator("#summary")).to_contain_text("½ × A100-80G")
    page.locator("label[for=compute-whole]").click()
    expect(page.locator("#summary")).to_contain_text("1 × A100-80G")
    page.locator("label[for=compute-share]").click()
    page.get_by_role("button", name=start).click()
    page.wait_for_url(re.compile(r"/user/.*/lab"), timeout=90_000)
    expect(page.get_by_role("tab", name=re.compile("Launcher|启动页"))).to_be_visible(timeout=60_000)

    # The card is taken for as long as the workspace lives, and free again afterwards.
    with hub.client() as client:
        assert free_cards(client) == 150
        page.goto(f"{hub.url}/services/tessera/")
        page.get_by_role("link", name=re.compile("^(Open|打开)$")).click()
        page.wait_for_url(re.compile(r"/user/.*/lab"))
        workspace = next(iter(client.tasks(kind="workspace", mine=True)))
        page.goto(f"{hub.url}/services/tessera/workspaces/{workspace.id}")
        expect(page.locator("#workspace")).to_contain_text(running)
        page.get_by_role("button", name=stop).click()
        expect(page.locator("#workspace")).to_contain_text(stopped, timeout=30_000)
        until(lambda: free_cards(client) == 200)
    page.context.close()


def free_cards(client: TesseraClient) -> int:
    return sum(card.free_centi_cards for cluster in client.capacity() for card in cluster.cards)


def test_a_wrong_share_is_refused_without_javascript(hub: RunningHub, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    hub.sign_in(page)
    page.goto(f"{hub.url}/services/tessera/workspaces/new?opt-compute=share&opt-share=50")
    expect(page.locator("#share")).to_have_value("50")
    page.get_by_text("$TESSERA_DATASETS/birds").click()
    page.locator("#hours").evaluate("e => e.removeAttribute('max')")
    page.locator("#hours").fill("9999")
    page.get_by_role("button", name="Start workspace").click()
    expect(page.get_by_text("Write a number from 0.1 to 720.").first).to_be_visible()
    expect(page.get_by_role("checkbox", name=re.compile("birds"))).to_be_checked()
    with hub.client() as client:
        assert [t for t in client.tasks(kind="workspace", mine=True) if not t.task.phase.final] == []
    context.close()


def test_a_start_past_the_form_is_refused_with_the_way_to_it(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser)
    owner = hub.here.owner
    answer = page.request.post(
        f"{hub.url}/hub/api/users/{owner}/server",
        headers={"X-XSRFToken": _xsrf(page), "Referer": f"{hub.url}/hub/home"},
    )
    assert answer.status == 409, answer.text()
    assert "workspaces/new" in answer.text()
    page.goto(f"{hub.url}/hub/spawn?opt-share=50&opt-compute=share")
    page.wait_for_url("**/services/tessera/workspaces/new?opt-share=50&opt-compute=share")
    page.context.close()


def _xsrf(page: Page) -> str:
    page.goto(page.url.split("/services")[0] + "/hub/token")
    return next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and c["path"] == "/hub/")


def test_a_double_click_and_a_second_tab_make_one_workspace(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser)
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(f"{hub.url}/services/tessera/workspaces/new")
    page.locator("button.t-start").dblclick()
    page.wait_for_url(re.compile(r"/workspaces/[0-9a-f-]{36}|/user/|/hub/"))
    other.locator("button.t-start").click()
    expect(other.get_by_text("This workspace already exists.")).to_be_visible()
    with hub.client() as client:
        assert len([t for t in client.tasks(kind="workspace", mine=True) if not t.task.phase.final]) == 1
    page.context.close()


def test_what_cannot_start_waits_on_a_page_that_says_why_and_can_be_changed_and_cancelled(
    hub: RunningHub, browser: Browser
) -> None:
    def live() -> list[Any]:
        return [t.task for t in client.tasks(kind="workspace", mine=True) if not t.task.phase.final]

    with hub.client() as client:
        total = max(c.total.get("cpu", 0) for c in client.capacity()) // 1000
        page = hub.page(browser)
        for name in ("first", "second"):
            page.goto(f"{hub.url}/services/tessera/workspaces/new?opt-cpu={total}&opt-memory=1&opt-server={name}")
            page.locator("button.t-start").click()
            page.wait_for_url(re.compile(r"/services/tessera/workspaces/[0-9a-f-]{36}|/user/|/hub/"))
        expect(page.locator("#workspace")).to_contain_text("Waiting in the queue is free.")
        expect(page.locator(".t-steps .now")).to_contain_text("In the queue")
        expect(page.locator(".t-steps .now")).to_contain_text("No node has enough", timeout=20_000)
        page.get_by_role("link", name="Change").click()
        expect(page.locator("#cpu")).to_have_value(str(total))
        page.locator("#cpu").fill("0.5")
        page.locator("button.t-start").click()
        page.wait_for_url(re.compile(r"/services/tessera/workspaces/[0-9a-f-]{36}"))
        assert sorted((t.name, t.resources["cpu"]) for t in live()) == [("first", total * 1000), ("second", 500)]
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#workspace")).to_contain_text("Start again")
        expect(page.locator("#workspace")).to_contain_text("Nothing is billed.")
        assert [t.name for t in live()] == ["first"]
    page.context.close()


def test_the_form_says_why_something_can_never_start_and_when_a_quota_is_full(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser)
    page.goto(f"{hub.url}/services/tessera/workspaces/new?opt-compute=whole&opt-cards=4")
    expect(page.locator("#summary")).to_contain_text("Cannot start like this")
    expect(page.locator("#summary")).to_contain_text("at most 2")
    queues = page.request.get(f"{hub.url}/services/tessera/api/v1/queues").json()
    root = next(q["id"] for q in queues if q["path"] == "default")
    address = f"{hub.url}/services/tessera/api/v1/queues/{root}"

    def limit(millicores: int | None) -> None:
        changed = page.request.put(address, headers={"X-Tessera-Request": "1"}, data={"quota": {"cpu": {"limit": millicores}}})
        assert changed.ok, changed.text()

    limit(500)
    try:
        page.goto(f"{hub.url}/services/tessera/workspaces/new?opt-cpu=1")
        # The form asks again every ten seconds; limits are believed for one.
        expect(page.locator("#summary")).to_contain_text("Cannot start like this", timeout=20_000)
        expect(page.locator("#summary")).to_contain_text("1 / 0.5")
        page.locator("button.t-start").click()
        expect(page.get_by_role("alert")).to_be_visible()
        with hub.client() as client:
            assert [t for t in client.tasks(kind="workspace", mine=True) if not t.task.phase.final] == []
    finally:
        limit(None)
        page.context.close()


def test_a_token_from_the_page_works_in_a_program(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser, language="zh-CN")
    page.get_by_role("link", name="令牌").click()
    page.locator("#token-note").fill("我的脚本")
    page.get_by_role("button", name="申请令牌").click()
    expect(page.locator("#token-result")).to_have_text(re.compile(r"\S{20,}"))
    with TesseraClient(hub.here.service_url, page.locator("#token-result").inner_text()) as client:
        assert client.me().name == hub.here.owner
        page.reload()
        row = page.get_by_role("row", name=re.compile("我的脚本"))
        row.get_by_role("button", name="撤销").click()
        expect(row).to_have_count(0)
    page.context.close()


def test_an_expired_sign_in_leads_back_to_the_page_after_a_new_one(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser)
    # The service's own cookie ran out, the hub's did not: the way back needs no password.
    page.context.add_cookies([{"name": "tessera-token", "value": "expired", "url": f"{hub.url}/services/tessera/"}])
    page.goto(f"{hub.url}/services/tessera/costs?month=2026-10")
    expect(page.get_by_role("heading", level=1)).to_have_text("Costs of 2026-10")
    # Both ran out while a live page was open.
    page.goto(f"{hub.url}/services/tessera/tasks?q=digits")
    page.context.clear_cookies()
    page.wait_for_url(re.compile("/hub/login"), timeout=20_000)
    hub.sign_in_here(page)
    page.wait_for_url(re.compile(r"/services/tessera/tasks\?q=digits"))
    expect(page.locator("input[name=q]")).to_have_value("digits")
    page.context.close()


def test_a_page_says_that_the_service_is_away_and_recovers(hub: RunningHub, browser: Browser) -> None:
    page = hub.page(browser)
    page.goto(f"{hub.url}/services/tessera/tasks")
    page.context.set_offline(True)
    expect(page.locator("#t-offline")).to_be_visible(timeout=20_000)
    page.context.set_offline(False)
    expect(page.locator("#t-offline")).to_be_hidden(timeout=20_000)
    page.context.close()


PAGES = ["", "tasks", "costs", "clusters", "queues", "prices", "workspaces/new", "nowhere"]
OF_THE_HUB = ["token", "home", "error/503", "nowhere"]


@pytest.mark.parametrize(("language", "switch"), [("en", "中文"), ("zh-CN", "English")])
def test_every_page_is_whole_in_both_languages(hub: RunningHub, browser: Browser, language: str, switch: str) -> None:
    page = hub.page(browser, language=language, width=420)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    for address in [f"/services/tessera/{p}" for p in PAGES] + [f"/hub/{p}" for p in OF_THE_HUB]:
        answer = page.goto(hub.url + address)
        assert answer is not None
        assert answer.status == (404 if "nowhere" in address else 200), address
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("link", name=switch)).to_be_visible()
        assert page.locator("html").get_attribute("lang") == language, address
        # Nothing is wider than a telephone.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), address
    assert errors == []
    page.context.close()
