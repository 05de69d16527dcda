"""Data sets on all kinds of clusters: read at one place, written by nobody, open to whom their operator says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from click.testing import CliRunner
from pydantic import ValidationError

from tessera_hub.client import TesseraClient, TesseraError
from tessera_hub.installation import Installation
from tessera_hub.processes import proxy_command
from tessera_hub.proxy.command import command
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import ClaimDataset, FolderDataset, read_local
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.protocol import Inventory
from tests.hub_double import HubDouble
from tests.proxy.conftest import LeaseMaker
from tests.proxy.machine import LocalProxy
from tests.proxy.sites import LocalSite, Site
from tests.service import ServiceProcess

READER = """
import os, pathlib
top = pathlib.Path(os.environ["TESSERA_DATASETS"])
print("names", sorted(os.listdir(top)), "text", (top / "digits" / "data.txt").read_text())
for path in (top / "digits" / "mine.txt", top / "digits" / "data.txt"):
    try:
        path.write_text("x")
        print("wrote", path)
    except OSError as error:
        print("refused", error.strerror)
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """A volume with one data set in a folder, for everybody to read."""
    top = Path(tempfile.mkdtemp(prefix="tessera-data-", dir="/var/tmp"))
    (top / "v1").mkdir()
    (top / "v1" / "data.txt").write_text("21")
    (top / "v1" / "data.txt").chmod(0o444)
    (top / "v1").chmod(0o555)
    top.chmod(0o755)
    yield top
    (top / "v1").chmod(0o755)
    shutil.rmtree(top)


def of_folders(data: Path) -> dict[str, FolderDataset]:
    return {
        "digits": FolderDataset(path=str(data / "v1"), description="Digits"),
        "private": FolderDataset(path=str(data / "v1"), tenants=["chemistry"]),
        "gone": FolderDataset(path=str(data / "v9")),
    }


async def local(_request: pytest.FixtureRequest, data: Path) -> Site:
    return LocalSite(datasets=of_folders(data))


async def slurm(request: pytest.FixtureRequest, data: Path) -> Site:
    from tests.slurm.site import SlurmSite

    return SlurmSite(request.getfixturevalue("slurm"), datasets=of_folders(data))


async def kubernetes(request: pytest.FixtureRequest, data: Path) -> Site:
    """With the volume in the tenant's namespace as an operator puts it there; its files would let every pod write."""
    from tessera_hub.proxy.drivers.kubernetes.objects import CLAIMS
    from tessera_hub.proxy.drivers.kubernetes.tenants import make_namespace
    from tests.cluster.site import KubernetesSite
    from volcano_client import Collection, Kind, Transport

    found = KubernetesSite(
        request.getfixturevalue("cluster"),
        datasets={
            "digits": ClaimDataset(claim="data", folder="v1", description="Digits"),
            "private": ClaimDataset(claim="data", tenants=["chemistry"]),
        },
    )
    for path in (data, data / "v1", data / "v1" / "data.txt"):
        path.chmod(0o777)
    driver = await found.start()
    volumes, name = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False), f"data-{uuid4().hex[:8]}"

    def make(transport: Transport) -> None:
        namespace = make_namespace(transport, 1, "physics", driver.options, None)  # type: ignore[attr-defined]
        amount = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        size = {"storage": "1Gi"}
        volume = {"capacity": size, "hostPath": {"path": str(data), "type": "Directory"}, **amount}
        claim = {"volumeName": name, "resources": {"requests": size}, **amount}
        Collection(transport, volumes).create_or_get(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume}
        )
        metadata = {"name": "data", "namespace": namespace}
        Collection(transport, CLAIMS).create_or_get(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim}
        )

    await found.call(make)

    async def clean() -> None:
        await type(found).clean(found)
        await found.call(lambda transport: Collection(transport, volumes).delete(name))

    found.clean = clean  # type: ignore[method-assign]
    return found


