"""Fixtures of the Lab tests.

hub        module    a double of JupyterHub's API
lab        function  a real Jupyter server with the extension before a real service without its loops, both shared by a module;
                     its contents root is empty
live_lab   function  JupyterLab before the shared ``centre``; it places outputs by itself
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.centre import Centre
from tests.hub_double import HubDouble
from tests.service import ServiceProcess, free_port

JUPYTER_TOKEN = "jupyter-server-token"


@dataclass
class LabServer:
    """A Jupyter server of alice's."""

    root: Path
    port: int
    hub_token: str
    service: ServiceProcess
    hub: HubDouble

    def choose(self, plugin: str, **settings: object) -> None:
        """Write settings of JupyterLab as its editor does; a page that is loaded afterwards follows them."""
        path = self.root.parent / "config" / "lab" / "user-settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=4))

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.port}/user/alice/"

    def api(self, **headers: str) -> httpx.Client:
        """A client that is signed in at the Jupyter server."""
        headers.setdefault("Authorization", f"token {JUPYTER_TOKEN}")
        return httpx.Client(base_url=f"{self.url}tessera/api/", headers=headers, timeout=30)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory, hub: HubDouble) -> Iterator[LabServer]:
    folder = tmp_path_factory.mktemp("lab")
    service = ServiceProcess(folder / "service", hub, background=False).start()
    token = hub.add_user("alice", "physics")
    try:
        with start_lab(folder, hub, service, token, "--TesseraExtension.place_outputs=False") as server:
            yield server
    finally:
        service.stop()


@pytest.fixture
def lab(shared_lab: LabServer) -> LabServer:
    shutil.rmtree(shared_lab.root)
    shared_lab.root.mkdir()
    if shared_lab.service.process is None:  # a test before stopped it
        shared_lab.service.start()
    return shared_lab


@pytest.fixture
def live_lab(tmp_path: Path, centre: Centre) -> Iterator[LabServer]:
    with start_lab(
        tmp_path, centre.hub, centre.service, centre.token, "--TesseraExtension.place_seconds=0.5", program="jupyterlab"
    ) as server:
        yield server


@contextmanager
def start_lab(
    tmp_path: Path, hub: HubDouble, service: ServiceProcess, token: str, *options: str, program: str = "jupyter_server"
) -> Iterator[LabServer]:
    """A Jupyter server for the length of the block."""
    root = tmp_path / "home"
    root.mkdir()
    config = tmp_path / "config"
    config.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "TESSERA_"))} | {
        "TESSERA_URL": service.url,
        "JUPYTERHUB_API_TOKEN": token,
        # As JupyterHub tells its servers what they may use.
        "CPU_LIMIT": "2.0",
        "MEM_LIMIT": str(3 << 30),
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTERLAB_SETTINGS_DIR": str(config / "lab" / "user-settings"),
        "JUPYTER_NO_CONFIG": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HOME": str(tmp_path),
    }
    port = free_port()
    log = tmp_path / "jupyter.log"
    command = [
        *(sys.executable, "-m", program, "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.base_url=/user/alice/"),
        *(f"--IdentityProvider.token={JUPYTER_TOKEN}", f"--ServerApp.root_dir={root}"),
        *("--ServerApp.jpserver_extensions={'tessera_lab': True}", "--TesseraExtension.snapshot_limit_mib=1"),
        *options,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    server = LabServer(root, port, token, service, hub)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{server.url}api", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(15)
