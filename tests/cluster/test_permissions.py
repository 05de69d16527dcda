"""What the Proxy may not do with its manifest's rights, tried; and what a tenant's namespace is closed by, as objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.kubernetes import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.objects import EVENTS, NAMESPACES, NODES, PLAIN_JOBS, PODS, SECRETS
from tessera_hub.proxy.drivers.kubernetes.tenants import BINDINGS, POLICIES, QUOTAS, binding, make_namespace, own_subject
from tests.cluster.machine import Machine
from tests.cluster.rights import Rights, refused
from tests.cluster.site import remove_site
from volcano_client import ClusterApiError, Collection, Kind, Transport

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
ROLES = Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False)


class TenantRights(Rights):
    """The Proxy's account in a tenant's namespace of its own making."""

    def __init__(self, cluster: Machine, admin: Transport, folder: Path) -> None:
        super().__init__(cluster, admin, folder)
        self.options = KubernetesOptions(prefix=self.prefix, service_url="http://192.0.2.7:8443/x", egress=("192.0.2.0/24",))
        self.me = own_subject(self.mine)
        self.namespace = make_namespace(self.mine, 7, "red 模型", self.options, self.me)

    def close(self) -> None:
        remove_site(self.admin, self.prefix)
        super().close()


@pytest.fixture(scope="module")
def rights(cluster: Machine, transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TenantRights]:
    found = TenantRights(cluster, transport, tmp_path_factory.mktemp("rights"))
    yield found
    found.close()


def test_it_knows_who_it_is(rights: TenantRights) -> None:
    assert rights.me == {"kind": "ServiceAccount", "name": "tessera-proxy", "namespace": f"{rights.options.prefix}-system"}
    assert own_subject(rights.admin) is None


def test_it_may_do_its_work(rights: TenantRights) -> None:
    for kind in (NODES, PODS, PLAIN_JOBS):
        list(Collection(rights.mine, kind).list())
    list(Collection(rights.mine, SECRETS).list(rights.namespace))
    list(Collection(rights.mine, EVENTS).list(rights.namespace))


@pytest.mark.parametrize("namespace", ["kube-system", "default"])
def test_secrets_of_others_are_closed(rights: TenantRights, namespace: str) -> None:
    assert refused(lambda: list(Collection(rights.mine, SECRETS).list(namespace)))
    assert refused(lambda: Collection(rights.mine, SECRETS).get("x", namespace))
    assert refused(lambda: list(Collection(rights.mine, SECRETS).list()))


@pytest.mark.parametrize("namespace", ["kube-system", "default"])
def test_nothing_is_run_or_ended_elsewhere(rights: TenantRights, namespace: str) -> None:
    mine = rights.mine
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "namespace": namespace}, "spec": {"template": {}}}
    assert refused(lambda: Collection(mine, PLAIN_JOBS).create_or_get(job))
    assert refused(lambda: Collection(mine, PODS).delete("x", namespace))
    assert refused(lambda: Collection(mine, PODS).patch("x", {"metadata": {"labels": {"a": "b"}}}, namespace))
    assert refused(lambda: mine.call("POST", f"/api/v1/namespaces/{rights.namespace}/pods/x/exec"))


def test_it_cannot_give_itself_rights_elsewhere(rights: TenantRights) -> None:
    assert rights.me is not None
    elsewhere = binding("kube-system", rights.me, rights.options)
    assert refused(lambda: Collection(rights.mine, BINDINGS).create_or_get(elsewhere))
    more = binding(rights.namespace, rights.me, rights.options)
    more["metadata"]["name"] = "more"
    more["roleRef"]["name"] = "cluster-admin"
    assert refused(lambda: Collection(rights.mine, BINDINGS).create_or_get(more))
    role = {"apiVersion": ROLES.api_version, "kind": "ClusterRole", "metadata": {"name": "x"}, "rules": []}
    assert refused(lambda: Collection(rights.mine, ROLES).create_or_get(role))


def test_it_makes_namespaces_of_its_own_prefix_only(rights: TenantRights) -> None:
    for name in ("other", "kube-x", f"{rights.options.prefix}-x"):
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert refused(lambda document=document: Collection(rights.mine, NAMESPACES).create_or_get(document)), name
    assert refused(lambda: Collection(rights.mine, NAMESPACES).delete(rights.namespace))


def test_a_namespace_of_somebody_else_is_not_taken(rights: TenantRights) -> None:
    name = f"{rights.options.prefix}-tenant-8"
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    Collection(rights.admin, NAMESPACES).create_or_get(document)
    with pytest.raises(ValueError, match="not ours"):
        make_namespace(rights.mine, 8, "blue", rights.options, rights.me)
    Collection(rights.admin, NAMESPACES).delete(name)


def test_a_tenants_namespace_is_closed_and_bounded(rights: TenantRights) -> None:
    found = Collection(rights.admin, NAMESPACES).get(rights.namespace)
    assert found is not None
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert found["metadata"]["annotations"]["tessera.io/tenant"] == "red 模型"
    [policy] = Collection(rights.admin, POLICIES).list(rights.namespace)
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert {"cidr": "192.0.2.7/32"} in blocks
    wide = [block for block in blocks if block["cidr"] == "0.0.0.0/0"]
    assert {"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} <= set(wide[0]["except"])
    [quota] = Collection(rights.admin, QUOTAS).list(rights.namespace)
    assert quota["spec"]["hard"]["services.nodeports"] == "0"


def test_a_pod_that_asks_for_more_than_a_run_may_is_refused(rights: TenantRights) -> None:
    volume = {"name": "host", "hostPath": {"path": "/"}}
    spec = {"containers": [{"name": "main", "image": "x"}], "volumes": [volume]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": rights.namespace}, "spec": spec}
    with pytest.raises(ClusterApiError) as told:
        Collection(rights.admin, PODS).create_or_get(pod)
    assert "hostPath" in told.value.message
    assert told.value.status == 403
