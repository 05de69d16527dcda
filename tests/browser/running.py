"""The product as a newcomer starts it: ``tessera up`` on free ports in a fresh data directory, and people in browsers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page

from tessera_hub.client import TesseraClient
from tessera_hub.demo import token_of
from tessera_hub.installation import Installation, free_port
from tessera_hub.passwords import password_of


def until(what: Callable[[], Any], seconds: float = 60.0, pause: float = 0.2) -> Any:
    """Return the first true value of *what*.

    Raises:
        AssertionError: none came in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(pause)
    raise AssertionError(f"nothing within {seconds} s")


def notebook(*sources: str) -> dict[str, Any]:
    """Return a notebook of such cells, none of which was run."""
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for n, source in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


class RunningHub:
    """One ``tessera up``."""

    def __init__(
        self,
        *options: str,
        data_dir: Path | None = None,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Not below pytest's folder: that one is closed to the Unix users under which people's servers run.
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="tessera-browser-"))
        self.port = port or free_port(set())
        self.log = self.data_dir / "up.log"
        self._options = options
        self._environment = {**os.environ, "TESSERA_LANGUAGE": "en", **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_seconds = 0.0
        self._tokens: dict[str | None, str] = {}

    def start(self) -> RunningHub:
        """Start and wait until it says that it is ready."""
        command = [sys.executable, "-m", "tessera_hub.cli", "up", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        begun = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log, env=self._environment)
        until(self._is_ready, 120)  # later than `up` gives up by itself and says why
        self.ready_seconds = time.monotonic() - begun
        return self

    def joined(self) -> RunningHub:
        """Wait until its cluster has joined, too, as it has by the time a person signed in on a quiet machine."""
        with self.client() as client:
            until(lambda: [cluster for cluster in client.capacity() if cluster.state == "ok"], 60)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "is ready after" in self.log.read_text()

    def stop(self) -> str:
        """Press Ctrl-C, wait for the end, and return what it said."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(90)
            self.process = None
        return self.log.read_text()

    def remove(self) -> None:
        """Stop and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def here(self) -> Installation:
        """Addresses and secrets."""
        return Installation.load(self.data_dir)

    @property
    def url(self) -> str:
        """Address for people."""
        return self.here.url

    def password(self, name: str | None = None) -> str:
        """Return a person's password."""
        return password_of(self.here.secret("sign-in-key"), name or self.here.owner)

    def client(self, name: str | None = None) -> TesseraClient:
        """Return an SDK client of a person, the owner by default."""
        if name not in self._tokens:
            self._tokens[name] = token_of(self.here, name)
        return TesseraClient(self.here.service_url, self._tokens[name])

    def server_token(self) -> str:
        """Return a token of the owner's with which servers can be started past the form."""
        return token_of(self.here, None, ["servers!user"])

    def child(self, marker: str) -> psutil.Process:
        """Return the process of ours whose command line has *marker*."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children():
            try:
                if marker in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it just died and is about to be revived
                continue
        assert len(found) == 1, found
        return found[0]

    def page(self, browser: Browser, *, language: str = "en", theme: str = "light", width: int = 1400) -> Page:
        """Return a page of a person who has just signed in."""
        context = browser.new_context(
            locale=language, color_scheme="dark" if theme == "dark" else "light", viewport={"width": width, "height": 900}
        )
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        self.sign_in(page)
        return page

    def sign_in(self, page: Page, name: str | None = None, password: str | None = None) -> None:
        """Go to the sign-in page and fill it in."""
        page.goto(f"{self.url}/hub/login")
        self.sign_in_here(page, name, password)

    def sign_in_here(self, page: Page, name: str | None = None, password: str | None = None) -> None:
        """Fill in the sign-in page that one has been led to."""
        page.locator("input[name=username]").fill(name or self.here.owner)
        page.locator("input[name=password]").fill(password or self.password(name))
        page.locator("#login_submit").click()
        page.wait_for_load_state()
