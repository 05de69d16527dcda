"""What the extension adds to JupyterLab: bytes to load, and seconds until the launcher stands, with it and without.

The size is that of the built extension's scripts, each gzipped by itself as a web server does. The start is measured in
Chromium with an empty cache, in turns, on two servers that differ in the folder of Lab extensions only. The fastest start is
the one that other work disturbed least; the baseline is Lab without the extension.
"""

from __future__ import annotations

import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright
from tests.service import free_port

import tessera_lab
from benchmarks.rows import Row

BUNDLE = Path(tessera_lab.__file__).parent / "labextension" / "static"
INSTALLED = Path(sys.prefix) / "share" / "jupyter" / "labextensions"
STARTS = 5


def bundle_bytes() -> int:
    """Return the bytes of the built scripts, gzipped."""
    scripts = sorted(BUNDLE.glob("*.js"))
    if not scripts:
        raise RuntimeError(f"the Lab extension is not built: {BUNDLE} has no scripts; run `make setup`")
    return sum(len(gzip.compress(script.read_bytes(), 9)) for script in scripts)


class Lab:
    """One JupyterLab, with our extension or without, on a free port."""

    def __init__(self, directory: Path, *, ours: bool) -> None:
        self.port = free_port()
        self.ours = ours
        extensions = directory / "labextensions"
        extensions.mkdir(parents=True)
        for found in INSTALLED.iterdir():
            if ours or found.name != "@tessera":
                (extensions / found.name).symlink_to(found.resolve())
        work = directory / "work"
        work.mkdir()
        options = {
            "ServerApp.port": self.port,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.root_dir": work,
            "IdentityProvider.token": "",
            "LabApp.labextensions_path": extensions,
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        apart = {"JUPYTERLAB_SETTINGS_DIR": directory / "settings", "JUPYTERLAB_WORKSPACES_DIR": directory / "workspaces"}
        with (directory / "lab.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env=os.environ | {name: str(path) for name, path in apart.items()},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/api/status", timeout=2).raise_for_status()
                return
            except httpx.HTTPError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.1)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start_seconds(self, chromium: Browser) -> float:
        """Open it with an empty cache and return the seconds until the launcher stands."""
        with chromium.new_context() as context:
            page = context.new_page()
            began = time.perf_counter()
            page.goto(f"{self.url}/lab?reset")
            page.locator(".jp-LauncherCard").first.wait_for(timeout=120_000)
            seconds = time.perf_counter() - began
            loaded = "@tessera/lab" in (page.locator("#jupyter-config-data").text_content() or "")
            if loaded is not self.ours:
                raise RuntimeError(f"the extension is {'not ' if self.ours else ''}there")
            return seconds

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(30)


def starts(directory: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of each start with the extension and without."""
    labs: dict[bool, Lab] = {}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    try:
        for ours in (True, False):
            labs[ours] = Lab(directory / ("with" if ours else "without"), ours=ours)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for ours in (False, True):
                labs[ours].start_seconds(chromium)  # the server's own caches are cold at the first
            for _ in range(STARTS):
                for ours in (False, True):
                    seconds[ours].append(labs[ours].start_seconds(chromium))
            chromium.close()
    finally:
        for lab in labs.values():
            lab.stop()
    return seconds[True], seconds[False]


def rows() -> Iterable[Row]:
    """Weigh the bundle and time Lab."""
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory:
        with_it, without = starts(Path(directory))
    return [
        Row("lab", "all", "bundle_gz_kb", bundle_bytes() / 1000, "kB", "<= 150"),
        Row("lab", "start", "median_s", statistics.median(with_it), "s", None, statistics.median(without)),
        Row("lab", "start", "median_added_s", statistics.median(with_it) - statistics.median(without), "s"),
        Row("lab", "start", "fastest_added_s", min(with_it) - min(without), "s"),
    ]
