"""An installation on one machine: its data directory, addresses, secrets and people.

Layout of the data directory: ``tessera.sqlite``, ``jupyterhub.sqlite``, ``jupyterhub_config.py``, ``secrets/`` (files only
their owner reads), ``blobs/``, ``runs-store/``, ``local/`` (the local Proxy), ``homes/<person>/``, ``logs/``.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

SERVICE_PREFIX: Final = "/services/tessera"
FIRST_PORT: Final = 20_000
PORTS: Final = 12_000
"""Below the range of ``net.ipv4.ip_local_port_range``, which begins at 32768."""
SECRETS: Final = (
    "hub-cookie",
    "proxy-token",
    "service-token",
    "spawner-token",
    "local-proxy-token",
    "service-key",
    "sign-in-key",
)
"""What is generated at the first start, one file each."""

FILE: Final = "installation.json"


class InstallationError(Exception):
    """The installation cannot be used as it is; message and ``hint`` are in the person's language."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Installation:
    """Where everything of one ``tessera up`` is."""

    data_dir: Path
    owner: str
    """The person who started it; an administrator of the hub and operator of the service."""
    single_person: bool
    """Not root: everything runs as the owner, nobody else may sign in."""
    host: str = "127.0.0.1"
    port: int = 8000
    hub_port: int = 8081
    proxy_api_port: int = 8001
    service_port: int = 8002
    simulate_cards: tuple[str, ...] = ()
    """``2xA100-80G``: cards that are accounted and scheduled, but do not exist."""
    people: tuple[str, ...] = ()
    """Further people, ``name`` or ``name:tenant``."""
    currency: str = "CNY"
    time_zone: str = "UTC"
    public_url: str = ""
    """Address for people where a proxy in front ends TLS, such as ``https://hub.example.org``; empty: our own."""

    @property
    def url(self) -> str:
        """Address of our own front door, without a slash at the end."""
        host = self.host if self.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  # compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def address(self) -> str:
        """Address that people type, without a slash at the end."""
        return self.public_url or self.url

    @property
    def service_url(self) -> str:
        """Address of the service through our own front door."""
        return f"{self.url}{SERVICE_PREFIX}"

    @property
    def public_service_url(self) -> str:
        """Address of the service as people and their programs see it."""
        return f"{self.address}{SERVICE_PREFIX}"

    @property
    def internal_service_url(self) -> str:
        """Address of the service on this machine, not through the hub's proxy."""
        return f"http://127.0.0.1:{self.service_port}{SERVICE_PREFIX}"

    @property
    def hub_api_url(self) -> str:
        """Address of the hub's REST API on this machine."""
        return f"http://127.0.0.1:{self.hub_port}/hub/api"

    @property
    def database_url(self) -> str:
        """Database of the service."""
        return f"sqlite:///{self.data_dir / 'tessera.sqlite'}"

    def secret(self, name: str) -> str:
        """Return one of :data:`SECRETS`, made at the first call; 64 hexadecimal digits, mode 0600."""
        folder = self.data_dir / "secrets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / name
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return path.read_text("ascii").strip()
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        return path.read_text("ascii").strip()

    def keep_private(self) -> None:
        """Let only our own user read what this process and its children write, and the databases written before.

        As root people's servers pass through the data directory on the way to their homes; all else is closed to them.
        """
        os.umask(0o077)
        for database in self.data_dir.glob("*.sqlite*"):
            database.chmod(0o600)

    def people_and_tenants(self) -> dict[str, str]:
        """Return person → tenant of everybody named at the start; the owner's tenant is ``default``."""
        found = {self.owner: "default"}
        for entry in self.people:
            name, _colon, tenant = entry.partition(":")
            found[name.strip().lower()] = tenant.strip() or "default"
        return found

    def save(self) -> None:
        """Write ``installation.json`` in one step, so that other commands find the hub."""
        values: dict[str, Any] = asdict(self)
        values["data_dir"] = str(self.data_dir)
        path = self.data_dir / FILE
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, data_dir: Path) -> Self:
        """Read ``installation.json``.

        Raises:
            FileNotFoundError: nothing was started there yet.
            InstallationError: the file is damaged.
        """
        path = data_dir / FILE
        try:
            values = json.loads(path.read_text("utf-8"))
            known = {f.name for f in fields(cls)}
            kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
            kept["data_dir"] = data_dir
            return cls(**kept)
        except (ValueError, TypeError, AttributeError) as error:
            raise InstallationError(f"{path}: {error}") from error

    def with_free_ports(self) -> Self:
        """Return a copy whose inner ports are free now; those that are free already stay."""
        wanted = {"hub_port": self.hub_port, "proxy_api_port": self.proxy_api_port, "service_port": self.service_port}
        taken = {self.port}
        for name, port in wanted.items():
            if port in taken or not port_is_free("127.0.0.1", port):
                port = free_port(taken)  # noqa: PLW2901
            wanted[name] = port
            taken.add(port)
        return replace(self, **wanted)  # type: ignore[arg-type]  # names and types of the fields above


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen at *port* now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(avoid: set[int]) -> int:
    """Return a port nobody listens at.

    It is none of those that the system gives to outgoing connections and to whoever asks for any, so that it is still free when
    its owner is started a moment later, and when it is started again.
    """
    while True:
        port = FIRST_PORT + secrets.randbelow(PORTS)
        if port not in avoid and port_is_free("127.0.0.1", port):
            return port
