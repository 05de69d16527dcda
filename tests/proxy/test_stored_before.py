"""What an older version accepted, with wider bounds, is still read everywhere; what nobody can read holds up nothing else."""

from __future__ import annotations

import gzip
import json
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import ValidationError

from tessera_hub.proxy.drivers.kubernetes.objects import lease_of
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.protocol import Dataset, Inventory, Lease
from tessera_hub.schemas.tasks import TaskSpec
from tests.proxy.by_hand import ProxyByHand
from tests.service import ServiceProcess, script_spec, upload

WIDE: dict[str, Any] = {
    "name": "two\u2028lines",
    "kernel": "",
    "labels": {"": "x" * 5000},
    "variables": {"V" * 300: "x" * 140_000},
    "secrets": {"TOKEN": "s" * 300},
    "parameters": {"a": "x" * 300_000},
    "output_folder": "out\u2028put",
}
"""Taken by the version before there were these bounds."""

UNREADABLE: dict[str, Any] = {"kind": "of another world", "lifecycle": {"retries": "many"}}


def submitted(api: httpx.Client, **fields: Any) -> str:
    answer = api.post("/tasks", json=script_spec(*upload(api, b"print('hello')\n"), **fields))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def rewrite(service: ServiceProcess, task_id: str, changed: dict[str, Any]) -> None:
    """Have a task stored as an older version has stored it."""
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///"), timeout=30) as connection:
        (text,) = connection.execute("SELECT spec FROM task WHERE id = ?", (UUID(task_id).hex,)).fetchone()
        spec = json.dumps(json.loads(text) | changed)
        assert connection.execute("UPDATE task SET spec = ? WHERE id = ?", (spec, UUID(task_id).hex)).rowcount == 1
    connection.close()


@pytest.fixture
def wide(proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client) -> str:
    task_id = submitted(ada)
    rewrite(service, task_id, WIDE)
    proxy.begin()
    return task_id


def test_an_old_task_is_leased_shown_cancelled_and_ended(proxy: ProxyByHand, ada: httpx.Client, wide: str) -> None:
    lease = proxy.start(wide)
    assert {name: lease["spec"][name] for name in WIDE} == WIDE
    shown = ada.get(f"/tasks/{wide}")
    assert (shown.status_code, shown.json()["spec"]["parameters"]) == (200, WIDE["parameters"])
    assert proxy.run_call(lease, "GET", "inputs").status_code == 200
    assert ada.post(f"/tasks/{wide}/cancel").status_code == 202
    assert [order["run_id"] for order in proxy.sync()["cancels"]] == [lease["run_id"]]
    assert proxy.event(lease, phase="CANCELLED") == "accepted"


def test_an_old_lease_survives_a_restart_of_the_proxy(proxy: ProxyByHand, wide: str, tmp_path: Path) -> None:
    document = proxy.lease(wide)
    with pytest.raises(ValidationError):
        Lease.model_validate(document)
    lease = Lease.model_validate(document, context=STORED)
    loaded = RunDirectory.load(RunDirectory.create(tmp_path, lease).path)
    assert loaded is not None
    assert loaded.lease == lease
    packed = b64encode(gzip.compress(lease.model_dump_json().encode())).decode()
    assert lease_of({"data": {"lease.json.gz": packed}, "metadata": {}}) == lease


def test_a_task_that_nobody_can_read_holds_up_no_other(proxy: ProxyByHand, service: ServiceProcess, ada: httpx.Client) -> None:
    broken, stopped, ending = submitted(ada), submitted(ada), submitted(ada)
    rewrite(service, broken, UNREADABLE)
    proxy.begin()
    ends = proxy.start(ending)
    stops = proxy.start(stopped)
    for task_id in (ending, stopped):
        rewrite(service, task_id, UNREADABLE)
    assert ada.post(f"/tasks/{stopped}/cancel").status_code == 202
    answer = proxy.sync()
    assert all(lease["task_id"] != broken for lease in answer["leases"])
    assert [order["run_id"] for order in answer["cancels"]] == [stops["run_id"]]
    assert proxy.event(ends, phase="FAILED", reason={"tier": 4, "code": "script.exit", "message": ""}) == "accepted"


@pytest.mark.parametrize("name", sorted(WIDE))
def test_the_bounds_hold_for_what_is_new(name: str) -> None:
    body: dict[str, Any] = {"name": "new", "kind": "script", "entry": "a.py"}
    body |= {"inputs": {"files": [{"path": "a.py", "sha256": "0" * 64, "size": 0}]}}
    TaskSpec.model_validate(body)
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(body | {name: WIDE[name]})
    assert getattr(TaskSpec.model_validate(body | {name: WIDE[name]}, context=STORED), name) == WIDE[name]


@pytest.mark.parametrize("changed", [{"variables": {"LD_PRELOAD": "x"}}, {"variables": {"1": "x"}}, {"output_folder": "../x"}])
def test_what_was_never_accepted_is_not_read_either(changed: dict[str, Any]) -> None:
    body: dict[str, Any] = {"name": "new", "kind": "script", "entry": "a.py"}
    body |= {"inputs": {"files": [{"path": "a.py", "sha256": "0" * 64, "size": 0}]}}
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(body | changed, context=STORED)


def test_who_has_no_data_sets_writes_what_was_written_before_there_were_any(proxy: ProxyByHand, ada: httpx.Client) -> None:
    task_id = submitted(ada)
    assert "datasets" not in ada.get(f"/tasks/{task_id}").json()["spec"]
    proxy.begin()
    assert "datasets" not in proxy.lease(task_id)["spec"]
    inventory = Inventory(pools=[])
    assert "datasets" not in inventory.model_dump(mode="json")
    assert "datasets" not in inventory.model_dump_json()
    full = Inventory(pools=[], datasets={"birds": Dataset()})
    assert Inventory.model_validate_json(full.model_dump_json()) == full
