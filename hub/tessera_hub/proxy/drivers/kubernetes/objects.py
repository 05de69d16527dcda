"""Builders of what a run is in Kubernetes: pure functions from a lease to plain dictionaries.

A run is a Secret (the lease: our record), which owns a Job or a Volcano Job, which makes one pod::

    init container  prepare   brings inputs, claims the run, ends            sees the run's token
    container       main      user code, owned by the launcher               does not
    container       deliver   log, notebook, files to the service; the end   sees the run's token

All three run in the environment's image; runner and courier come in from a ConfigMap. The order of the Proxy reaches the launcher
as an annotation of the pod, which the kubelet shows as a file within a second.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any, Final

from tessera_hub.proxy.courier.launching import PERSONS_PATH
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.couriers import courier_document, stored_lease
from tessera_hub.proxy.drivers.datasets import PODS_FOLDER, claim_volumes, wanted
from tessera_hub.proxy.drivers.kubernetes.cards import annotations_of
from tessera_hub.proxy.drivers.kubernetes.homes import home_of
from tessera_hub.proxy.drivers.kubernetes.options import COMPANY, ORDER, PERSON, RECORD, RUN, SITE, TENANT, KubernetesOptions
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, Resources
from volcano_client.kinds import JOBS, Kind
from volcano_client.objects import PREEMPTABLE, Named, Owner, Task, job

PODS: Final = Kind("v1", "Pod", "pods")
NODES: Final = Kind("v1", "Node", "nodes", namespaced=False)
SECRETS: Final = Kind("v1", "Secret", "secrets")
SERVICES: Final = Kind("v1", "Service", "services")
CLAIMS: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
CONFIG_MAPS: Final = Kind("v1", "ConfigMap", "configmaps")
EVENTS: Final = Kind("v1", "Event", "events")
NAMESPACES: Final = Kind("v1", "Namespace", "namespaces", namespaced=False)
PLAIN_JOBS: Final = Kind("batch/v1", "Job", "jobs")
VOLCANO_JOBS: Final = JOBS

PLAIN_JOB_FIELD: Final = "metadata.labels['batch.kubernetes.io/controller-uid']"
VOLCANO_JOB_FIELD: Final = "metadata.annotations['scheduling.k8s.io/group-name']"
"""Where a pod has its job's own name, which is never used twice: the group's name ends with the job's uid."""
ROOT: Final = "/tessera"
CODE: Final = "/tessera-code"
LEASE: Final = "/tessera-lease"
ORDERS: Final = "/tessera-order"
MEMORY_SLACK_MIB: Final = 256
"""Above what was asked for, as for local runs: the runner ends a run at its limit and tells so, the kernel is the backstop."""
DELIVERY_SECONDS: Final = 300
KILL_SLACK_SECONDS: Final = 10
WALL_SLACK_SECONDS: Final = 3600
"""Besides the time of the run, for its image, preparation and delivery: the limit itself is kept by the runner."""
SECRET_LIMIT: Final = 900_000
_COURIER: Final = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def run_name(run_id: object) -> str:
    """Return the name of all objects of a run."""
    return f"tessera-{run_id}"


def run_labels(lease: Lease, options: KubernetesOptions) -> dict[str, str]:
    """Return the labels of all objects of a run; nothing of a person's own text is among them."""
    return {
        SITE: options.prefix,
        RUN: str(lease.run_id),
        TENANT: str(lease.tenant_id),
        PERSON: str(lease.principal_id),
        "app.kubernetes.io/managed-by": "tessera",
    }


def lease_secret(lease: Lease, options: KubernetesOptions, namespace: str) -> dict[str, Any]:
    """Return the record of a run.

    Raises:
        DriverError: ``cluster.start_failed``: more than an object can hold; ``inputs.live_refused``,
            ``dataset.unknown``.
    """
    packed = gzip.compress(stored_lease(lease).model_dump_json().encode(), mtime=0)
    seen = {name: f"{PODS_FOLDER}/{name}" for name in wanted(lease, options.datasets)}
    told = courier_document(lease, options.service_url, options.output_bytes, seen)
    if lease.managed_by == "proxy" and (home := home_of(lease, options.homes)) is not None:
        told["live"] = home.live
    data = {"lease.json.gz": packed, "courier.json": json.dumps(told).encode()}
    if sum(map(len, data.values())) > SECRET_LIMIT:
        raise DriverError("cluster.start_failed", "the checkpoint has too many files, or the parameters are too long")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "tessera.io/run",
        "metadata": {"name": run_name(lease.run_id), "namespace": namespace, "labels": run_labels(lease, options)},
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


