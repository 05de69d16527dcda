"""What the routes work with, made once per process and handed over by ``app.state.context``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from tessera_hub.environments import EnvironmentRule
from tessera_hub.hubapi import CACHE_SECONDS, HubApi
from tessera_hub.schemas.protocol import Timers
from tessera_hub.store import Store
from tessera_hub.store.blobs import BlobStore
from tessera_hub.store.runfiles import RunFiles


@dataclass(slots=True)
class Settings:
    """Settings of the service; :class:`tessera_hub.service.TesseraService` fills them from traitlets."""

    database_url: str
    data_dir: Path
    prefix: str = "/services/tessera"
    """Path under which JupyterHub's proxy shows the service, without a slash at the end."""
    public_url: str = ""
    """URL of the hub as people see it, ``https://hub.example.org``; empty: relative links only."""
    hub_api_url: str = ""
    hub_token: str = ""
    hub_prefix: str = "/hub/"
    hub_cache_seconds: float = CACHE_SECONDS
    """How long an answer of the hub about people and groups is believed, at most 30 s."""
    oauth_client_id: str = "service-tessera"
    secret: bytes = b""
    """Key of run tokens and state cookies, at least 32 bytes."""
    currency: str = "CNY"
    time_zone: str = "UTC"
    snapshot_limit_bytes: int = 1 << 30
    contact: str = ""
    """Whom a person asks for more, shown in hints."""
    single_person: bool = False
    timers: Timers = field(default_factory=Timers)
    schedule_interval: float = 1.0
    reservation_seconds: float = 300.0
    idle_seconds: int = 2 * 3600
    """After which an idle workspace without cards is warned about; 0: never."""
    card_idle_seconds: int = 1800
    """The same with cards."""
    idle_grace_seconds: int = 600
    """From the warning to the stop."""
    environment_rules: Mapping[str, EnvironmentRule] = field(default_factory=dict)


@dataclass(slots=True)
class Context:
    """Store, hub and files."""

    settings: Settings
    store: Store
    hub: HubApi
    blobs: BlobStore
    run_files: RunFiles

    @property
    def api_prefix(self) -> str:
        """Path of the API."""
        return f"{self.settings.prefix}/api/v1"


def context_of(request: Request) -> Context:
    """FastAPI dependency: the process's context."""
    found: Context = request.app.state.context
    return found
