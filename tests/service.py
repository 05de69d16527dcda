"""The real service as a process: ``tessera service`` on a free port, against a hub double, SQLite or PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tessera_hub import installation
from tests.hub_double import HubDouble

PREFIX = "/services/tessera"


def free_port() -> int:
    """Return a port that nobody listened on a moment ago, and that no outgoing connection takes."""
    return installation.free_port(set())


class ServiceProcess:
    """One service; its data stays over restarts."""

    def __init__(
        self,
        data_dir: Path,
        hub: HubDouble,
        database_url: str | None = None,
        *,
        timers: dict[str, float] | None = None,
        local_token: str | None = None,
        port: int | None = None,
        background: bool = True,
        **traits: Any,
    ) -> None:
        self.data_dir = data_dir
        self.hub = hub
        self.port = port or free_port()
        self.database_url = database_url or f"sqlite:///{data_dir / 'tessera.sqlite'}"
        self.process: subprocess.Popen[bytes] | None = None
        self._timers = timers or {}
        self._local_token = local_token
        self._traits = {"background": background, "snapshot_limit_bytes": 4 << 20, **traits}

    @property
    def url(self) -> str:
        """Address of the service, as a client is given it."""
        return f"http://127.0.0.1:{self.port}{PREFIX}"

    @property
    def log_path(self) -> Path:
        """Where its output goes."""
        return self.data_dir / "service.log"

    def start(self, *, seconds: float = 60, command_prefix: tuple[str, ...] = ()) -> ServiceProcess:
        """Start and return when it is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        config = self.data_dir / "tessera_config.py"
        lines = [f"c.TesseraService.{name} = {value!r}" for name, value in {**self._traits, "timers": self._timers}.items()]
        config.write_text("c = get_config()\n" + "\n".join(lines) + "\n")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "TESSERA_"))} | {
            "TESSERA_DATA_DIR": str(self.data_dir),
            "TESSERA_DATABASE_URL": self.database_url,
            "TESSERA_CONFIG": str(config),
            "TESSERA_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "JUPYTERHUB_API_TOKEN": self.hub.service_token,
            "JUPYTERHUB_API_URL": self.hub.url,
            "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{self.port}",
        }
        if self._local_token:
            token_file = self.data_dir / "local-token"
            token_file.write_text(self._local_token)
            environment["TESSERA_LOCAL_PROXY_TOKEN_FILE"] = str(token_file)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command_prefix, sys.executable, "-m", "tessera_hub.cli", "service"],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                if httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"the service did not start in {seconds} s:\n{self.log_tail()}")

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of its output."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:]) if self.log_path.exists() else ""

    def stop(self) -> None:
        """Ask it to end and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process is not None:
            self.process.wait(10)
        self.process = None

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def api(self, token: str | None = None, **headers: str) -> httpx.Client:
        """Return an HTTP client of the API."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30)


def script_spec(sha256: str, size: int, *, name: str = "hello", entry: str = "hello.py", **fields: Any) -> dict[str, Any]:
    """Return a script task's specification with one file."""
    spec = {
        "name": name,
        "kind": "script",
        "entry": entry,
        "inputs": {"files": [{"path": entry, "sha256": sha256, "size": size}]},
        "roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 128}}],
    }
    result: dict[str, Any] = json.loads(json.dumps(spec | fields))
    return result


def upload(api: httpx.Client, data: bytes, tenant: str | None = None) -> tuple[str, int]:
    """Upload a blob and return its hash and size."""
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    answer = api.put(f"/blobs/{digest}", content=data, params={"tenant": tenant} if tenant else None)
    assert answer.status_code in (201, 204), answer.text
    return digest, len(data)
