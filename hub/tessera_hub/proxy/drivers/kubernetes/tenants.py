"""A tenant's namespace: closed to the others, bounded, and without rights. Builders are pure."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES
from tessera_hub.proxy.drivers.kubernetes.options import SITE, TENANT, KubernetesOptions, tenant_role
from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.kinds import Kind
from volcano_client.transport import Transport

QUOTAS: Final = Kind("v1", "ResourceQuota", "resourcequotas")
POLICIES: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
BINDINGS: Final = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
NAME: Final = "tessera"
GRANT_SECONDS: Final = 15.0
CLOSED: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8")
"""Private and link-local addresses, among them the API servers', the nodes' and the clouds' metadata: closed to runs."""
CLOSED_6: Final = ("fc00::/7", "fe80::/10", "::1/128")

T = TypeVar("T")


def namespace_name(tenant_id: int, options: KubernetesOptions) -> str:
    """Return the namespace of a tenant, by its number: a name given anew is another tenant."""
    return f"{options.prefix}-tenant-{tenant_id}"


def namespace(tenant_id: int, tenant: str, options: KubernetesOptions) -> dict[str, Any]:
    """Return the Namespace, held to the strictest Pod Security level."""
    labels = {SITE: options.prefix, TENANT: str(tenant_id)}
    labels |= {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    metadata = {"name": namespace_name(tenant_id, options), "labels": labels, "annotations": {"tessera.io/tenant": tenant}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def quota(name: str, options: KubernetesOptions) -> dict[str, Any]:
    """Return the ResourceQuota: the engine's own bound, beside the queue's, which counts for all clusters."""
    metadata = {"name": NAME, "namespace": name, "labels": {SITE: options.prefix}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": dict(options.tenant_quota)}}


def network_policy(name: str, options: KubernetesOptions) -> dict[str, Any]:
    """Return the NetworkPolicy: a tenant's pods reach each other, names, the service, the internet; nobody reaches them.

    The API server, the metadata address, nodes and other tenants lie in what is closed.
    """
    egress: list[dict[str, Any]] = [
        {"to": [{"podSelector": {}}]},
        {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
            "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
        },
        {
            "to": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(CLOSED)}},
                {"ipBlock": {"cidr": "::/0", "except": list(CLOSED_6)}},
            ]
        },
    ]
    egress += service_egress(options.service_url)
    egress += [{"to": [{"ipBlock": {"cidr": block}}]} for block in options.egress]
    spec = {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
        "egress": egress,
    }
    metadata = {"name": NAME, "namespace": name, "labels": {SITE: options.prefix}}
    return {"apiVersion": POLICIES.api_version, "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def service_egress(url: str) -> list[dict[str, Any]]:
    """Return the rule that opens the way to the service: to its address, or to its namespace where it is in this cluster."""
    found = urlsplit(url)
    host = found.hostname or ""
    port = found.port or (443 if found.scheme == "https" else 80)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        if len(labels) >= 3 and labels[2] == "svc":
            # A service's port is not its pods' port, and the policy is about the latter.
            return [{"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": labels[1]}}}]}]
        return []
    block = f"{address}/{address.max_prefixlen}"
    return [{"to": [{"ipBlock": {"cidr": block}}], "ports": [{"protocol": "TCP", "port": port}]}]


def binding(name: str, subject: Mapping[str, str], options: KubernetesOptions) -> dict[str, Any]:
    """Return the RoleBinding that lets the Proxy work in a tenant's namespace, and only there."""
    metadata = {"name": NAME, "namespace": name, "labels": {SITE: options.prefix}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": tenant_role(options.prefix)}
    return {
        "apiVersion": BINDINGS.api_version,
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": role,
        "subjects": [dict(subject)],
    }


def own_subject(transport: Transport) -> dict[str, str] | None:
    """Return who we are, as the subject of a binding; None for an administrator, who needs no rights given.

    Raises:
        ClusterApiError: unreachable, or nobody known.
    """
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = transport.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
    found = answer["status"]["userInfo"]
    if "system:masters" in (found.get("groups") or ()):
        return None
    kind, _colon, rest = str(found["username"]).partition("system:serviceaccount:")
    if not kind and rest:
        namespace, _colon, name = rest.partition(":")
        return {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": str(found["username"])}


def _once_granted(call: Callable[[], T], seconds: float) -> T:
    """Call, and again while it is forbidden: an API server heeds a binding that was just made only after a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ClusterApiError as error:
            if error.status != 403 or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def make_namespace(
    transport: Transport, tenant_id: int, tenant: str, options: KubernetesOptions, me: Mapping[str, str] | None
) -> str:
    """Make a tenant's namespace and what belongs into it, and return its name; what is there is brought up to date.

    Args:
        me: the Proxy's service account as a subject; None: it has its rights from elsewhere.

    Raises:
        ClusterApiError: not allowed, or unreachable.
    """
    name = namespace_name(tenant_id, options)
    wanted = namespace(tenant_id, tenant, options)
    found, made = Collection(transport, NAMESPACES).create_or_get(wanted)
    if not made and (found["metadata"].get("labels") or {}).get(SITE) != options.prefix:
        raise ValueError(f"namespace {name} exists and is not ours")
    if me is not None:
        Collection(transport, BINDINGS).create_or_get(binding(name, me, options))
    for kind, document in ((QUOTAS, quota(name, options)), (POLICIES, network_policy(name, options))):
        collection = Collection(transport, kind)
        present, made = _once_granted(partial(collection.create_or_get, document), GRANT_SECONDS if me is not None else 0.0)
        if not made and present.get("spec") != document["spec"]:
            collection.patch(NAME, {"spec": document["spec"]}, name)
    return name
