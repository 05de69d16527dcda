"""What ``tessera up`` refuses before it starts anything, what it remembers, and when it gives up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tessera_hub.installation import InstallationError
from tessera_hub.up_options import valid_cards
from tests.browser.running import RunningHub, free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tessera-up-") as name:
        yield Path(name)


def up(folder: Path, *options: str, language: str = "en") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tessera_hub.cli", "up", "--data-dir", str(folder), "--port", str(free_port(set()))]
    environment = {**os.environ, "TESSERA_LANGUAGE": language}
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--currency", "yuan"), "Use three capitals, as in CNY."),
        (("--time-zone", "Mars/Olympus"), "There is no time zone Mars/Olympus."),
        (("--public-url", "hub.example.org"), "Write for example https://hub.example.org, without a path."),
        (("--public-url", "https://hub.example.org/tessera"), "without a path"),
        (("--public-url", "https://ada:secret@hub.example.org"), "without a path"),
        (("--simulate-cards", "A100-80G"), "Write for example 2xA100-80G."),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_and_nothing_starts(folder: Path, options: tuple[str, ...], says: str) -> None:
    done = up(folder, *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not (folder / "logs").exists()
    assert says not in up(folder, *options, language="zh_CN").stderr


def test_simulated_cards_are_those_of_the_catalogue_each_once() -> None:
    assert valid_cards(("2xA100-80G, 1xT4-16G", "8xL4-24G")) == ["2xA100-80G", "1xT4-16G", "8xL4-24G"]
    with pytest.raises(InstallationError, match=r"There is no card A100\.") as unknown:
        valid_cards(("2xA100",))
    assert "A100-40G, A100-80G" in unknown.value.hint
    with pytest.raises(InstallationError, match=r"Card A100-80G occurs twice\."):
        valid_cards(("2xA100-80G", "1xA100-80G"))


def test_currency_zone_and_address_are_kept_and_the_currency_cannot_change() -> None:
    options = ("--currency", "EUR", "--time-zone", "Europe/Berlin", "--public-url", "https://hub.example.org/")
    running = RunningHub(*options)
    try:
        running.start()
        assert "https://hub.example.org\n" in running.log.read_text()
        answer = httpx.get(f"{running.url}/hub/login", timeout=20)
        assert all("secure" in cookie.lower() for cookie in answer.headers.get_list("set-cookie"))
        running.stop()
        refused = up(running.data_dir, "--currency", "CNY")
        assert (refused.returncode, "A price book keeps its currency" in refused.stderr) == (2, True), refused.stderr
        again = RunningHub(data_dir=running.data_dir, port=running.port).start()
        try:
            assert again.url == running.url
            kept = json.loads((running.data_dir / "installation.json").read_text())
            assert [kept[name] for name in ("currency", "time_zone", "public_url")] == [
                "EUR",
                "Europe/Berlin",
                "https://hub.example.org",
            ]
        finally:
            again.stop()
    finally:
        running.remove()


def test_a_setting_that_cannot_work_ends_the_start_with_the_words_of_the_hub(folder: Path) -> None:
    (folder / "jupyterhub_extra.py").write_text("c.JupyterHub.bind_url = undefined_name\n")
    done = up(folder)
    assert done.returncode == 1
    assert "hub ended with status 1" in done.stderr
    assert "undefined_name" in done.stderr
    assert "Stopped." in done.stderr