def lease_of(secret: Mapping[str, Any]) -> Lease:
    """Return the lease in a record.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        return Lease.model_validate_json(gzip.decompress(base64.b64decode(secret["data"]["lease.json.gz"])), context=STORED)
    except (KeyError, OSError, EOFError) as error:
        raise ValueError(f"{secret['metadata'].get('name')}: no lease") from error


def code_map(namespace: str, name: str, runner: bytes, courier: bytes, options: KubernetesOptions) -> dict[str, Any]:
    """Return the ConfigMap with runner and courier; its name says what is in it, so it never changes."""
    data = {"runner.pyz": base64.b64encode(runner).decode(), "courier.pyz": base64.b64encode(courier).decode()}
    metadata = {"name": name, "namespace": namespace, "labels": {SITE: options.prefix}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "metadata": metadata, "binaryData": data}


def environment_of(lease: Lease, options: KubernetesOptions, cards: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the variables of user code: the person's, ours, and secrets as references which the kubelet resolves."""
    base = {
        "HOME": f"{ROOT}/run",
        "USER": lease.owner,
        "LOGNAME": lease.owner,
        "LANG": "C.UTF-8",
        "TESSERA_URL": options.service_url,
        "TESSERA_RUN_ID": str(lease.run_id),
        "TESSERA_TASK_ID": str(lease.task_id),
        "TESSERA_TENANT": lease.tenant,
    }
    own = {PERSONS_PATH if name == "PATH" else name: value for name, value in lease.spec.variables.items()}
    plain = {**base, **own, **cards}
    # A "$(NAME)" in a value would be replaced by another variable; doubled, it stays what it is.
    found: list[dict[str, Any]] = [{"name": name, "value": value.replace("$", "$$")} for name, value in plain.items()]
    for name, reference in lease.spec.secrets.items():
        own_name = PERSONS_PATH if name == "PATH" else name
        found.append({"name": own_name, "valueFrom": {"secretKeyRef": {"name": secret_name(reference), "key": "value"}}})
    return found


def secret_name(reference: str) -> str:
    """Return the name of the Secret that a person's reference means: never one of a run, which begin with ``tessera-``.

    Raises:
        DriverError: ``secret.unknown``: no object could have this name.
    """
    ends = reference.strip("-.") == reference
    if (
        not reference
        or not ends
        or len(reference) > 200
        or not all(c.isdigit() or "a" <= c <= "z" or c in "-." for c in reference)
    ):
        raise DriverError("secret.unknown", f"no secret {reference[:80]!r} at this cluster", {"reference": reference[:200]})
    return f"secret-{reference}"


