"""A hub of one's own whose workspaces are pods: one call after :func:`tessera_hub.jupyterhub.configure`.

``jupyterhub_config.py``::

    from tessera_hub.jupyterhub import configure
    from tessera_hub.pods import use_pods

    here = configure(c, "/var/lib/tessera")
    use_pods(c, here, environments={"default": "registry.example.org/tessera/notebook:1"}, hub_url="http://192.0.2.7:8081",
             pod_service_url="http://192.0.2.7:8000/services/tessera")

The hub finds the cluster by its own service account or ``$KUBECONFIG``. What it needs there: pods and volume claims (get, list,
watch, create, delete) and events (get, list, watch) in the namespace, and to list nodes where there are cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tessera_hub.installation import Installation

START_SECONDS: Final = 600
"""For a workspace: a node may have to be added and an image to be pulled."""


def use_pods(
    c: Any,
    here: Installation,
    *,
    environments: Mapping[str, str],
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    hub_url: str,
    pod_service_url: str,
    hub_listen: str = "",
    namespace: str = "tessera-workspaces",
    site: str = "tessera",
    home_size: str = "10Gi",
    storage_class: str = "",
) -> None:
    """Start workspaces as pods instead of as processes of this machine.

    Args:
        c: the configuration object of ``jupyterhub_config.py``.
        here: what ``configure`` returned.
        environments: environment name → image; the cluster's Proxy should offer the same.
        datasets: data set → claim of *namespace*, folder, tenants; those that the cluster's Proxy declares with ``workspaces``.
        hub_url: the hub as pods reach it.
        pod_service_url: the service as pods reach it, with its path.
        hub_listen: address of this machine at which the hub listens; empty: all.
        namespace: of the pods and the homes.
        site: namespace prefix of the cluster's Proxy, by which it knows the workspaces among the pods.
        home_size: Kubernetes quantity of a person's home.
        storage_class: empty: the cluster's default.
    """
    start_as_pods(
        c,
        service_url=here.internal_service_url,
        public_service_url=here.public_service_url,
        pod_service_url=pod_service_url,
        service_token=here.secret("spawner-token"),
        environments=environments,
        datasets=datasets or {},
        namespace=namespace,
        site=site,
        home_size=home_size,
        storage_class=storage_class,
    )
    c.JupyterHub.hub_bind_url = f"http://{hub_listen}:{here.hub_port}"
    c.JupyterHub.hub_connect_url = hub_url


def start_as_pods(
    c: Any,
    *,
    service_url: str,
    public_service_url: str,
    pod_service_url: str,
    service_token: str,
    environments: Mapping[str, str],
    datasets: Mapping[str, Mapping[str, Any]],
    namespace: str,
    site: str,
    home_size: str,
    storage_class: str,
) -> None:
    """Set the spawner of pods as every installation has it; see :func:`use_pods` and the spawner's own traits."""
    c.JupyterHub.spawner_class = "tessera_spawner.kubernetes.TesseraKubeSpawner"
    # Whatever restarts the hub, people work on.
    c.JupyterHub.cleanup_servers = False
    spawner = c.TesseraKubeSpawner
    spawner.service_url = service_url
    spawner.public_service_url = public_service_url
    spawner.pod_service_url = pod_service_url
    spawner.service_token = service_token
    spawner.environments = dict(environments)
    if datasets:
        spawner.datasets = {name: dict(declared) for name, declared in datasets.items()}
    spawner.namespace = namespace
    spawner.site = site
    spawner.storage_capacity = home_size
    spawner.storage_access_modes = ["ReadWriteOnce"]
    if storage_class:
        spawner.storage_class = storage_class
    c.Spawner.start_timeout = START_SECONDS
    # A workspace that ended is paid for until it is seen.
    c.Spawner.poll_interval = 10
