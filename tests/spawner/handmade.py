"""The real service behind a hub double, with clusters that a test describes: for what forms offer and what is refused."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.hub_double import HubDouble
from tests.service import ServiceProcess
from tests.tenancy.clusters import HandProxy, bearer

ROOM = {"cpu": 64_000, "memory": 262_144}
PLAIN = {
    "name": "cpu",
    "total": ROOM,
    "free": ROOM,
    "shapes": [{"count": 1, "free_cpu": 64_000, "free_memory": 262_144}],
}


class DescribedProxy(HandProxy):
    """A cluster whose Proxy reports what the test says it has."""

    def __init__(
        self,
        service: ServiceProcess,
        operator: str,
        name: str,
        inventory: dict[str, Any],
        *,
        workspaces: bool = True,
        capabilities: tuple[str, ...] = (),
    ) -> None:
        super().__init__(service, operator, name)
        self.inventory = inventory
        self.capabilities = capabilities
        service.api(operator).patch(f"/clusters/{name}", json={"workspaces": workspaces}).raise_for_status()

    def introduction(self) -> dict[str, Any]:
        """Return the body that begins a new session."""
        found = super().introduction()
        return found | {"capabilities": [*found["capabilities"], *self.capabilities]}

    def report(self, *, inventory: bool = False) -> dict[str, Any]:
        """Return the body of the next sync."""
        return super().report() | ({"inventory": self.inventory} if inventory else {})


class HandmadeCentre:
    """Service, people, clusters. Ada and Bob are of tenant ``red``, Root operates it; no loop runs but the service's own."""

    def __init__(self, **traits: Any) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-handmade-")
        self.hub = HubDouble()
        self.hub.start()
        self.ada = self.hub.add_user("ada", "red")
        self.bob = self.hub.add_user("bob", "red")
        self.root = self.hub.add_user("root", "red", operator=True)
        self.spawner = self.hub.add_token("service", "spawner", ("custom:tessera:spawner",))
        self.service = ServiceProcess(Path(self.folder.name) / "service", self.hub, hub_cache_seconds=0.2, **traits)

    def __enter__(self) -> Self:
        self.service.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None) -> None:
        self.service.stop()
        self.hub.stop()
        self.folder.cleanup()

    def cluster(
        self,
        name: str,
        *pools: dict[str, Any],
        environments: tuple[str, ...] = ("default",),
        datasets: dict[str, Any] | None = None,
        workspaces: bool = True,
        capabilities: tuple[str, ...] = (),
    ) -> None:
        """Connect a cluster."""
        offered = {environment: {"kernels": ["python3"]} for environment in environments}
        inventory = {"pools": list(pools or (PLAIN,)), "environments": offered, "datasets": datasets or {}}
        proxy = DescribedProxy(self.service, self.root, name, inventory, workspaces=workspaces, capabilities=capabilities)
        proxy.begin()

    def join(self, person: str, group: str) -> None:
        """Put a person into a group of the hub's that is no tenant."""
        self.hub.groups.setdefault(group, {"name": group, "properties": {}})
        self.hub.users[person]["groups"].append(group)

    def leave(self, person: str, group: str) -> None:
        """Take a person out of a group."""
        self.hub.users[person]["groups"].remove(group)

    def page(self, token: str, path: str, form: dict[str, Any] | None = None) -> httpx.Response:
        """Return a page as a person sees it, in English; with *form* after it was posted."""
        headers = bearer(token) | {"Accept-Language": "en"}
        url = f"{self.service.url}{path}"
        if form is None:
            return httpx.get(url, headers=headers, timeout=30)
        return httpx.post(url, data=form, headers=headers, timeout=30)

    def granted(self, person: str, server: str = "") -> dict[str, Any]:
        """Return what the spawner is granted for a person's server."""
        answer = self.service.api(self.spawner).get("/spawner/reservations", params={"user": person, "server": server})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def choices(page: str, field: str) -> list[str]:
    """Return the values that a page's radio buttons of *field* offer."""
    return re.findall(rf'<input type="radio" name="{field}" id="[^"]*" value="([^"]*)"', page)


def boxes(page: str, field: str) -> list[str]:
    """Return the values that can be ticked in a page's boxes of *field*."""
    found = re.findall(rf'<input type="checkbox" name="{field}" id="[^"]*" value="([^"]*)"([^>]*)>', page)
    return [value for value, state in found if " disabled" not in state]


def workspace(**spec: Any) -> dict[str, Any]:
    """Return the body that asks for a small workspace."""
    resources = spec.pop("resources", {})
    roles = [{"resources": {"cpu_millicores": 200, "memory_mib": 512} | resources}]
    server = spec.pop("server", "")
    return {"server_name": server, "spec": {"name": server or "workspace", "kind": "workspace", "roles": roles} | spec}
