"""How a Kubernetes cluster is set up: options of the command, and one TOML file for what they cannot say.

Source: docs/how-to/connect-a-kubernetes-cluster.md.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tessera_hub.proxy.drivers.datasets import ClaimDataset
from tessera_hub.proxy.drivers.kubernetes.homes import FOLDER, PATH, Homes
from tessera_hub.proxy.drivers.kubernetes.options import DEFAULT_QUOTA, KubernetesOptions
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.bounds import MOST_DATASETS, DatasetName
from tessera_hub.schemas.resources import Strict

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class HomesSettings(Strict):
    """Where people's homes are."""

    claim: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    """PersistentVolumeClaim of each tenant's namespace, of one storage."""
    folder: str = FOLDER
    """A person's folder on the volume; with ``{principal_id}`` or ``{owner}``, and ``{tenant_id}``."""
    path: str = PATH
    """Where people see their home, and runs as well."""
    uid_base: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Runs in live folders have the Unix id ``uid_base`` + number of the person; None: ``user``."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        self.homes().check()
        return self

    def homes(self) -> Homes:
        """Return it as the driver's option."""
        return Homes(self.claim, self.folder, self.path, self.uid_base)


class KubernetesSettings(Strict):
    """Everything about one cluster."""

    environments: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    """Environment name → image; with Python 3.11 or newer in it."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    service_url: str | None = None
    """Address of the service as pods reach it; None: that of ``--url``."""
    namespace_prefix: Label = "tessera"
    """Tenants' namespaces are called ``<prefix>-tenant-<number>``."""
    namespace: Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")] = ""
    """The Proxy's own, where its orders to Volcano lie; empty: ``<prefix>-system``."""
    volcano: bool = True
    """Use Volcano where it is."""
    queue: Label = "default"
    """Volcano's queue for runs whose own queue is not mirrored."""
    mirror_queues: bool = True
    """Keep a queue at Volcano for each queue of the service, with its limits."""
    python: str = "python3"
    """Program of the images that runs runner and courier."""
    user: Annotated[int, Field(ge=1)] = 1000
    """Unix id of the processes of a run."""
    cpu_limits: bool = False
    """Hold a run to its processors even when others are idle."""
    tenant_quota: dict[str, str] = Field(default_factory=lambda: dict(DEFAULT_QUOTA))
    """ResourceQuota of each tenant's namespace."""
    egress: list[str] = Field(default_factory=list)
    """Networks (CIDR) that runs may reach besides the service, names, their tenant's other pods and the public internet."""
    plain_gangs: bool = False
    """Without Volcano, too, take runs of several pods: they wait for each other before any user code."""
    gang_seconds: Annotated[int, Field(ge=1)] = 300
    """After which such a run is given back when only some of its pods found a node."""
    missing_seconds: Annotated[int, Field(ge=1)] = 300
    """After which a run fails that waits for a secret, or for a folder of a data set, that is not there."""
    homes: HomesSettings | None = None
    """Volume with people's homes, for live folders."""
    datasets: dict[DatasetName, ClaimDataset] = Field(default_factory=dict, max_length=MOST_DATASETS)
    """Volumes that runs may read."""
    kubelets: bool = False
    """Ask the kubelets what runs use where the cluster has no metrics API; needs the rights of ``manifest --kubelets``."""
    pull_secret: str | None = None
    """Image pull secret in the tenants' namespaces."""

    @field_validator("egress")
    @classmethod
    def _networks(cls, blocks: list[str]) -> list[str]:
        for block in blocks:
            ipaddress.ip_network(block)
        return blocks


def read_options(path: Path | None, kubeconfig: Path | None, environments: Mapping[str, str], url: str) -> KubernetesOptions:
    """Return the options of a cluster; what the command line says counts before the file.

    Raises:
        ProxyError: ``proxy.bad_option``; the message names the field.
    """
    try:
        found = KubernetesSettings.model_validate({} if path is None else tomllib.loads(path.read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ProxyError("proxy.bad_option", f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ProxyError("proxy.bad_option", f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    images = {**found.environments, **environments}
    if not images:
        raise ProxyError(
            "proxy.bad_option", "--driver kubernetes needs --environment default=IMAGE, or --settings with environments"
        )
    return KubernetesOptions(
        kubeconfig=kubeconfig,
        context=found.context,
        environments=images,
        service_url=found.service_url or url,
        prefix=found.namespace_prefix,
        namespace=found.namespace,
        queue=found.queue,
        mirror_queues=found.mirror_queues,
        volcano=found.volcano,
        python=found.python,
        user=found.user,
        cpu_limits=found.cpu_limits,
        tenant_quota=found.tenant_quota,
        egress=tuple(found.egress),
        pull_secret=found.pull_secret,
        plain_gangs=found.plain_gangs,
        gang_seconds=found.gang_seconds,
        missing_seconds=found.missing_seconds,
        kubelets=found.kubelets,
        homes=None if found.homes is None else found.homes.homes(),
        datasets=found.datasets,
    )
