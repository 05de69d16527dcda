"""The hub's configuration where the Helm chart runs it: hub, service, front door and Proxy are pods of their own.

The chart's ``jupyterhub_config.py`` is::

    from tessera_hub.chart import configure

    configure(c)

Its values come as ``settings.json`` (:class:`Settings`), its keys as files, the database's URL in ``DATABASE_URL``.

``python -m tessera_hub.chart wait-for-database`` returns when the database of ``DATABASE_URL`` takes connections;
``python -m tessera_hub.chart password NAME…`` prints people's passwords, in the hub's pod.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from tessera_hub.installation import SERVICE_PREFIX
from tessera_hub.pods import start_as_pods
from tessera_hub.proxy.drivers.datasets import ClaimDataset
from tessera_hub.schemas.bounds import MOST_DATASETS, DatasetName
from tessera_hub.schemas.resources import Strict

SETTINGS: Final = Path("/etc/tessera/settings.json")
KEYS: Final = Path("/run/tessera-secrets")
HUB_PORT: Final = 8081
DATABASE_SECONDS: Final = 300.0
SERVICE_SECONDS: Final = 10
"""How long a hub that starts waits for the service before it serves people without."""


class Home(Strict):
    """The volume of a person's home."""

    size: str
    """Kubernetes quantity."""
    class_name: str = ""
    """Storage class; empty: the cluster's default."""


class Workspaces(Strict):
    """Where people's servers run."""

    namespace: str
    environments: dict[str, str] = Field(min_length=1)
    """Environment name → image."""
    datasets: dict[DatasetName, ClaimDataset] = Field(default_factory=dict, max_length=MOST_DATASETS)
    """Those that workspaces mount, too."""
    home: Home
    priority_class: str = ""
    pull_secrets: list[str] = Field(default_factory=list)
    site: str
    """The Proxy's prefix of namespaces, by which it knows the workspaces among the pods."""


class Settings(Strict):
    """What the chart's values say to the hub."""

    public_url: str = ""
    """Address that people type; empty: not known, links stay on the page's own host."""
    hub_url: str
    """The hub as pods reach it."""
    front_door_url: str
    """The front door as pods reach it."""
    front_door_api_url: str
    service_url: str
    """The service as pods reach it, without its path."""
    operators: list[str] = Field(min_length=1)
    people: dict[str, str]
    """Person → tenant."""
    workspaces: Workspaces


def configure(c: Any, settings: Path = SETTINGS, keys: Path = KEYS) -> Settings:
    """Configure JupyterHub as the chart says and return its settings; what is set on *c* afterwards wins.

    Raises:
        pydantic.ValidationError: the settings are not those of this version of the chart.
        OSError, KeyError: a key or the database's URL is missing.
    """
    from tessera_hub.hub_pages import prepare_pages

    found = Settings.model_validate_json(settings.read_bytes())
    _hub(c, found, keys)
    _sign_in(c, found, keys)
    _services(c, found, keys)
    _spawner(c, found, keys)
    prepare_pages(c)
    return found


def _key(keys: Path, name: str) -> str:
    return (keys / name).read_text("ascii").strip()


def _hub(c: Any, here: Settings, keys: Path) -> None:
    c.JupyterHub.bind_url = "http://:8000/"
    c.JupyterHub.hub_bind_url = f"http://:{HUB_PORT}"
    c.JupyterHub.hub_connect_url = here.hub_url
    if here.public_url:
        c.JupyterHub.public_url = f"{here.public_url}/"
    if here.public_url.startswith("https:"):
        c.JupyterHub.tornado_settings = {"cookie_options": {"secure": True}}
    c.JupyterHub.db_url = os.environ["DATABASE_URL"]
    c.JupyterHub.upgrade_db = True
    c.JupyterHub.cookie_secret = bytes.fromhex(_key(keys, "hub-cookie"))
    c.JupyterHub.default_url = f"{SERVICE_PREFIX}/"
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.concurrent_spawn_limit = 100
    c.JupyterHub.last_activity_interval = 60
    # People work on while the hub's pod is replaced.
    c.JupyterHub.cleanup_proxy = False
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = here.front_door_api_url
    c.ConfigurableHTTPProxy.auth_token = _key(keys, "proxy-token")


def _sign_in(c: Any, here: Settings, keys: Path) -> None:
    from tessera_hub.jupyterhub import CUSTOM_SCOPES, groups_of, roles

    c.JupyterHub.authenticator_class = "tessera_hub.signin.PasswordAuthenticator"
    c.PasswordAuthenticator.key = _key(keys, "sign-in-key")
    c.PasswordAuthenticator.allow_all = True  # a password is given by the operator, who has one is welcome
    c.Authenticator.admin_users = set(here.operators)
    c.JupyterHub.load_groups = groups_of(here.people)
    c.JupyterHub.custom_scopes = CUSTOM_SCOPES
    c.JupyterHub.load_roles = roles(here.operators)


def _services(c: Any, here: Settings, keys: Path) -> None:
    from tessera_hub.jupyterhub import SPAWNER_SERVICE, service_entry

    service = service_entry(here.service_url, _key(keys, "service-token")) | {"timeout": SERVICE_SECONDS}
    c.JupyterHub.services = [service, {"name": SPAWNER_SERVICE, "api_token": _key(keys, "spawner-token"), "display": False}]


def _spawner(c: Any, here: Settings, keys: Path) -> None:
    from tessera_hub.hub_pages import PERSON_SCOPES

    places = here.workspaces
    start_as_pods(
        c,
        service_url=f"{here.service_url}{SERVICE_PREFIX}",
        public_service_url=f"{here.public_url}{SERVICE_PREFIX}",
        # By the front door, like everybody: a workspace has no other way to the service.
        pod_service_url=f"{here.front_door_url}{SERVICE_PREFIX}",
        service_token=_key(keys, "spawner-token"),
        environments=places.environments,
        datasets={name: declared.model_dump(mode="json") for name, declared in places.datasets.items()},
        namespace=places.namespace,
        site=places.site,
        home_size=places.home.size,
        storage_class=places.home.class_name,
    )
    spawner = c.TesseraKubeSpawner
    spawner.image_pull_secrets = places.pull_secrets
    spawner.priority_class_name = places.priority_class
    spawner.automount_service_account_token = False
    c.Spawner.server_token_scopes = ["users:activity!user", "access:servers!server", *PERSON_SCOPES]
    c.Spawner.default_url = "/lab"
    c.Spawner.http_timeout = 60


def wait_for_database(url: str, seconds: float = DATABASE_SECONDS) -> None:
    """Return when the PostgreSQL at *url* takes a connection.

    Raises:
        TimeoutError: it did not within *seconds*; the message has its last answer, without the password.
    """
    import psycopg
    from sqlalchemy import make_url

    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(address, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the database does not answer: {error}") from None
            time.sleep(1)
        else:
            return


def print_passwords(names: Sequence[str], keys: Path) -> None:
    """Print the password of each person."""
    from tessera_hub.passwords import password_of

    key = _key(keys, "sign-in-key")
    for name in names:
        sys.stdout.write(f"{name} {password_of(key, name.lower())}\n")


def main(arguments: Sequence[str]) -> int:
    """Do what the first argument says; return the exit status."""
    match arguments:
        case ["wait-for-database"]:
            wait_for_database(os.environ["DATABASE_URL"])
        case ["password", _name, *_names]:
            print_passwords(arguments[1:], KEYS)
        case _:
            sys.stderr.write("usage: python -m tessera_hub.chart wait-for-database | password NAME…\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
