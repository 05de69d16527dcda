"""Which folder of a volume a live task's pod gets, and every way to ask for another; real mounts are in tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes import KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.checking import check_lease
from tessera_hub.proxy.drivers.kubernetes.homes import Homes, home_of
from tessera_hub.proxy.drivers.kubernetes.objects import pod_template
from tessera_hub.proxy.drivers.kubernetes.settings import read_options
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.protocol import Lease
from tests.proxy.conftest import LeaseMaker

HOMES = Homes("homes")


def live(make_lease: LeaseMaker, folder: str, **changes: Any) -> Lease:
    lease, _source = make_lease(inputs={"kind": "live", "live_folder": folder}, principal_id=42)
    return lease.model_copy(update={"tenant_id": 7, **changes})


def test_the_folder_on_the_volume_follows_from_numbers(make_lease: LeaseMaker) -> None:
    home = home_of(live(make_lease, "/home/ada/project/a b"), HOMES)
    assert home is not None
    assert (home.claim, home.folder, home.path, home.live) == ("homes", "7/42", "/home/ada", "/home/ada/project/a b")
    assert home.mount() == {"name": "home", "mountPath": "/home/ada", "subPath": "7/42"}
    itself = home_of(live(make_lease, "/home/ada"), HOMES)
    assert itself is not None
    assert itself.live == "/home/ada"


@pytest.mark.parametrize(
    "folder",
    [
        "/home/eve",
        "/home/ada/../eve",
        "/home/ada/x/../../eve",
        "/home/ada/.",
        "/home/ada/..",
        "/home/ada//x",
        "/home/ada/",
        "/home/adams",
        "/home",
        "/",
        "home/ada",
        "ada",
        "//home/ada",
        "/home/ada/x\x00y",
        "/home/ada/x\ny",
        "/home/ada\\..\\eve",
        "/home/{owner}",
        "/home/ada/" + "x" * 2000,
        "/etc",
        "/tessera-lease",
        "/proc/1/root",
    ],
)
def test_a_folder_outside_the_home_is_refused(make_lease: LeaseMaker, folder: str) -> None:
    with pytest.raises(DriverError) as caught:
        home_of(live(make_lease, folder), HOMES)
    assert caught.value.code == "inputs.live_refused"
    assert not caught.value.give_back


OWNERS = ["..", ".", "", "eve/..", "../eve", "a/b", "{principal_id}", "$(X)", "a:b", "-x", "a\n", "模型", ".ssh"]


@pytest.mark.parametrize("owner", OWNERS)
def test_a_name_that_is_no_folders_name_is_refused(make_lease: LeaseMaker, owner: str) -> None:
    with pytest.raises(DriverError) as caught:
        home_of(live(make_lease, f"/home/{owner}", owner=owner), HOMES)
    assert caught.value.code == "principal.name"


def test_without_a_volume_live_is_refused_and_snapshots_are_not(make_lease: LeaseMaker) -> None:
    options = KubernetesOptions(environments={"default": "x"})
    with pytest.raises(DriverError) as caught:
        check_lease(live(make_lease, "/home/ada"), options)
    assert caught.value.code == "inputs.live_refused"
    plain, _source = make_lease()
    check_lease(plain, options)
    assert home_of(plain, HOMES) is None


def template(lease: Lease, homes: Homes | None) -> dict[str, Any]:
    found: dict[str, Any] = pod_template(lease, KubernetesOptions(homes=homes), "x:1", "code", {}, None)["spec"]
    return found


def test_only_user_code_sees_the_home_and_no_group_is_given_it(make_lease: LeaseMaker) -> None:
    pod = template(live(make_lease, "/home/ada/project"), Homes("homes", uid_base=200_000))
    assert {"name": "home", "persistentVolumeClaim": {"claimName": "homes"}} in pod["volumes"]
    seen = {
        c["name"]: [m for m in c["volumeMounts"] if m["name"] == "home"] for c in (*pod["initContainers"], *pod["containers"])
    }
    assert seen == {"prepare": [], "deliver": [], "main": [{"name": "home", "mountPath": "/home/ada", "subPath": "7/42"}]}
    assert "fsGroup" not in pod["securityContext"]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (200_042, 200_042)
    main = next(c for c in pod["containers"] if c["name"] == "main")
    assert "lease" not in {mount["name"] for mount in main["volumeMounts"]}, "the run's token is not among what it sees"


def test_a_snapshot_gets_no_volume(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease()
    pod = template(lease, HOMES)
    assert pod == template(lease, None)
    assert pod["securityContext"]["fsGroup"] == 1000


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("shared", "/home/{owner}"),
        ("{tenant_id}", "/home/{owner}"),
        ("../{owner}", "/home/{owner}"),
        ("/{owner}", "/home/{owner}"),
        ("{owner}/", "/home/{owner}"),
        ("{name}", "/home/{owner}"),
        ("{owner", "/home/{owner}"),
        ("$(X)/{owner}", "/home/{owner}"),
        ("{owner}", "home"),
        ("{owner}", "/"),
        ("{owner}", "/{owner}"),
        ("{owner}", "/etc"),
        ("{owner}", "/tessera"),
        ("{owner}", "/tessera-lease/x"),
        ("{owner}", "/home/../etc"),
        ("{owner}", "/home:x"),
        ("{owner.__class__}", "/home/{owner}"),
    ],
)
def test_settings_by_which_people_would_share_a_home_are_refused(tmp_path: Path, folder: str, path: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'[homes]\nclaim = "homes"\nfolder = "{folder}"\npath = "{path}"\n')
    with pytest.raises(ProxyError):
        read_options(file, None, {"default": "x"}, "http://x")


def test_settings_name_the_volume(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[homes]\nclaim = "nfs"\nfolder = "{owner}"\npath = "/var/lib/tessera/homes/{owner}"\nuid_base = 200000\n')
    homes = read_options(file, None, {"default": "x"}, "http://x").homes
    assert homes == Homes("nfs", "{owner}", "/var/lib/tessera/homes/{owner}", 200_000)
