"""The hub's configuration where the chart runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from jupyterhub.auth import DummyAuthenticator
from pydantic import ValidationError
from sqlalchemy import create_engine, text
from traitlets.config import Config

from tessera_hub.chart import configure, main, wait_for_database
from tessera_hub.passwords import password_of
from tessera_hub.signin import PasswordAuthenticator

KEYS = {name: format(number, "064x") for number, name in enumerate(("hub-cookie", "proxy-token", "service-token"), 1)}
KEYS |= {"spawner-token": "d" * 64, "sign-in-key": "e" * 64}
SETTINGS: dict[str, Any] = {
    "public_url": "https://hub.example.org",
    "hub_url": "http://t-hub.ns.svc:8081",
    "front_door_url": "http://t-front-door.ns.svc:80",
    "front_door_api_url": "http://t-front-door-api.ns.svc:8001",
    "service_url": "http://t-service.ns.svc:8095",
    "operators": ["ada"],
    "people": {"ada": "physics", "bob": "physics", "eve": "模型"},
    "workspaces": {
        "namespace": "people",
        "environments": {"default": "image:1"},
        "datasets": {"birds": {"claim": "birds", "folder": "v1", "tenants": ["physics"], "workspaces": True}},
        "home": {"size": "5Gi", "class_name": "fast"},
        "priority_class": "t-workspaces",
        "pull_secrets": ["pull"],
        "site": "tessera",
    },
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    settings, keys = tmp_path / "settings.json", tmp_path / "keys"
    settings.write_text(json.dumps(SETTINGS), "utf-8")
    keys.mkdir()
    for name, value in KEYS.items():
        (keys / name).write_text(value)
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://hub:x@db/jupyterhub")
    return settings, keys


def configured(places: tuple[Path, Path]) -> Any:
    found = Config()
    configure(found, *places)
    return found


def test_the_hub_speaks_with_the_other_pods_and_leaves_servers_alone(places: tuple[Path, Path]) -> None:
    hub = JupyterHub(config=configured(places))
    assert hub.hub_connect_url == "http://t-hub.ns.svc:8081"
    assert hub.hub_bind_url == "http://:8081"
    assert hub.public_url == "https://hub.example.org/"
    assert hub.db_url == "postgresql+psycopg://hub:x@db/jupyterhub"
    assert (hub.cleanup_servers, hub.cleanup_proxy, hub.upgrade_db) == (False, False, True)
    assert hub.cookie_secret == bytes.fromhex(KEYS["hub-cookie"])
    assert hub.tornado_settings == {"cookie_options": {"secure": True}}
    assert {service["name"]: service["api_token"] for service in hub.services} == {
        "tessera": KEYS["service-token"],
        "tessera-spawner": KEYS["spawner-token"],
    }
    assert hub.services[0]["url"] == "http://t-service.ns.svc:8095"
    assert "command" not in hub.services[0]
    proxy = hub.proxy_class(config=hub.config)
    assert (proxy.should_start, proxy.api_url) == (False, "http://t-front-door-api.ns.svc:8001")
    assert proxy.auth_token == KEYS["proxy-token"]


def test_who_has_a_password_is_welcome_and_another_authenticator_keeps_its_rules(places: tuple[Path, Path]) -> None:
    found = configured(places)
    assert PasswordAuthenticator(config=found).allow_all
    other = DummyAuthenticator(config=found, allowed_users={"ada"})
    assert not other.allow_all
    assert not other.check_allowed("mallory", {"name": "mallory"})


def test_people_are_of_their_tenants_and_operators_operate(places: tuple[Path, Path]) -> None:
    found = configured(places)
    groups = found.JupyterHub.load_groups
    assert groups["physics"]["users"] == ["ada", "bob"]
    assert groups["模型"]["properties"] == {"tessera.tenant": "模型"}
    operators = [role for role in found.JupyterHub.load_roles if role["name"] == "tessera-operator"]
    assert operators[0]["users"] == ["ada"]
    assert found.Authenticator.admin_users == {"ada"}


def test_a_workspace_is_a_pod_in_its_own_namespace_without_a_token_of_the_api_server(places: tuple[Path, Path]) -> None:
    from tessera_spawner.kubernetes import TesseraKubeSpawner

    found = configured(places)
    hub = JupyterHub(config=found)
    assert hub.spawner_class is TesseraKubeSpawner
    spawner = found.TesseraKubeSpawner
    for name in spawner:
        assert TesseraKubeSpawner.class_traits(config=True).get(name) is not None, f"{name} is no option of the spawner"
    assert spawner.namespace == "people"
    assert spawner.environments == {"default": "image:1"}
    assert spawner.automount_service_account_token is False
    birds = spawner.datasets["birds"]
    assert (birds["claim"], birds["folder"], birds["tenants"]) == ("birds", "v1", ["physics"])
    assert spawner.service_url == "http://t-service.ns.svc:8095/services/tessera"
    assert spawner.pod_service_url == "http://t-front-door.ns.svc:80/services/tessera"
    assert spawner.public_service_url == "https://hub.example.org/services/tessera"
    assert (spawner.storage_capacity, spawner.storage_class) == ("5Gi", "fast")


def test_without_a_public_address_links_stay_on_the_page_s_host(places: tuple[Path, Path]) -> None:
    places[0].write_text(json.dumps({**SETTINGS, "public_url": ""}), "utf-8")
    found = configured(places)
    assert found.TesseraKubeSpawner.public_service_url == "/services/tessera"
    assert "public_url" not in found.JupyterHub


@pytest.mark.parametrize("change", [{"operators": []}, {"unknown": 1}, {"service_url": None}])
def test_settings_of_another_chart_are_refused(places: tuple[Path, Path], change: dict[str, Any]) -> None:
    places[0].write_text(json.dumps({**SETTINGS, **change}), "utf-8")
    with pytest.raises(ValidationError):
        configured(places)


def test_a_missing_key_is_named(places: tuple[Path, Path]) -> None:
    (places[1] / "proxy-token").unlink()
    with pytest.raises(FileNotFoundError, match="proxy-token"):
        configured(places)


def test_a_database_that_answers_is_not_waited_for(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_database(postgres_database, 5)
    monkeypatch.setenv("DATABASE_URL", postgres_database.replace("postgresql://", "postgresql+psycopg://"))
    assert main(["wait-for-database"]) == 0
    engine = create_engine(postgres_database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_one_that_does_not_answer_is_given_up_without_its_password() -> None:
    with pytest.raises(TimeoutError, match="does not answer") as told:
        wait_for_database("postgresql+psycopg://hub:hidden-word@127.0.0.1:1/jupyterhub", 0)
    assert "hidden-word" not in str(told.value)


def test_passwords_are_told_to_who_may_read_the_key(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tessera_hub.chart.KEYS", places[1])
    assert main(["password", "ada", "Bob"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"ada {password_of(KEYS['sign-in-key'], 'ada')}",
        f"Bob {password_of(KEYS['sign-in-key'], 'bob')}",
    ]
    assert main(["password"]) == 2
