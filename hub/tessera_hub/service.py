"""``tessera service``: configuration by traitlets, then uvicorn.

As a managed service of JupyterHub everything needed comes from the hub's environment (``JUPYTERHUB_*``); anything can be
set in ``tessera_config.py``, for example::

    c.TesseraService.database_url = "postgresql://tessera@db/tessera"
    c.TesseraService.currency = "EUR"
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import create_engine, insert, select, update
from traitlets import Bool, Dict, Float, Int, Unicode
from traitlets.config import Application

from tessera_hub.api.context import Settings
from tessera_hub.environments import EnvironmentRule
from tessera_hub.hubapi import CACHE_SECONDS
from tessera_hub.logs import configure_logging
from tessera_hub.schemas.protocol import Timers
from tessera_hub.store.engine import sync_url
from tessera_hub.store.migrate import upgrade
from tessera_hub.store.notify import Notifier
from tessera_hub.store.tables import Cluster

KEEP_ALIVE_SECONDS: Final = 3600
"""As long as JupyterHub's own server waits."""


class TesseraService(Application):
    """The hub service."""

    name = "tessera-service"
    description = "Queues, runs and bills behind JupyterHub."

    config_file = Unicode("tessera_config.py", help="Configuration file, read if it exists.").tag(config=True)
    data_dir = Unicode(
        help="""Folder of blobs, logs and, by default, the database::

            c.TesseraService.data_dir = "/var/lib/tessera"
        """
    ).tag(config=True)
    database_url = Unicode(
        help="""SQLAlchemy URL; SQLite in the data directory by default::

            c.TesseraService.database_url = "postgresql://tessera@db.example.org/tessera"
        """
    ).tag(config=True)
    currency = Unicode("CNY", help='ISO code of all prices: ``c.TesseraService.currency = "EUR"``').tag(config=True)
    time_zone = Unicode("UTC", help='Zone of the edges of billing months: ``"Asia/Shanghai"``').tag(config=True)
    snapshot_limit_bytes = Int(1 << 30, help="Most bytes of a task's snapshot; 1 GiB.").tag(config=True)
    contact = Unicode(help='Whom a person asks for more quota: ``"gpu-team@example.org"``').tag(config=True)
    timers = Dict(help='Timers of the Proxy protocol in seconds, such as ``{"unreachable": 180}``').tag(config=True)
    schedule_interval = Float(1.0, help="Seconds between scheduling cycles when nothing wakes the scheduler.").tag(config=True)
    hub_cache_seconds = Float(
        CACHE_SECONDS,
        min=0.0,
        max=CACHE_SECONDS,
        help="How long what JupyterHub says about people, tokens and groups is believed; a removed member is out within it.",
    ).tag(config=True)
    reservation_seconds = Float(300.0, help="How long a granted workspace waits for its server.").tag(config=True)
    idle_seconds = Int(
        2 * 3600,
        min=0,
        help="""After so many seconds without work in it a workspace without cards is warned about; 0 for never::

            c.TesseraService.idle_seconds = 0
        """,
    ).tag(config=True)
    card_idle_seconds = Int(1800, min=0, help="The same for a workspace with cards.").tag(config=True)
    idle_grace_seconds = Int(600, min=1, help="Seconds from the warning to the stop.").tag(config=True)
    environment_rules = Dict(
        help="""Environment → who may use it (everybody, if it is not said) and its own limits of idleness::

            c.TesseraService.environment_rules = {
                "licensed": {"groups": ["physics", "staff"]},
                "rendering": {"idle_seconds": 0, "card_idle_seconds": 7200},
            }
        """
    ).tag(config=True)
    host = Unicode("127.0.0.1", help="Address to listen at.").tag(config=True)
    port = Int(8095, help="Port to listen at; a managed service takes the hub's.").tag(config=True)
    background = Bool(True, help="Run scheduler and watch in this process; False for a further API replica.").tag(config=True)
    public_url = Unicode(help="URL of the hub as people see it, without a path.").tag(config=True)
    single_person = Bool(False, help="Only one person may sign in on this machine.").tag(config=True)
    local_proxy_token_file = Unicode(help="File of the local Proxy's bootstrap token; registers cluster ``local``.").tag(
        config=True
    )

    def initialize(self, argv: Any = None) -> None:
        """Read environment and configuration file; traits given on the command line win."""
        for trait, variable in (
            ("data_dir", "TESSERA_DATA_DIR"),
            ("database_url", "TESSERA_DATABASE_URL"),
            ("config_file", "TESSERA_CONFIG"),
            ("public_url", "TESSERA_PUBLIC_URL"),
            ("currency", "TESSERA_CURRENCY"),
            ("local_proxy_token_file", "TESSERA_LOCAL_PROXY_TOKEN_FILE"),
        ):
            if value := os.environ.get(variable):
                setattr(self, trait, value)
        if rules := os.environ.get("TESSERA_ENVIRONMENT_RULES"):
            self.environment_rules = json.loads(rules)
        if os.environ.get("TESSERA_SINGLE_PERSON") == "1":
            self.single_person = True
        if own := os.environ.get("JUPYTERHUB_SERVICE_URL"):
            parts = urlsplit(own)
            self.host, self.port = parts.hostname or self.host, parts.port or self.port
        super().initialize([] if argv is None else argv)
        if Path(self.config_file).is_file():
            self.load_config_file(str(Path(self.config_file).absolute()))

    def settings(self) -> Settings:
        """Return the settings of the application.

        Raises:
            SystemExit: something needed is missing; the message names it.
        """
        if not self.data_dir:
            raise SystemExit("tessera service: set TESSERA_DATA_DIR or c.TesseraService.data_dir")
        token, api_url = os.environ.get("JUPYTERHUB_API_TOKEN", ""), os.environ.get("JUPYTERHUB_API_URL", "")
        if not token or not api_url:
            raise SystemExit("tessera service: JUPYTERHUB_API_TOKEN and JUPYTERHUB_API_URL are not set; let JupyterHub start it")
        data_dir = Path(self.data_dir).absolute()
        data_dir.mkdir(parents=True, exist_ok=True)
        try:
            rules = TypeAdapter(dict[str, EnvironmentRule]).validate_python(dict(self.environment_rules))
        except ValidationError as error:
            raise SystemExit(f"tessera service: c.TesseraService.environment_rules: {error}") from error
        hub_prefix = os.environ.get("JUPYTERHUB_BASE_URL", "/").rstrip("/") + "/hub/"
        return Settings(
            database_url=self.database_url or f"sqlite:///{data_dir / 'tessera.sqlite'}",
            data_dir=data_dir,
            prefix=os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/services/tessera/").rstrip("/"),
            public_url=self.public_url.rstrip("/"),
            hub_api_url=api_url,
            hub_token=token,
            hub_prefix=hub_prefix,
            oauth_client_id=os.environ.get("JUPYTERHUB_CLIENT_ID", "service-tessera"),
            secret=service_secret(data_dir),
            currency=self.currency,
            time_zone=self.time_zone,
            snapshot_limit_bytes=self.snapshot_limit_bytes,
            contact=self.contact,
            single_person=self.single_person,
            timers=Timers.model_validate(dict(self.timers)),
            schedule_interval=self.schedule_interval,
            reservation_seconds=self.reservation_seconds,
            environment_rules=rules,
            idle_seconds=self.idle_seconds,
            card_idle_seconds=self.card_idle_seconds,
            idle_grace_seconds=self.idle_grace_seconds,
            hub_cache_seconds=self.hub_cache_seconds,
        )

    def start(self) -> None:
        """Migrate the database and serve until a signal."""
        from tessera_hub.api.app import create_app

        configure_logging()
        settings = self.settings()
        upgrade(settings.database_url)
        if self.local_proxy_token_file:
            register_local_cluster(settings.database_url, Path(self.local_proxy_token_file).read_text().strip())
        app = create_app(settings, background=self.background)
        server = Server(
            uvicorn.Config(
                app,
                host=self.host,
                port=self.port,
                log_config=None,
                access_log=False,
                proxy_headers=True,
                forwarded_allow_ips="127.0.0.1",
                timeout_graceful_shutdown=3,
                # The front door uses its connections again; one that is closed just then answers a person with 503.
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ),
            app.state.context.store.notifier,
        )
        server.run()


class Server(uvicorn.Server):
    """Uvicorn that ends the long polls before it waits for open requests."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wake whoever waits, then shut down as usual."""
        self._notifier.release()
        await super().shutdown(sockets)


def service_secret(data_dir: Path) -> bytes:
    """Return the key of run tokens and state cookies, made once and kept 0600; replicas share it by ``TESSERA_SECRET``."""
    if given := os.environ.get("TESSERA_SECRET"):
        return given.encode()
    path = data_dir / "secret"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return path.read_bytes()


def register_local_cluster(database_url: str, token: str) -> None:
    """Make or keep cluster ``local``, open for workspaces, with this bootstrap token."""
    from tessera_hub.api.routes.clusters import token_hash

    engine = create_engine(sync_url(database_url))
    with engine.begin() as connection:
        known = connection.execute(select(Cluster.id).where(Cluster.name == "local")).first()
        if known is None:
            values = {"name": "local", "workspaces": True, "capabilities": [], "created_at": datetime.now(UTC)}
            connection.execute(insert(Cluster).values(bootstrap_hash=token_hash(token), **values))
        else:
            connection.execute(update(Cluster).where(Cluster.id == known.id).values(bootstrap_hash=token_hash(token)))
    engine.dispose()
