"""The Kubernetes driver as a site of the conformance suite, on the real cluster."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from tessera_hub.proxy.drivers.base import Driver, NativeRun
from tessera_hub.proxy.drivers.kubernetes import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES, PLAIN_JOBS, PODS, SECRETS
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE
from tessera_hub.schemas.protocol import Lease
from tests.cluster.machine import Machine
from tests.cluster.parts import RUNS_IMAGE
from tests.cluster.service_double import ServiceDouble
from tests.proxy.conftest import Inputs
from tests.proxy.delivered import Delivered
from tests.proxy.sites import Site
from volcano_client import Collection, Transport

T = TypeVar("T")


class DeliveredKubernetes(Delivered, KubernetesDriver):
    """The driver, and for the suite's eyes what its runs delivered themselves."""

    def __init__(self, options: KubernetesOptions, transport: Transport, double: ServiceDouble, folder: Path) -> None:
        super().__init__(options, transport)
        self.double = double
        self.folder = folder


class KubernetesSite(Site):
    """One Proxy's share of the cluster: a prefix of its own."""

    name = "kubernetes"
    patience = 60.0
    clock_slack = 2

    def __init__(self, cluster: Machine, **options: object) -> None:
        super().__init__()
        self.cluster = cluster
        self.prefix = f"c{uuid4().hex[:8]}"
        self.folder = Path(tempfile.mkdtemp(prefix="tessera-site-"))
        self.double = ServiceDouble(lambda run_id: self.sources.setdefault(run_id, Inputs({})))
        self.started = False
        self.options: Mapping[str, object] = options

    async def make(self) -> Driver:
        if not self.started:
            await self.double.start()
            self.started = True
        environments = {"default": RUNS_IMAGE, "absent": "tessera.test/absent:1"}
        options = KubernetesOptions(
            kubeconfig=self.cluster.kubeconfig,
            environments=environments,
            service_url=self.double.url,
            prefix=self.prefix,
            **self.options,  # type: ignore[arg-type]
        )
        return DeliveredKubernetes(options, Transport.from_kubeconfig(self.cluster.kubeconfig), self.double, self.folder)

    async def submit(self, lease: Lease, source: Inputs) -> None:
        self.double.knows(lease.run_id, [file.model_dump(mode="json") for file in lease.spec.inputs.files])
        await super().submit(lease, source)

    async def abandon(self, driver: Driver) -> None:
        self.double.drop_calls()
        await driver.close()

    async def kill(self, run: NativeRun) -> None:
        assert run.native_id is not None
        namespace, _slash, name = run.native_id.partition("/")
        await self.call(lambda t: Collection(t, PODS).delete(name, namespace, grace_seconds=1))

    async def purge(self) -> None:
        def remove(transport: Transport) -> None:
            for kind in (PLAIN_JOBS, PODS):
                for found in Collection(transport, kind).list(labels=f"{SITE}={self.prefix},{RUN}"):
                    phase = found["status"].get("phase")
                    if phase in ("Succeeded", "Failed") or (kind is PLAIN_JOBS and not found["status"].get("active")):
                        Collection(transport, kind).delete(found["metadata"]["name"], found["metadata"]["namespace"])

        await self.call(remove)

    async def clean(self) -> None:
        await self.double.stop()
        shutil.rmtree(self.folder)
        await self.call(lambda transport: remove_site(transport, self.prefix))

    async def call(self, do: Callable[[Transport], T]) -> T:
        """Do something as the administrator."""
        transport = Transport.from_kubeconfig(self.cluster.kubeconfig)
        try:
            return await asyncio.to_thread(do, transport)
        finally:
            transport.close()


def remove_site(transport: Transport, prefix: str) -> None:
    """Delete the namespaces of a prefix, and let their pods go."""
    namespaces = [n["metadata"]["name"] for n in Collection(transport, NAMESPACES).list(labels=f"{SITE}={prefix}")]
    for name in namespaces:
        for secret in Collection(transport, SECRETS).list(name, labels=RUN):
            Collection(transport, SECRETS).delete(secret["metadata"]["name"], name)
        Collection(transport, NAMESPACES).delete(name)
    deadline = time.monotonic() + 30
    while left := list(Collection(transport, PODS).list(labels=f"{SITE}={prefix}")):
        assert time.monotonic() < deadline, [pod["metadata"]["name"] for pod in left]
        for pod in left:
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            Collection(transport, PODS).patch(name, {"metadata": {"finalizers": None}}, namespace)
            Collection(transport, PODS).delete(name, namespace, grace_seconds=0)
        time.sleep(0.2)
