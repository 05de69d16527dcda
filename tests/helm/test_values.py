"""What the chart refuses, and how its values are explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera_hub import __version__
from tests.helm.chart import (
    API_SERVER,
    CHART,
    KUBERNETES,
    NAMESPACE,
    Refused,
    default_values,
    leaves,
    run,
    template,
    written,
)
from tests.helm.values_table import rows, table

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"currency": "euro"}, "/currency"),
    ({"publicUrl": "hub.example.org"}, "/publicUrl"),
    ({"publicUrl": "https://hub.example.org/"}, "/publicUrl"),
    ({"operators": []}, "/operators"),
    ({"operators": ["Ada Lovelace"]}, "/operators/0"),
    ({"people": {"ada": ""}}, "/people/ada"),
    ({"environments": {"default": "no image"}}, "/environments/default"),
    ({"environments": {"default": None}}, "default"),
    ({"service": {"idleGraceSeconds": 5}}, "/service/idleGraceSeconds"),
    ({"environmentRules": {"torch": {"groups": []}}}, "/environmentRules/torch/groups"),
    ({"environmentRules": {"torch": {"group": ["physics"]}}}, "/environmentRules/torch"),
    ({"datasets": {"Birds": {"claim": "birds"}}}, "Birds"),
    ({"datasets": {"birds": {}}}, "/datasets/birds"),
    ({"datasets": {"birds": {"claim": "birds", "folder": "/v1"}}}, "/datasets/birds/folder"),
    ({"replicas": 3}, "replicas"),
    ({"hub": {"replicas": 3}}, "replicas"),
    ({"hub": {"extraSecret": "No name"}}, "/hub/extraSecret"),
    ({"hub": {"egress": ["ldap.example.org"]}}, "/hub/egress/0"),
    ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
    ({"images": {"tag": "a b"}}, "/images/tag"),
    ({"service": {"storage": {"size": "much"}}}, "/service/storage/size"),
    ({"service": {"storage": {"size": "0Gi"}}}, "/service/storage/size"),
    ({"service": {"snapshotLimitBytes": "1Gi"}}, "/service/snapshotLimitBytes"),
    ({"service": {"reservationSeconds": 1}}, "/service/reservationSeconds"),
    ({"frontDoor": {"type": "ExternalName"}}, "/frontDoor/type"),
    ({"frontDoor": {"port": 0}}, "/frontDoor/port"),
    ({"frontDoor": {"sources": ["everywhere"]}}, "/frontDoor/sources/0"),
    ({"proxy": {"namespacePrefix": "Tessera"}}, "/proxy/namespacePrefix"),
    ({"proxy": {"user": 0}}, "/proxy/user"),
    ({"proxy": {"egress": ["10.0.0.0/33"]}}, "/proxy/egress/0"),
    ({"hub": {"resources": {"limits": {"memory": "2 GB"}}}}, "/hub/resources/limits/memory"),
    ({"networkPolicies": {"apiServer": {"ports": []}}}, "/networkPolicies/apiServer/ports"),
    ({"networkPolicies": {"dns": {"ports": []}}}, "/networkPolicies/dns/ports"),
    ({"priorityClasses": {"system": 2_000_000_000}}, "/priorityClasses/system"),
    ({"disruptions": {"allowed": 2}}, "/disruptions/allowed"),
    ({"volcano": {"queues": [{"name": "a", "weight": 0}]}}, "/volcano/queues/0/weight"),
    ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
    ({"postgresql": {"enabled": False}}, "database.existingSecret must name a Secret"),
    ({"database": {"existingSecret": "mine"}}, "not both"),
    ({"secrets": {"existingSecret": "keys"}}, "does not go with postgresql.enabled"),
    ({"workspaces": {"namespace": NAMESPACE}}, "must not be the chart's own namespace"),
    ({"workspaces": {"namespace": "tessera-tenant-7"}}, "must not begin like the tenants' namespaces"),
    ({"volcano": {"queues": [{"name": "a"}]}}, "has no Volcano"),
    ({"networkPolicies": {"apiServer": {"cidrs": []}}}, "networkPolicies.apiServer.cidrs: name the networks"),
    ({"networkPolicies": {"apiServer": {"cidrs": ["10.96.0.1"]}}}, "/networkPolicies/apiServer/cidrs/0"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_a_bad_value_is_refused_with_its_place(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as told:
        template(values, tmp_path)
    assert message in str(told.value)


def test_a_long_release_name_is_refused(tmp_path: Path) -> None:
    values = written(API_SERVER, tmp_path)
    with pytest.raises(Refused, match="40 characters at most"):
        run("template", "t" * 41, str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES, *values)


def test_every_value_is_explained_and_checked() -> None:
    explained = [path for path, _default, _words in rows()]
    for path, _value in leaves(default_values()):
        assert any(path == known or path.startswith(f"{known}.") for known in explained), path
    reference = (CHART / "README.md").read_text("utf-8")
    assert table() in reference, "write the table anew: python -m tests.helm.values_table"
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) - {"global"} == set(default_values())


def test_versions_go_together() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == chart["version"] == __version__
    assert default_values()["environments"]["default"] == f"tessera/notebook:{__version__}"
