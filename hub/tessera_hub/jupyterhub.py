"""The hub's configuration in one call.

For a hub of your own, ``jupyterhub_config.py``::

    from tessera_hub.jupyterhub import configure
    configure(c, "/var/lib/tessera")

``tessera up`` writes such a file itself and runs service and local Proxy beside the hub; with ``managed=True`` (the default
here) the hub runs them as managed services.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tessera_hub.hub_pages import PERSON_SCOPES, prepare_pages
from tessera_hub.installation import SERVICE_PREFIX, Installation
from tessera_hub.processes import (
    DATASETS_FILE,
    SERVICE,
    node_program,
    proxy_command,
    proxy_program,
    service_command,
    tessera_environment,
)

SPAWNER_SERVICE: Final = "tessera-spawner"

CUSTOM_SCOPES: Final[dict[str, dict[str, Any]]] = {
    "custom:tessera:tasks:read": {"description": "See your tasks, queues and files in Tessera."},
    "custom:tessera:tasks:submit": {
        "description": "Submit and cancel tasks in Tessera.",
        "subscopes": ["custom:tessera:tasks:read"],
    },
    "custom:tessera:bills:read": {"description": "See costs and bills in Tessera."},
    "custom:tessera:operate": {"description": "Operate Tessera: clusters, queues, quotas, prices of all tenants."},
    "custom:tessera:spawner": {"description": "Report the state of workspaces to Tessera (the hub itself)."},
}
SERVICE_SCOPES: Final = ["read:users", "list:users", "read:groups", "list:groups", "servers", "read:servers"]


def _installation(data_dir: str | Path | Installation, values: Mapping[str, Any]) -> Installation:
    if isinstance(data_dir, Installation):
        return data_dir
    defaults: dict[str, Any] = {"owner": getpass.getuser(), "single_person": os.geteuid() != 0}
    return Installation(data_dir=Path(data_dir).resolve(), **defaults | dict(values))


def configure(c: Any, data_dir: str | Path | Installation, *, managed: bool = True, **values: Any) -> Installation:
    """Configure JupyterHub for Tessera on one machine and return the installation.

    Sets the sign-in, the spawner, the service with its scopes and roles, and the pages. Whatever is set on *c* afterwards
    wins, so a hub with another authenticator sets ``c.JupyterHub.authenticator_class`` after this call.

    Args:
        c: the configuration object of ``jupyterhub_config.py``.
        data_dir: data directory, or an installation.
        managed: the hub itself runs the service and the local Proxy.
        values: fields of :class:`~tessera_hub.installation.Installation`, such as ``port``.
    """
    here = _installation(data_dir, values)
    here.data_dir.mkdir(parents=True, exist_ok=True)
    here.keep_private()
    _hub(c, here, managed=managed)
    _sign_in(c, here)
    _spawner(c, here)
    _services(c, here, managed=managed)
    prepare_pages(c)
    return here


def _hub(c: Any, here: Installation, *, managed: bool) -> None:
    c.JupyterHub.bind_url = f"http://{here.host}:{here.port}/"
    c.JupyterHub.hub_ip = "127.0.0.1"
    c.JupyterHub.hub_port = here.hub_port
    c.JupyterHub.db_url = f"sqlite:///{here.data_dir / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret = bytes.fromhex(here.secret("hub-cookie"))
    c.JupyterHub.default_url = f"{SERVICE_PREFIX}/"
    c.JupyterHub.allow_named_servers = True
    if here.public_url.startswith("https:"):
        c.JupyterHub.tornado_settings = {"cookie_options": {"secure": True}}
    c.JupyterHub.concurrent_spawn_limit = 100
    c.JupyterHub.last_activity_interval = 60
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{here.proxy_api_port}"
    c.ConfigurableHTTPProxy.auth_token = here.secret("proxy-token")
    c.ConfigurableHTTPProxy.should_start = managed
    c.ConfigurableHTTPProxy.check_running_interval = 2
    if managed:
        c.ConfigurableHTTPProxy.pid_file = str(here.data_dir / "configurable-http-proxy.pid")
        if (node := node_program()) and (program := proxy_program()):
            c.ConfigurableHTTPProxy.command = [node, os.path.realpath(program)]


def _sign_in(c: Any, here: Installation) -> None:
    c.JupyterHub.authenticator_class = "tessera_hub.signin.PasswordAuthenticator"
    c.PasswordAuthenticator.key = here.secret("sign-in-key")
    c.PasswordAuthenticator.only_person = here.owner if here.single_person else ""
    c.PasswordAuthenticator.allow_all = True  # a password is given by the operator, who has one is welcome
    c.Authenticator.admin_users = {here.owner}
    c.JupyterHub.load_groups = groups_of(here.people_and_tenants())
    c.JupyterHub.custom_scopes = CUSTOM_SCOPES
    c.JupyterHub.load_roles = roles([here.owner])


def groups_of(people: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the hub's groups of *people*, person → tenant: one for each tenant."""
    groups: dict[str, dict[str, Any]] = {}
    for person, tenant in people.items():
        group = groups.setdefault(tenant, {"users": [], "properties": {"tessera.tenant": tenant}})
        group["users"].append(person)
    return groups


