"""Tasks in live folders on the real cluster: a person's own home of a volume, and never another's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes.homes import Homes
from tessera_hub.proxy.drivers.kubernetes.objects import CLAIMS
from tessera_hub.proxy.drivers.kubernetes.tenants import make_namespace
from tessera_hub.schemas.protocol import Lease
from tests.cluster.machine import Machine
from tests.cluster.site import KubernetesSite
from tests.proxy.conftest import Inputs, LeaseMaker, make_lease
from volcano_client import Collection, Kind, Transport

__all__ = ["make_lease"]
VOLUMES = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
ADA, EVE, BASE = 1, 2, 200_000
DOUBLE = "open('result.txt', 'w').write(str(2 * int(open('data.txt').read()))); print('live')"
CURIOUS = """
import os, pathlib
def look(path):
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return type(error).__name__
print("homes", look("/home"), "out", look("/home/ada/way-out"), "above", look("/home/ada/.."), flush=True)
print("secrets", [str(p) for p in pathlib.Path("/").rglob("eves-secret.txt") if "proc" not in p.parts], flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """The volume: homes of ada and eve, each their own account's."""
    top = Path(tempfile.mkdtemp(prefix="tessera-homes-", dir="/var/tmp"))
    top.chmod(0o711)
    (top / "1").mkdir()
    for number in (ADA, EVE):
        project = top / "1" / str(number) / "project"
        project.mkdir(parents=True)
        (project / "data.txt").write_text("21")
        (project / "main.py").write_text(DOUBLE)
        (project / "curious.py").write_text(CURIOUS)
    (top / "1" / str(EVE) / "eves-secret.txt").write_text("mine")
    (top / "1" / str(ADA) / "way-out").symlink_to("../2")
    for number in (ADA, EVE):
        home = top / "1" / str(number)
        for path in (home, *home.rglob("*")):
            os.chown(path, BASE + number, BASE + number, follow_symlinks=False)
        home.chmod(0o700)
    yield top
    shutil.rmtree(top)


@pytest_asyncio.fixture
async def site(cluster: Machine, folder: Path) -> AsyncIterator[KubernetesSite]:
    found = KubernetesSite(cluster, homes=Homes("homes", uid_base=BASE))
    yield found
    await found.finish()


@pytest_asyncio.fixture
async def bound(site: KubernetesSite, folder: Path) -> AsyncIterator[KubernetesSite]:
    """The site, with the volume in the tenant's namespace as an operator puts it there."""
    driver = await site.start()
    name = f"homes-{uuid4().hex[:8]}"

    def make(transport: Transport) -> None:
        namespace = make_namespace(transport, 1, "physics", driver.options, None)  # type: ignore[attr-defined]
        amount = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        size = {"storage": "1Gi"}
        volume = {"capacity": size, "hostPath": {"path": str(folder), "type": "Directory"}, **amount}
        metadata = {"name": name}
        Collection(transport, VOLUMES).create_or_get(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": volume}
        )
        claim = {"volumeName": name, "resources": {"requests": size}, **amount}
        metadata = {"name": "homes", "namespace": namespace}
        Collection(transport, CLAIMS).create_or_get(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim}
        )

    await site.call(make)
    yield site
    await site.call(lambda transport: Collection(transport, VOLUMES).delete(name))


def live(make_lease: LeaseMaker, folder: str, entry: str = "main.py") -> tuple[Lease, Inputs]:
    lease, source = make_lease(inputs={"kind": "live", "live_folder": folder}, entry=entry, principal_id=ADA)
    return lease, source


async def output(site: KubernetesSite, lease: Lease) -> str:
    assert site.current is not None
    return (await site.current.logs(lease.run_id, "output", 0, 1 << 16)).decode()


async def test_a_live_task_works_in_the_persons_own_files(bound: KubernetesSite, make_lease: LeaseMaker, folder: Path) -> None:
    assert bound.current is not None
    assert "shared_storage" in bound.current.capabilities
    assert (await bound.current.inventory()).shared_storage == "/home/{owner}"
    lease, source = live(make_lease, "/home/ada/project")
    await bound.submit(lease, source)
    run = await bound.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None), await output(bound, lease)
    result = folder / "1" / str(ADA) / "project" / "result.txt"
    assert result.read_text() == "42"
    assert result.stat().st_uid == BASE + ADA
    assert (await bound.current.results(lease.run_id)).outputs == (), "what lies in the person's folder is not sent anywhere"
    await bound.current.forget(lease.run_id)
    assert result.exists()
    assert not (folder / "1" / str(EVE) / "project" / "result.txt").exists()


async def test_links_and_dots_lead_to_nobody_elses_home(bound: KubernetesSite, make_lease: LeaseMaker) -> None:
    lease, source = live(make_lease, "/home/ada/project", "curious.py")
    await bound.submit(lease, source)
    run = await bound.wait(lease)
    text = await output(bound, lease)
    assert run.phase == "SUCCEEDED", text
    assert "homes ['ada'] out FileNotFoundError" in text or "homes ['ada', 'person'] out FileNotFoundError" in text, text
    assert "secrets []" in text


async def test_a_live_folder_that_is_a_link_to_another_home_starts_nothing_there(
    bound: KubernetesSite, make_lease: LeaseMaker, folder: Path
) -> None:
    lease, source = live(make_lease, "/home/ada/way-out/project")
    await bound.submit(lease, source)
    run = await bound.wait(lease)
    assert run.phase == "FAILED"
    assert run.reason is not None
    assert run.reason.code == "script.missing"
    assert not (folder / "1" / str(EVE) / "project" / "result.txt").exists()


async def test_a_tenant_without_the_volume_is_refused_and_nothing_waits(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = live(make_lease, "/home/ada/project")
    with pytest.raises(DriverError) as caught:
        await site.submit(lease, source)
    assert caught.value.code == "inputs.live_refused"
    assert await driver.list_runs() == []
