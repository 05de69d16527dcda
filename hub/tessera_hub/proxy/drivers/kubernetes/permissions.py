"""What the Proxy may do in a Kubernetes cluster, as the manifest that an operator applies once. Pure.

It may look at nodes, pods and jobs everywhere (the inventory counts what others hold), make namespaces of its own prefix, and in
those, and only those, run things. It can give itself the tenant's role in a new namespace; an admission policy of the API server
holds that, too, to the prefix (Kubernetes 1.30 and newer).
"""

from __future__ import annotations

from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.options import USAGE_ACCOUNT, tenant_role

ACCOUNT: Final = "tessera-proxy"
_RBAC: Final = "rbac.authorization.k8s.io/v1"
_READ: Final = ["get", "list", "watch"]


def rules(prefix: str) -> list[dict[str, Any]]:
    """What the Proxy may do in the whole cluster."""
    return [
        {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": _READ},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": _READ},
        {"apiGroups": ["batch.volcano.sh"], "resources": ["jobs"], "verbs": _READ},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["podgroups"], "verbs": _READ},
        {"apiGroups": ["scheduling.volcano.sh"], "resources": ["queues"], "verbs": [*_READ, "create", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "create"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"], "verbs": ["get", "create"]},
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterroles"],
            "resourceNames": [tenant_role(prefix)],
            "verbs": ["bind"],
        },
        {
            "apiGroups": ["apiextensions.k8s.io"],
            "resources": ["customresourcedefinitions"],
            "resourceNames": [
                "jobs.batch.volcano.sh",
                "podgroups.scheduling.volcano.sh",
                "queues.scheduling.volcano.sh",
                "commands.bus.volcano.sh",
            ],
            "verbs": ["get"],
        },
    ]


def tenant_rules() -> list[dict[str, Any]]:
    """What it may do in a tenant's namespace."""
    return [
        {"apiGroups": ["batch", "batch.volcano.sh"], "resources": ["jobs"], "verbs": ["create", "delete"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps", "services"], "verbs": ["get", "create"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get"]},
        {"apiGroups": ["metrics.k8s.io"], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["get", "create", "patch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "create", "patch"]},
    ]


def system_rules() -> list[dict[str, Any]]:
    """What it may do in its own namespace: give Volcano the orders that open and close its queues."""
    return [{"apiGroups": ["bus.volcano.sh"], "resources": ["commands"], "verbs": ["get", "create"]}]


def system_namespace(prefix: str) -> str:
    """Return the namespace of the Proxy itself."""
    return f"{prefix}-system"


def manifest(prefix: str = "tessera", *, kubelets: bool = False) -> list[dict[str, Any]]:
    """Return the objects: namespace, account, roles, binding and the admission policy.

    Args:
        kubelets: with the account that may ask kubelets what pods use, and the right to act as it.
    """
    namespace, name = system_namespace(prefix), f"{prefix}-proxy"
    group = "rbac.authorization.k8s.io"
    metadata, here = {"name": name}, {"name": name, "namespace": namespace}
    me = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}},
        {"apiVersion": _RBAC, "kind": "ClusterRole", "metadata": metadata, "rules": rules(prefix)},
        {"apiVersion": _RBAC, "kind": "ClusterRole", "metadata": {"name": tenant_role(prefix)}, "rules": tenant_rules()},
        {
            "apiVersion": _RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": me,
        },
        {"apiVersion": _RBAC, "kind": "Role", "metadata": here, "rules": system_rules()},
        {
            "apiVersion": _RBAC,
            "kind": "RoleBinding",
            "metadata": here,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": me,
        },
        *_admission(prefix, f"system:serviceaccount:{namespace}:{ACCOUNT}"),
        *(_kubelets(prefix, me) if kubelets else ()),
    ]


def _kubelets(prefix: str, me: list[dict[str, str]]) -> list[dict[str, Any]]:
    namespace, name = system_namespace(prefix), f"{prefix}-usage"
    group = "rbac.authorization.k8s.io"
    token = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [USAGE_ACCOUNT], "verbs": ["create"]}
    here = {"name": name, "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": USAGE_ACCOUNT, "namespace": namespace},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": _RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["nodes/stats"], "verbs": ["get"]}],
        },
        {
            "apiVersion": _RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": USAGE_ACCOUNT, "namespace": namespace}],
        },
        {"apiVersion": _RBAC, "kind": "Role", "metadata": here, "rules": [token]},
        {
            "apiVersion": _RBAC,
            "kind": "RoleBinding",
            "metadata": here,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": me,
        },
    ]


def _admission(prefix: str, who: str) -> list[dict[str, Any]]:
    api, name = "admissionregistration.k8s.io/v1", f"{prefix}-proxy"
    mine = f"request.userInfo.username == '{who}'"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["namespaces"]},
                {
                    "apiGroups": ["rbac.authorization.k8s.io"],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["rolebindings"],
                },
                {
                    "apiGroups": ["scheduling.volcano.sh"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE", "DELETE"],
                    "resources": ["queues"],
                },
                {"apiGroups": ["bus.volcano.sh"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["commands"]},
            ]
        },
        "matchConditions": [{"name": "is-the-proxy", "expression": mine}],
        "validations": [
            {
                "expression": f"request.resource.resource == 'namespaces' ? object.metadata.name.startsWith('{prefix}-tenant-') "
                f": request.resource.resource == 'rolebindings' ? request.namespace.startsWith('{prefix}-tenant-') : true",
                "message": f"the Proxy works in namespaces {prefix}-tenant-… only",
            },
            {
                "expression": "request.resource.resource == 'queues' ? "
                f"(request.operation == 'DELETE' ? oldObject : object).metadata.name.startsWith('{prefix}-') : true",
                "message": f"the Proxy keeps queues {prefix}-… only",
            },
            {
                "expression": "request.resource.resource == 'commands' ? object.target.kind == 'Queue' "
                f"&& object.target.name.startsWith('{prefix}-') : true",
                "message": f"the Proxy opens and closes queues {prefix}-… only",
            },
        ],
    }
    return [
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec},
        {
            "apiVersion": api,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]