def roles(operators: Sequence[str]) -> list[dict[str, Any]]:
    """Return the hub's roles: everybody's, the *operators'*, the service's and the spawner's."""
    return [
        {"name": "user", "scopes": ["self", *PERSON_SCOPES]},
        {
            "name": "tessera-operator",
            "description": "Operates Tessera",
            "scopes": ["custom:tessera:operate", f"access:services!service={SERVICE}"],
            "users": list(operators),
        },
        {"name": "tessera-service", "scopes": SERVICE_SCOPES, "services": [SERVICE]},
        {
            "name": "tessera-spawner",
            "scopes": ["custom:tessera:spawner", f"access:services!service={SERVICE}"],
            "services": [SPAWNER_SERVICE],
        },
    ]


def _spawner(c: Any, here: Installation) -> None:
    c.JupyterHub.spawner_class = "tessera_spawner.local.LocalTesseraSpawner"
    spawner = c.LocalTesseraSpawner
    spawner.service_url = here.internal_service_url
    spawner.public_service_url = here.public_service_url
    spawner.service_token = here.secret("spawner-token")
    spawner.homes_dir = str(here.data_dir / "homes")
    spawner.log_dir = str(here.data_dir / "logs")
    spawner.single_person = here.single_person
    if (datasets := here.data_dir / DATASETS_FILE).exists():
        spawner.datasets_file = str(datasets)
    c.Spawner.server_token_scopes = ["users:activity!user", "access:servers!server", *PERSON_SCOPES]
    c.Spawner.default_url = "/lab"
    # The spawner's start waits until JupyterLab answers, which takes long on a machine with much to do.
    c.Spawner.start_timeout = 120
    c.Spawner.http_timeout = 30
    # A look at a local process costs nothing, and a workspace that died is paid for until it is seen.
    c.Spawner.poll_interval = 5


def _services(c: Any, here: Installation, *, managed: bool) -> None:
    service = service_entry(f"http://127.0.0.1:{here.service_port}", here.secret("service-token"))
    local: dict[str, Any] = {"name": "tessera-local", "display": False}
    if managed:
        service |= {"command": service_command(here), "environment": tessera_environment(here)}
        local |= {"command": proxy_command(here)}
    services = [service, {"name": SPAWNER_SERVICE, "api_token": here.secret("spawner-token"), "display": False}]
    c.JupyterHub.services = [*services, local] if managed else services


def service_entry(url: str, token: str) -> dict[str, Any]:
    """Return the hub's entry of the service at *url*, which comes to the hub with *token*."""
    return {
        "name": SERVICE,
        "url": url,
        "api_token": token,
        "display": False,
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": [*PERSON_SCOPES, "custom:tessera:operate"],
    }