def slots_of(resources: Resources) -> int:
    """Return for how many processes each pod of several has room: one per card, else one per processor."""
    if resources.cards is not None:
        return -(-resources.cards.centi_cards // CENTI_CARDS_PER_CARD)
    return max(resources.cpu_millicores // 1000, 1)


def pod_template(
    lease: Lease,
    options: KubernetesOptions,
    image: str,
    code: str,
    card_resources: Mapping[str, str],
    affinity: Mapping[str, Any] | None,
    *,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Return the pod template of a run."""
    spec = lease.spec
    resources = spec.roles[0].resources
    memory = resources.memory_mib
    requests = {"cpu": f"{resources.cpu_millicores}m", "memory": f"{memory}Mi", **card_resources}
    limits = {"memory": f"{memory + memory // 10 + MEMORY_SLACK_MIB}Mi", **card_resources}
    if options.cpu_limits:
        limits["cpu"] = requests["cpu"]
    grace, longest = spec.lifecycle.grace_seconds, spec.lifecycle.max_run_seconds
    visible = {"TESSERA_CARD_CLASS": lease.card_class} if lease.card_class and card_resources else {}
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    shared: list[dict[str, Any]] = [{"name": "run", "mountPath": ROOT}, {"name": "code", "mountPath": CODE, "readOnly": True}]
    trusted = [*shared, {"name": "lease", "mountPath": LEASE, "readOnly": True}]

    def container(
        name: str, part: str, mounts: list[dict[str, Any]], wanted: Mapping[str, Any], arguments: list[str]
    ) -> dict[str, Any]:
        return {
            "name": name,
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": [options.python, "-I", f"{CODE}/courier.pyz", part, "--root", ROOT, *arguments],
            "volumeMounts": mounts,
            "resources": wanted,
            "securityContext": closed,
        }

    settings = ["--settings", f"{LEASE}/courier.json"]
    claimant: dict[str, Any] = {"name": "TESSERA_CLAIMANT", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    prepare = container("prepare", "prepare", trusted, _COURIER, [*settings, "--claimant", "$(TESSERA_CLAIMANT)"])
    parts = spec.roles[0].replicas
    shown = [{"path": "order", "fieldRef": {"fieldPath": f"metadata.annotations['{ORDER}']"}}]
    arguments = ["--runner", f"{CODE}/runner.pyz", "--order", f"{ORDERS}/order"]
    variables = environment_of(lease, options, visible)
    if parts > 1:
        # All claim as one, the job: its pods are the only ones of this run that there can be.
        claimant["valueFrom"] = {"fieldRef": {"fieldPath": VOLCANO_JOB_FIELD if scheduler else PLAIN_JOB_FIELD}}
        shown.append({"path": "company", "fieldRef": {"fieldPath": f"metadata.annotations['{COMPANY}']"}})
        arguments += ["--company", f"{ORDERS}/company", "--uid", "$(TESSERA_POD_UID)", "--framework", spec.framework]
        arguments += ["--slots", str(slots_of(resources))]
        variables.append({"name": "TESSERA_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
    home = home_of(lease, options.homes)
    user = options.user if home is None or home.uid is None else home.uid
    own_mounts = [] if home is None else [home.mount()]  # neither prepare nor deliver has any business in a home
    read = claim_volumes(wanted(lease, options.datasets))
    own_mounts += [mount for _volume, mount in read]
    main = container(
        "main",
        "launch",
        [*shared, {"name": "order", "mountPath": ORDERS, "readOnly": True}, *own_mounts],
        {"requests": requests, "limits": limits},
        arguments,
    )
    main["env"] = variables
    deliver = container("deliver", "deliver", trusted, _COURIER, settings)
    lease_items = [{"key": "courier.json", "path": "courier.json"}]
    lease_mode = 0o440 if home is None else 0o444  # root's file; without the group above only its readers' mounts guard it
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace + KILL_SLACK_SECONDS + DELIVERY_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            # A kubelet gives all of a volume to this group, and so everybody's homes to one person's.
            **({"fsGroup": user} if home is None else {}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [{**prepare, "env": [claimant]}],
        "containers": [main, deliver],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "code", "configMap": {"name": code}},
            {"name": "lease", "secret": {"secretName": run_name(lease.run_id), "items": lease_items, "defaultMode": lease_mode}},
            {"name": "order", "downwardAPI": {"items": shown}},
            *([] if home is None else [home.volume()]),
            *(volume for volume, _mount in read),
        ],
    }
    if longest is not None:
        pod["activeDeadlineSeconds"] = longest + grace + WALL_SLACK_SECONDS + (options.gang_seconds if parts > 1 else 0)
    if parts > 1 and not scheduler:
        pod["subdomain"] = run_name(lease.run_id)
    if card_resources:
        pod["tolerations"] = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in sorted(card_resources)]
    pod |= {"affinity": dict(affinity)} if affinity else {}
    pod |= {"schedulerName": scheduler} if scheduler else {}
    pod |= {"imagePullSecrets": [{"name": options.pull_secret}]} if options.pull_secret else {}
    annotations = {ORDER: "{}"} | ({PREEMPTABLE: str(spec.preemptible).lower()} if scheduler else {})
    annotations |= annotations_of(resources.cards, card_resources)
    metadata = {"labels": run_labels(lease, options), "annotations": annotations, "finalizers": [RECORD]}
    return {"metadata": metadata, "spec": pod}


def owner_of(secret: Mapping[str, Any]) -> Owner:
    """Return the reference to a run's record, which owns everything else of it."""
    return Owner("v1", "Secret", secret["metadata"]["name"], secret["metadata"]["uid"])


def peers_service(lease: Lease, options: KubernetesOptions, secret: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headless Service that gives the pods of a plain Job names, ``<job>-<rank>.<job>``, ready or not."""
    named = Named(run_name(lease.run_id), secret["metadata"]["namespace"], run_labels(lease, options), owner=owner_of(secret))
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {RUN: str(lease.run_id)}}
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": named.metadata(), "spec": spec}


def plain_job(lease: Lease, options: KubernetesOptions, secret: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Job of a run where Volcano is not: each of its pods once."""
    named = Named(run_name(lease.run_id), secret["metadata"]["namespace"], run_labels(lease, options), owner=owner_of(secret))
    parts = lease.spec.roles[0].replicas
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "completions": parts,
        "parallelism": parts,
        "podReplacementPolicy": "Failed",
        "template": dict(template),
    }
    spec |= {"completionMode": "Indexed"} if parts > 1 else {}
    return {"apiVersion": PLAIN_JOBS.api_version, "kind": "Job", "metadata": named.metadata(), "spec": spec}


def volcano_job(
    lease: Lease, options: KubernetesOptions, secret: Mapping[str, Any], template: Mapping[str, Any], queue: str | None = None
) -> dict[str, Any]:
    """Return the Volcano Job of a run: its pods start once, when all of them fit into the queue.

    Its ``svc`` plugin gives the pods their names. What a program reads of the others (``MASTER_ADDR`` and so on) comes from
    the launcher, as without Volcano, and so does the remote shell of ``mpirun``: the plugins for single frameworks would say the
    same in another way, and with ``mpi`` and ``ssh`` every image would have to bring and start an SSH server.
    """
    named = Named(run_name(lease.run_id), secret["metadata"]["namespace"], run_labels(lease, options), owner=owner_of(secret))
    return job(
        named,
        [Task("main", lease.spec.roles[0].replicas, template)],
        queue=queue or options.queue,
        max_retry=0,
        plugins={"svc": ["--disable-network-policy=true"]} if lease.spec.roles[0].replicas > 1 else None,
        policies=[("PodFailed", "AbortJob"), ("PodEvicted", "AbortJob"), ("TaskCompleted", "CompleteJob")],
    )
