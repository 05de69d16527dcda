"""Workspaces: what a person asks for, what a spawner is granted and what it reports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, field_validator

from .bounds import finite
from .resources import Strict
from .tasks import TaskSpec

DEFAULT_NAME: Final = "workspace"
"""Name of the task of a person's default server."""


class WorkspaceRequest(Strict):
    """Ask for a workspace; the service starts the server through the hub when it is granted."""

    server_name: Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,29})?$")] = ""
    """Name of the JupyterHub server, and of the task; empty: the person's default server, whose task is named ``workspace``."""
    spec: TaskSpec

    @field_validator("server_name")
    @classmethod
    def _own(cls, name: str) -> str:
        if name == DEFAULT_NAME:
            raise ValueError(f"{DEFAULT_NAME!r} stands for the default server: leave the name out, or choose another")
        return name


class Reservation(Strict):
    """What the service grants to a server. Only with ``state`` ``granted`` may anything start."""

    state: Literal["granted", "waiting", "none"]
    task_id: str = ""
    run_id: str = ""
    lease_token: str = ""
    principal_id: int = 0
    tenant_id: int = 0
    tenant: str = ""
    cluster: str = ""
    queue: str = ""
    """Path of the queue."""
    spec: TaskSpec | None = None
    card_class: str | None = None
    expires_at: datetime | None = None


class ActivityReport(Strict):
    """What a workspace says of itself: since when no kernel, no card and no program in a terminal has worked in it."""

    idle_seconds: Annotated[int, Field(ge=0, le=10**9)]


class Idleness(Strict):
    """How a workspace stands. It is stopped at ``stops_at`` unless it is used or kept before."""

    active_at: datetime
    warned_at: datetime | None = None
    stops_at: datetime | None = None
    kept_until: datetime | None = None


class WorkspaceState(Strict):
    """How the server fares, reported by its spawner. A repeat is harmless."""

    lease_token: str
    phase: Literal["STARTING", "RUNNING", "SUCCEEDED", "FAILED"]
    native_id: Annotated[str, Field(max_length=255)] | None = None
    """The engine's own unique id, ``<pid>:<start time>`` or a pod's uid."""
    reason: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]*$", max_length=80)] | None = None
    detail: dict[str, JsonValue] = Field(default_factory=dict)
    at: datetime
    _detail = field_validator("detail")(finite)