async def aws_batch(request: pytest.FixtureRequest, _data: Path) -> Site:
    from tests.aws.site import AwsBatchSite

    return AwsBatchSite(request.getfixturevalue("aws_account"))


SITES: dict[str, Callable[[pytest.FixtureRequest, Path], Any]] = {"local": local, "slurm": slurm, "kubernetes": kubernetes}


def kinds(*names: str) -> list[Any]:
    return [pytest.param(name, marks=() if name == "local" else pytest.mark.root) for name in names]


@pytest_asyncio.fixture(params=kinds("local", "slurm", "kubernetes"))
async def site(request: pytest.FixtureRequest, data: Path) -> AsyncIterator[Site]:
    found = await SITES[request.param](request, data)
    yield found
    await found.finish()


async def test_a_run_reads_it_where_the_variable_says_and_writes_nothing(site: Site, make_lease: LeaseMaker, data: Path) -> None:
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in (data, data / "v1")]
    driver = await site.start()
    told = (await driver.inventory()).datasets
    assert told["digits"].model_dump() == {"description": "Digits", "tenants": None}
    assert told["private"].tenants == ["chemistry"]
    lease, source = make_lease(READER, datasets=["digits"])
    await site.submit(lease, source)
    run = await site.wait(lease)
    output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert (run.phase, run.reason) == ("SUCCEEDED", None), output
    assert "names ['digits'] text 21" in output
    assert output.count("refused") == 2, output
    assert ("Read-only file system" in output) == (site.name == "kubernetes")
    assert "wrote" not in output
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (data, data / "v1")] == owners
    assert (await driver.results(lease.run_id)).outputs == ()


async def test_one_that_is_not_the_tenants_is_refused_by_the_cluster_as_well(site: Site, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(READER, datasets=["digits", "private"])
    await refused(site, lease, source)
    ours, source = make_lease("print('mine')", datasets=["private"])
    lease = ours.model_copy(update={"tenant": "chemistry"})
    await site.submit(lease, source)
    if site.name != "kubernetes":  # there the tenant is told by its number, whose namespace has the volume
        assert (await site.wait(lease)).phase == "SUCCEEDED"


async def refused(site: Site, lease: Any, source: Any) -> None:
    code = None
    try:
        await site.submit(lease, source)
    except DriverError as error:
        code = error.code
    if code is not None:
        assert (code, await site.run(lease)) == ("dataset.unknown", None)
        return
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "dataset.unknown", ())
    assert source.claims == []


@pytest.mark.parametrize("site", kinds("local", "slurm"), indirect=True)
async def test_one_that_is_not_where_its_operator_said_is_told(site: Site, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease(READER, datasets=["gone"])
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "dataset.missing")
    assert run.reason is not None
    assert run.reason.detail["dataset"] == "gone"


@pytest.mark.parametrize("site", kinds("slurm"), indirect=True)
async def test_one_that_is_withdrawn_ends_no_run_whose_job_is_there(site: Any, make_lease: LeaseMaker) -> None:
    """The Proxy ended before it had noted the job."""
    driver = await site.start()
    lease, source = make_lease("import time\ntime.sleep(3)", datasets=["digits"])
    await site.submit(lease, source)
    await site.wait(lease, "RUNNING")
    await site.abandon(driver)
    site.current = None
    (driver.root / str(lease.run_id) / "native.json").unlink()
    site.settings = site.settings.model_copy(update={"datasets": {}})
    await site.start()
    run = await site.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)


