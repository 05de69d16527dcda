"""What the chart renders, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tessera_hub.chart import Settings
from tessera_hub.proxy.drivers.kubernetes import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.permissions import manifest
from tessera_hub.proxy.drivers.kubernetes.settings import KubernetesSettings
from tessera_hub.proxy.drivers.kubernetes.tenants import network_policy
from tests.helm.chart import (
    CHART,
    NAMESPACE,
    RELEASE,
    WORKSPACES,
    Document,
    containers,
    named,
    pod_templates,
    run,
    template,
    written,
)
from tests.helm.reach import End, passes

EXTERNAL = {"postgresql": {"enabled": False}, "database": {"existingSecret": "mine", "cidr": "192.0.2.7/32", "port": 6432}}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "ingress": {
        "ingress": {"enabled": True, "host": "hub.example.org", "tlsSecret": "hub-tls", "annotations": {"a.example.org/b": "1"}},
    },
    "own database and keys": {**EXTERNAL, "secrets": {"existingSecret": "keys"}},
    "no Proxy, no policies, no priorities": {
        "proxy": {"enabled": False},
        "networkPolicies": {"enabled": False},
        "priorityClasses": {"enabled": False},
    },
    "everything said": {
        "publicUrl": "https://hub.example.org",
        "contact": "IT desk: gpu-team@example.org #4",
        "currency": "EUR",
        "timeZone": "Europe/Berlin",
        "operators": ["ada", "bob"],
        "people": {"ada": "physics", "eve": "模型"},
        "environments": {"default": "tessera/notebook:1", "torch": "tessera/torch@sha256:" + "a" * 64},
        "environmentRules": {"torch": {"groups": ["physics"], "idle_seconds": 0, "card_idle_seconds": 60}},
        "datasets": {
            "birds": {"claim": "birds", "workspaces": True},
            "scans": {"claim": "scans", "folder": "v1", "description": "CT “raw”", "tenants": ["physics", "模型"]},
        },
        "images": {"registry": "images.example.org/x", "tag": "7", "pullSecrets": ["pull"]},
        "hub": {
            "extraConfig": {"10-first": "c.A.b = 1", "20-second": "if True:\n    c.A.c = 2"},
            "extraSecret": "sign-in",
            "egress": ["203.0.113.0/24"],
        },
        "frontDoor": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}, "sources": ["192.0.2.0/24"]},
        "proxy": {"egress": ["198.51.100.0/24"], "pullSecret": "pull", "plainGangs": True, "tenantQuota": {"pods": "7"}},
        "workspaces": {
            "namespace": "people",
            "home": {"size": "5Gi", "className": "fast"},
            "egress": ["198.51.100.0/24"],
            "quota": {},
        },
        "service": {"snapshotLimitBytes": 5_000_000_000, "storage": {"size": "1Ti", "className": "fast"}},
        "disruptions": {"allowed": 0},
        "networkPolicies": {
            "apiServer": {"cidrs": ["0.0.0.0/0", "::/0"], "ports": [443]},
            "dns": {"cidrs": ["169.254.20.10/32"], "ports": [53, 5353]},
        },
        "nodeSelector": {"role": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
    },
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Document]]:
    return {name: template(values, tmp_path_factory.mktemp("values")) for name, values in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_helm_lint_finds_nothing(case: str, tmp_path: Path) -> None:
    said = run("lint", str(CHART), "--strict", "--quiet", "--namespace", NAMESPACE, *written(CASES[case], tmp_path))
    assert "WARNING" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_to_the_strictest_level(rendered: dict[str, list[Document]], case: str) -> None:
    found = dict(pod_templates(rendered[case]))
    assert len(found) >= 3
    for name, pod in found.items():
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] >= 999, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert all("hostPort" not in port for port in container.get("ports", [])), name
    assert "hostPath" not in json.dumps(rendered[case])


@pytest.mark.parametrize("case", CASES)
def test_what_listens_is_looked_after(rendered: dict[str, list[Document]], case: str) -> None:
    for name, pod in pod_templates(rendered[case]):
        for container in pod["spec"]["containers"]:
            if container.get("ports"):
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), name


@pytest.mark.parametrize("case", CASES)
def test_only_hub_and_proxy_get_a_token_of_the_api_server(rendered: dict[str, list[Document]], case: str) -> None:
    tokens = {name for name, pod in pod_templates(rendered[case]) if pod["spec"]["automountServiceAccountToken"]}
    proxy = {"tessera-proxy"} if "Proxy" not in case else set()
    assert tokens == {"tessera-hub"} | proxy
    accounts = [d for d in rendered[case] if d["kind"] == "ServiceAccount"]
    assert {a["metadata"]["name"] for a in accounts} == {name for name, _pod in pod_templates(rendered[case])}
    assert all(a["automountServiceAccountToken"] is False for a in accounts)


@pytest.mark.parametrize("case", CASES)
def test_each_component_sees_only_its_own_keys(rendered: dict[str, list[Document]], case: str) -> None:
    seen: dict[str, set[str]] = {}
    for name, pod in pod_templates(rendered[case]):
        keys = seen.setdefault(name.removeprefix("tessera-"), set())
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume and volume["name"] != "extra":  # the operator's own
                keys |= {item["key"] for item in volume["secret"]["items"]}
        for container in containers(pod["spec"]):
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    keys.add(variable["valueFrom"]["secretKeyRef"]["key"])
            assert "envFrom" not in container
    allowed = {
        "hub": {"hub-cookie", "proxy-token", "service-token", "spawner-token", "sign-in-key", "hub-database-url"},
        "service": {"service-token", "service-key", "service-database-url", "local-proxy-token"},
        "front-door": {"proxy-token"},
        "proxy": {"local-proxy-token"},
        "postgresql": {"postgresql-hub-password", "postgresql-service-password"},
    }
    for component, keys in seen.items():
        assert keys <= allowed[component], component


def test_words_networks_and_a_secret_of_the_operators_arrive(rendered: dict[str, list[Document]]) -> None:
    documents = rendered["everything said"]
    pods = dict(pod_templates(documents))
    assert "--TesseraService.contact=IT desk: gpu-team@example.org #4" in pods["tessera-service"]["spec"]["containers"][0]["args"]
    [extra] = [v for v in pods["tessera-hub"]["spec"]["volumes"] if v["name"] == "extra"]
    assert extra["secret"]["secretName"] == "sign-in"
    assert {"name": "extra", "mountPath": "/run/tessera-extra", "readOnly": True} in (
        pods["tessera-hub"]["spec"]["containers"][0]["volumeMounts"]
    )
    egress = named(documents, "NetworkPolicy", "tessera-hub")["spec"]["egress"]
    assert {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]} in egress
    names = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    assert egress[0]["to"] == [names, {"ipBlock": {"cidr": "169.254.20.10/32"}}]
    assert [(p["protocol"], p["port"]) for p in egress[0]["ports"]] == [("UDP", 53), ("TCP", 53), ("UDP", 5353), ("TCP", 5353)]
    # A node would else put its own address in the place of the caller's.
    assert named(documents, "Service", "tessera-front-door")["spec"]["externalTrafficPolicy"] == "Local"
    assert "externalTrafficPolicy" not in named(rendered["default"], "Service", "tessera-front-door")["spec"]


def test_keys_are_hexadecimal_and_differ(rendered: dict[str, list[Document]]) -> None:
    [secret] = [d for d in rendered["default"] if d["kind"] == "Secret"]
    values = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    keys = [value for name, value in values.items() if not name.endswith("-url")]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert len(set(keys)) == len(keys) == 9
    assert values["hub-database-url"] == (
        f"postgresql+psycopg://hub:{values['postgresql-hub-password']}@tessera-postgresql.{NAMESPACE}.svc:5432/jupyterhub"
    )
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_no_key_is_made_where_they_are_given(rendered: dict[str, list[Document]]) -> None:
    documents = rendered["own database and keys"]
    assert not [d for d in documents if d["kind"] in ("Secret", "StatefulSet")]
    text = json.dumps([pod for _name, pod in pod_templates(documents)])
    assert '"name": "keys"' in text
    assert f'"{RELEASE}-secrets"' not in text


def test_the_settings_of_hub_and_proxy_are_those_they_read(rendered: dict[str, list[Document]]) -> None:
    for case, documents in rendered.items():
        settings = Settings.model_validate_json(named(documents, "ConfigMap", "tessera-hub")["data"]["settings.json"])
        assert settings.people["admin" if case != "everything said" else "bob"] == "default"
        if "no Proxy" not in case:
            text = named(documents, "ConfigMap", "tessera-proxy")["data"]["settings.toml"]
            KubernetesSettings.model_validate(tomllib.loads(text))
    documents = rendered["everything said"]
    hub = named(documents, "ConfigMap", "tessera-hub")["data"]
    settings = Settings.model_validate_json(hub["settings.json"])
    assert settings.people == {"ada": "physics", "eve": "模型", "bob": "default"}
    assert settings.public_url == "https://hub.example.org"
    assert settings.workspaces.namespace == "people"
    assert settings.workspaces.home.class_name == "fast"
    assert settings.front_door_url == f"http://tessera-front-door.{NAMESPACE}.svc:8080"
    compile(hub["jupyterhub_config.py"], "jupyterhub_config.py", "exec")
    assert hub["jupyterhub_config.py"].index("c.A.b = 1") < hub["jupyterhub_config.py"].index("c.A.c = 2")
    proxy = KubernetesSettings.model_validate(
        tomllib.loads(named(documents, "ConfigMap", "tessera-proxy")["data"]["settings.toml"])
    )
    assert proxy.egress == ["198.51.100.0/24"]
    assert proxy.tenant_quota["pods"] == "7"
    assert proxy.namespace == NAMESPACE
    assert set(proxy.environments) == {"default", "torch"}
    scans = proxy.datasets["scans"]
    assert (scans.claim, scans.folder, scans.description, scans.tenants) == ("scans", "v1", "CT “raw”", ["physics", "模型"])
    assert {name: found.workspaces for name, found in proxy.datasets.items()} == {"birds": True, "scans": False}
    assert set(settings.workspaces.datasets) == {"birds"}, "workspaces mount no others"
    [service] = [pod for name, pod in pod_templates(documents) if name == "tessera-service"]
    assert "--TesseraService.snapshot_limit_bytes=5000000000" in service["spec"]["containers"][0]["args"]
    given = {entry["name"]: entry.get("value") for entry in service["spec"]["containers"][0]["env"]}
    assert json.loads(given["TESSERA_ENVIRONMENT_RULES"]) == {
        "torch": {"groups": ["physics"], "idle_seconds": 0, "card_idle_seconds": 60}
    }
    assert "--TesseraService.card_idle_seconds=1800" in service["spec"]["containers"][0]["args"]


def test_the_proxy_has_the_rights_of_its_manifest_and_no_others(rendered: dict[str, list[Document]]) -> None:
    kept = json.loads((CHART / "files" / "proxy-rights.json").read_text("utf-8"))["items"]
    assert kept == manifest("PREFIX"), (
        "write it anew: tessera cluster manifest --prefix PREFIX > helm/tessera/files/proxy-rights.json"
    )
    documents = rendered["default"]
    ours = [d for d in documents if d["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "proxy"]
    for wanted in manifest("tessera"):
        if wanted["kind"] in ("Namespace", "ServiceAccount"):
            continue
        found = named(ours, wanted["kind"], wanted["metadata"]["name"])
        assert {**found, "metadata": wanted["metadata"]} == wanted
    rights = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    assert sum(d["kind"] in rights for d in ours) == sum(d["kind"] in rights for d in manifest("tessera"))


def test_the_hub_changes_things_in_the_workspaces_namespace_only(rendered: dict[str, list[Document]]) -> None:
    documents = rendered["default"]
    bound = [d for d in documents if d["kind"].endswith("RoleBinding") and d["subjects"][0]["name"] == "tessera-hub"]
    assert {(d["kind"], d["metadata"].get("namespace")) for d in bound} == {
        ("RoleBinding", WORKSPACES),
        ("ClusterRoleBinding", None),
    }
    [everywhere] = [d for d in documents if d["kind"] == "ClusterRole" and d["metadata"]["name"] == f"{NAMESPACE}-tessera-hub"]
    assert {verb for rule in everywhere["rules"] for verb in rule["verbs"]} == {"get", "list"}
    assert "secrets" not in json.dumps(everywhere)
    others = {d["subjects"][0]["name"] for d in documents if d["kind"].endswith("RoleBinding")}
    assert others == {"tessera-hub", "tessera-proxy"}


def ends() -> dict[str, End]:
    """Return who might talk to whom."""

    def pod(component: str) -> End:
        labels = {
            "app.kubernetes.io/name": "tessera",
            "app.kubernetes.io/instance": RELEASE,
            "app.kubernetes.io/component": component,
        }
        return End(NAMESPACE, labels, {"kubernetes.io/metadata.name": NAMESPACE})

    tenant = {"kubernetes.io/metadata.name": "tessera-tenant-1", "tessera.io/site": "tessera", "tessera.io/tenant-id": "1"}
    neighbour = tenant | {"kubernetes.io/metadata.name": "tessera-tenant-2", "tessera.io/tenant-id": "2"}
    return {
        **{name: pod(name) for name in ("hub", "service", "front-door", "proxy", "postgresql")},
        "workspace": End(WORKSPACES, {"hub.jupyter.org/username": "ada"}, {"kubernetes.io/metadata.name": WORKSPACES}),
        "other workspace": End(WORKSPACES, {"hub.jupyter.org/username": "eve"}, {"kubernetes.io/metadata.name": WORKSPACES}),
        "run": End("tessera-tenant-1", {}, tenant),
        "other tenant's run": End("tessera-tenant-2", {}, neighbour),
        "stranger": End("default", {}, {"kubernetes.io/metadata.name": "default"}),
        "API server": End(address="10.96.0.1"),
        "metadata": End(address="169.254.169.254"),
        "node": End(address="192.168.7.7"),
        "internet": End(address="203.0.113.7"),
    }


PORTS = {
    "hub": 8081,
    "service": 8095,
    "front-door": 8000,
    "proxy": 8000,
    "postgresql": 5432,
    "workspace": 8888,
    "other workspace": 8888,
    "run": 29500,
    "other tenant's run": 29500,
    "API server": 443,
    "metadata": 80,
    "node": 10250,
    "internet": 443,
}
REACHED = {
    "hub": {"service", "front-door API", "postgresql", "workspace", "other workspace", "API server", "internet"},
    "service": {"hub", "postgresql"},
    "front-door": {"hub", "service", "workspace", "other workspace"},
    "proxy": {"service", "API server"},
    "postgresql": set(),
    "workspace": {"hub", "front-door", "internet"},
    "run": {"service", "front-door", "internet"},
    "stranger": {"front-door", "API server", "metadata", "node", "internet", "run", "other tenant's run"}
    - {"run", "other tenant's run"},
    "internet": {"front-door"},
}


@pytest.mark.parametrize("origin", REACHED)
def test_who_reaches_whom(rendered: dict[str, list[Document]], origin: str) -> None:
    policies = [d for d in rendered["default"] if d["kind"] == "NetworkPolicy"]
    url = f"http://tessera-service.{NAMESPACE}.svc:8095/services/tessera"
    policies += [network_policy(name, KubernetesOptions(service_url=url)) for name in ("tessera-tenant-1", "tessera-tenant-2")]
    everybody = ends()
    reached = {
        name
        for name, port in PORTS.items()
        if name != origin
        and (everybody[origin].namespace or everybody[name].namespace)
        and passes(policies, everybody[origin], everybody[name], port)
    }
    if passes(policies, everybody[origin], everybody["front-door"], 8001):
        reached.add("front-door API")
    assert reached == REACHED[origin]


def test_a_database_elsewhere_is_reached_at_its_address_only(rendered: dict[str, list[Document]]) -> None:
    policies = [d for d in rendered["own database and keys"] if d["kind"] == "NetworkPolicy"]
    for component in ("hub", "service"):
        assert passes(policies, ends()[component], End(address="192.0.2.7"), 6432)
        assert not passes(policies, ends()[component], End(address="192.0.2.8"), 6432)


def test_an_api_server_anywhere_is_not_where_a_machine_s_credentials_are(rendered: dict[str, list[Document]]) -> None:
    policies = [d for d in rendered["everything said"] if d["kind"] == "NetworkPolicy"]
    for component in ("hub", "proxy"):
        assert passes(policies, ends()[component], End(address="203.0.113.7"), 443)
        for closed in ("169.254.169.254", "127.0.0.1", "fd00:ec2::254", "fe80::1"):
            assert not passes(policies, ends()[component], End(address=closed), 443), closed


def test_the_front_door_can_be_closed_to_all_but_some(rendered: dict[str, list[Document]]) -> None:
    policies = [d for d in rendered["everything said"] if d["kind"] == "NetworkPolicy"]
    door = ends()["front-door"]
    people = End("people", {}, {"kubernetes.io/metadata.name": "people"})
    assert passes(policies, End(address="192.0.2.9"), door, 8000)
    assert passes(policies, people, door, 8000)
    assert not passes(policies, End(address="203.0.113.7"), door, 8000)


def test_people_do_not_share_a_namespace_with_the_keys_and_it_is_kept(rendered: dict[str, list[Document]]) -> None:
    for documents in rendered.values():
        [namespace] = [d for d in documents if d["kind"] == "Namespace"]
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert namespace["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert namespace["metadata"]["name"] != NAMESPACE


def test_an_ingress_leads_to_the_front_door(rendered: dict[str, list[Document]]) -> None:
    ingress = named(rendered["ingress"], "Ingress", "tessera-front-door")
    assert ingress["spec"]["tls"] == [{"hosts": ["hub.example.org"], "secretName": "hub-tls"}]
    [path] = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "tessera-front-door", "port": {"name": "http"}}
    settings = json.loads(named(rendered["ingress"], "ConfigMap", "tessera-hub")["data"]["settings.json"])
    assert settings["public_url"] == "https://hub.example.org"


def test_queues_of_volcano_are_made_where_it_is(tmp_path: Path) -> None:
    queues = [
        {"name": "gpu", "weight": 4, "capability": {"cpu": 8, "nvidia.com/gpu": "2"}, "reclaimable": False},
        {"name": "rest"},
    ]
    documents = template({"volcano": {"queues": queues}}, tmp_path, "--api-versions", "scheduling.volcano.sh/v1beta1")
    assert named(documents, "Queue", "gpu")["spec"] == {
        "weight": 4,
        "reclaimable": False,
        "capability": {"cpu": 8, "nvidia.com/gpu": "2"},
    }
    assert named(documents, "Queue", "rest")["spec"] == {"weight": 1, "reclaimable": True}


def test_every_object_bears_the_chart_s_labels(rendered: dict[str, list[Document]]) -> None:
    for documents in rendered.values():
        for document in documents:
            labels = document["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == "tessera", document["metadata"]["name"]
            assert labels["app.kubernetes.io/instance"] == RELEASE
