"""The form with every kind of card in a browser: each kind shows what can be had in it, and what is chosen is priced."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tessera_hub.demo import token_of
from tessera_hub.proxy.drivers.kubernetes.inventory import pools_of
from tests.browser.running import RunningHub
from tests.chromium import browser
from tests.spawner.handmade import DescribedProxy
from tests.spawner.test_partitions import NODES, node

__all__ = ["browser"]
pytestmark = pytest.mark.timeout(300)

SHARED = node("shared", "NVIDIA-L40S", **{"tessera.io/vgpu": "400", "tessera.io/vgpu-memory": "196608"})


class RealService:
    """The service of a running hub, as the tests of a service know one."""

    def __init__(self, hub: RunningHub) -> None:
        self._base = f"{hub.here.service_url}/api/v1"

    def api(self, token: str | None = None) -> httpx.Client:
        """Return a client of the API."""
        headers = {"Authorization": f"token {token}"} if token else {}
        return httpx.Client(base_url=self._base, headers=headers, timeout=30)


def connect(hub: RunningHub) -> None:
    """Connect a cluster with cards of every kind."""
    scopes = ["custom:tessera:operate", "access:services!service=tessera"]
    pools = [pool.model_dump(mode="json") for pool in pools_of([*NODES, SHARED], [])]
    inventory = {"pools": pools, "environments": {"default": {"kernels": ["python3"]}}}
    DescribedProxy(RealService(hub), token_of(hub.here, None, scopes), "pods", inventory).begin()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    running = RunningHub()
    try:
        connect(running.start())
        yield running
    finally:
        running.remove()


def classes(page: Page) -> list[str]:
    """Return the classes of cards that are shown, the chosen one in brackets."""
    found = []
    for tile in page.locator("input[name=card_class]").all():
        if page.locator(f"label[for={tile.get_attribute('id')}]").is_visible():
            name = str(tile.get_attribute("value"))
            found.append(f"[{name}]" if tile.is_checked() else name)
    return found


@pytest.mark.parametrize(("code", "theme", "now"), [("en", "light", "Starts now"), ("zh-CN", "dark", "立即启动")])
def test_each_kind_shows_what_can_be_had_in_it(hub: RunningHub, browser: Browser, code: str, theme: str, now: str) -> None:
    page = hub.page(browser, language=code, theme=theme)
    page.goto(f"{hub.url}/services/tessera/workspaces/new")
    summary = page.locator("#summary")
    page.locator("label[for=compute-mig]").click()
    assert classes(page) == []
    page.locator("label.t-tile").filter(has_text="3g.40gb").click()
    expect(summary).to_contain_text("0.42 × A100-80G")
    expect(summary).to_contain_text(now)
    page.locator("label[for=compute-whole]").click()
    assert classes(page) == ["[H100-80G]"]
    expect(summary).to_contain_text("1 × H100-80G")
    page.locator("label[for=compute-share]").click()
    assert classes(page) == ["[L40S-48G]"]
    expect(summary).to_contain_text("¼ × L40S-48G")
    expect(summary).to_contain_text(now)
    page.context.close()