@pytest.mark.root
async def test_aws_batch_has_none_and_says_so(request: pytest.FixtureRequest, data: Path, make_lease: LeaseMaker) -> None:
    async with await aws_batch(request, data) as site:
        driver = await site.start()
        assert (await driver.inventory()).datasets == {}
        await refused(site, *make_lease(READER, datasets=["digits"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[datasets.a]\npath = "relative"', "datasets.a.path: a path is absolute"),
        ('[datasets."../a"]\npath = "/srv"', r"datasets\.\.\./a: a name has .* lower-case letters, digits, - and _"),
        ('[datasets.a]\npath = "/nowhere"', "is no folder"),
        ('[datasets.a]\npath = "/tmp"', "every run may write"),
        ('[datasets.a]\npath = "/srv,/etc"', "datasets.a.path"),
        ('[datasets.a]\npath = "/srv"\ndescription = "\\u001b[2J"', "datasets.a.description: .*control characters"),
        ("".join(f'[datasets.a{n}]\npath = "/srv"\n' for n in range(1001)), "at most 1000"),
        ("[datasets", "end of document"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "local.toml").write_text(text)
    with pytest.raises(ProxyError, match=words):
        read_local(tmp_path / "local.toml")


def test_an_inventory_that_would_steer_terminals_is_refused() -> None:
    told = {"pools": [], "datasets": {"a": {"description": "\x1b]0;mine\x07"}}}
    with pytest.raises(ValidationError, match="control characters"):
        Inventory.model_validate(told)


def terminal(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tessera_hub.cli", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_from_the_operators_file_to_a_tenants_task_and_no_other_s(
    hub: HubDouble, service: ServiceProcess, machine: LocalProxy, data: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "local.toml"
    settings.write_text(
        f'[datasets.digits]\npath = "{data / "v1"}"\ndescription = "Digits"\ntenants = ["red"]\n'
        f'[datasets.open]\npath = "{data / "v1"}"\n'
    )
    machine.stop()
    machine.options = ("--settings", str(settings))
    machine.start()
    machine.wait_for_session()
    hub.add_tenant("blue")
    tokens = {"red": hub.add_user("fay", "red"), "blue": hub.add_user("eve", "blue")}
    (tmp_path / "read.py").write_text(READER.partition("for path in")[0])
    with TesseraClient(service.url, tokens["red"]) as fay, TesseraClient(service.url, tokens["blue"]) as eve:
        assert [(found.name, found.description, found.clusters) for found in fay.datasets()] == [
            ("digits", "Digits", ["local"]),
            ("open", "", ["local"]),
        ]
        assert [found.name for found in eve.datasets()] == ["open"]
        task = fay.submit(tmp_path / "read.py", datasets=["digits", "open"], memory="256MiB")
        assert task.wait().phase == "SUCCEEDED", machine.log_path.read_text()
        assert "names ['digits', 'open'] text 21" in "".join(task.logs())
        words = ["submit", str(tmp_path / "read.py"), "--dataset", "digits", "--memory", "256MiB"]
        for who, code in (("red", 0), ("blue", 2)):
            told = {**os.environ, "TESSERA_URL": service.url, "TESSERA_TOKEN": tokens[who], "TESSERA_LANGUAGE": "en"}
            listed = terminal(told, "datasets").stdout
            assert ("Digits" in listed, "open" in listed) == (who == "red", True)
            done = terminal(told, *words)
            assert done.returncode == code, done.stdout + done.stderr
            assert code == 0 or "There is no data set digits that tenant blue may read." in done.stderr
        for name in ("digits", "never-heard-of"):
            with pytest.raises(TesseraError) as error:
                eve.submit(tmp_path / "read.py", datasets=["open", name])
            assert error.value.code == "dataset.unknown"
            assert "digits" not in str(error.value).replace(f"data set {name}", "")


def test_an_installation_s_own_file_reaches_its_proxy_and_its_check_names_what_is_in_it(tmp_path: Path, data: Path) -> None:
    here = Installation(tmp_path, "ada", single_person=True)
    assert "--settings" not in proxy_command(here)
    (tmp_path / "datasets.toml").write_text(f'[datasets.digits]\npath = "{data / "v1"}"\ntenants = ["red", "blue"]\n')
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "token").write_text("unused")
    words = proxy_command(here)
    done = CliRunner().invoke(command, [*words[words.index("proxy") + 1 :], "--check"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Data set digits, for red, blue" in done.output
