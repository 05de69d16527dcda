"""Files of runs, in pieces: what is cut goes on where it was, what is damaged is not taken, what is foreign is not shown."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tessera_hub.proxy.connection import Connection, ServiceInputs
from tessera_hub.proxy.drivers.base import DriverError, OutputPath
from tessera_hub.schemas.protocol import Lease
from tests.faults.network import Link
from tests.proxy.by_hand import ProxyByHand
from tests.service import ServiceProcess, upload

DATA = os.urandom(3 << 20)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def lease(proxy: ProxyByHand, ada: httpx.Client) -> dict[str, Any]:
    """The lease of a running task with ``main.py`` and three MiB of ``data/in.bin``."""
    script, size = upload(ada, b"pass")
    upload(ada, DATA)
    files = [
        {"path": "main.py", "sha256": script, "size": size},
        {"path": "data/in.bin", "sha256": DIGEST, "size": len(DATA), "mode": 0o640},
    ]
    spec = {"name": "files", "kind": "script", "entry": "main.py", "inputs": {"files": files}}
    answer = ada.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    proxy.begin()
    return proxy.start(answer.json()["id"])


def patch(proxy: ProxyByHand, lease: dict[str, Any], digest: str, offset: int, data: bytes, size: int) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(size)}
    return proxy.run_call(lease, "PATCH", f"outputs/{digest}", headers=headers, content=data)


def test_an_output_goes_on_where_it_was_cut(proxy: ProxyByHand, lease: dict[str, Any], ada: httpx.Client) -> None:
    data = os.urandom(100_000)
    digest = hashlib.sha256(data).hexdigest()
    assert proxy.run_call(lease, "HEAD", f"outputs/{digest}").status_code == 404
    assert patch(proxy, lease, digest, 0, data[:40_000], len(data)).status_code == 204
    assert proxy.run_call(lease, "HEAD", f"outputs/{digest}").headers["Upload-Offset"] == "40000"
    repeated = patch(proxy, lease, digest, 0, data[:40_000], len(data))
    assert (repeated.status_code, repeated.json()["code"], repeated.json()["offset"]) == (409, "blob.offset", 40_000)
    unfinished = proxy.run_call(lease, "PUT", f"outputs/{digest}", params={"path": "out.bin"})
    assert unfinished.status_code == 404, "half a file gets no name"
    assert patch(proxy, lease, digest, 40_000, data[40_000:], len(data)).status_code == 201
    for _ in range(2):
        assert proxy.run_call(lease, "PUT", f"outputs/{digest}", params={"path": "out.bin"}).status_code == 204
    (file,) = ada.get(f"/tasks/{lease['task_id']}/outputs").json()
    assert (file["path"], file["size"]) == ("out.bin", len(data))
    assert ada.get(f"/tasks/{lease['task_id']}/outputs/{digest}").content == data


def test_an_output_with_a_wrong_hash_is_dropped_whole(proxy: ProxyByHand, lease: dict[str, Any]) -> None:
    wrong = hashlib.sha256(b"something else").hexdigest()
    answer = patch(proxy, lease, wrong, 0, b"bytes", 5)
    assert (answer.status_code, answer.json()["code"]) == (422, "blob.hash_mismatch")
    assert proxy.run_call(lease, "HEAD", f"outputs/{wrong}").status_code == 404


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "a//b"])
def test_an_output_keeps_below_its_folder(proxy: ProxyByHand, lease: dict[str, Any], path: str) -> None:
    assert patch(proxy, lease, hashlib.sha256(b"x").hexdigest(), 0, b"x", 1).status_code == 201
    named = proxy.run_call(lease, "PUT", f"outputs/{hashlib.sha256(b'x').hexdigest()}", params={"path": path})
    assert (named.status_code, named.json()["code"]) == (422, "request.invalid")


def test_an_input_is_read_from_any_offset_and_only_the_runs_own(
    proxy: ProxyByHand, lease: dict[str, Any], ada: httpx.Client
) -> None:
    rest = proxy.run_call(lease, "GET", f"inputs/{DIGEST}", headers={"Range": "bytes=1000000-"})
    assert (rest.status_code, rest.content) == (206, DATA[1_000_000:])
    foreign, _size = upload(ada, b"of another task of the same tenant")
    assert proxy.run_call(lease, "GET", f"inputs/{foreign}").status_code == 404
    proxy.event(lease, phase="SUCCEEDED", exit_code=0)
    assert proxy.run_call(lease, "GET", f"inputs/{DIGEST}").status_code == 401


def test_half_a_checkpoint_is_not_handed_on(proxy: ProxyByHand, lease: dict[str, Any], ada: httpx.Client) -> None:
    """Two of two files make a checkpoint, one of two does not; the newest that is whole counts."""
    digest = hashlib.sha256(b"x").hexdigest()
    current = lease
    for attempt, (names, told) in enumerate([(["a", "b/c"], 2), (["a"], 2), ([], 0)], start=1):
        assert current["attempt"] == attempt
        assert patch(proxy, current, digest, 0, b"x", 1).status_code == 201
        for name in names:
            params = {"path": name, "kind": "checkpoint", "mode": 0o600}
            assert proxy.run_call(current, "PUT", f"outputs/{digest}", params=params).status_code == 204
        proxy.event(current, phase="FAILED", exit_code=1, detail={"checkpoint": told} if told else {})
        assert ada.post(f"/tasks/{lease['task_id']}/retry").status_code in (200, 202)
        current = proxy.lease(lease["task_id"])
        assert [(file["path"], file["mode"]) for file in current["checkpoint"]] == [("a", 0o600), ("b/c", 0o600)]
        assert proxy.run_call(current, "GET", f"inputs/{digest}").content == b"x"
        proxy.run_call(current, "POST", "claim", json={"lease_token": current["lease_token"], "who": "hand"})
        proxy.report(current, "RUNNING")


def test_a_note_is_kept_once_and_to_the_end(proxy: ProxyByHand, lease: dict[str, Any], ada: httpx.Client) -> None:
    note = {
        "kind": "note",
        "event_id": str(uuid4()),
        "reason": {"tier": 5, "code": "output.truncated", "detail": {"limit_bytes": 7}},
    }
    for _ in range(2):
        assert proxy.event(lease, **note) == "accepted"
    other = note | {"event_id": str(uuid4()), "reason": {"tier": 5, "code": "notebook.exit_early"}}
    assert proxy.event(lease, **other) == "accepted"
    assert [r["code"] for r in ada.get(f"/tasks/{lease['task_id']}").json()["reasons"]] == ["output.truncated"]
    proxy.event(lease, phase="SUCCEEDED", exit_code=0)
    task = ada.get(f"/tasks/{lease['task_id']}").json()
    assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("SUCCEEDED", ["output.truncated"])
    events = ada.get(f"/tasks/{lease['task_id']}/events").json()
    assert [e["reason"]["code"] for e in events if e["kind"] == "note"] == ["output.truncated", "notebook.exit_early"]
    stale = proxy.event(lease | {"lease_token": "0" * 32}, **(note | {"event_id": str(uuid4())}))
    assert stale == "stale"


class Patient:
    """Tries a call again after each network error, and counts them."""

    def __init__(self) -> None:
        self.errors = 0

    async def __call__(self, call: Any) -> None:
        while True:
            try:
                return await call()
            except httpx.HTTPError:
                self.errors += 1
                assert self.errors < 20


def harm(link: Link, fault: str, method: bytes, times: int) -> None:
    """Harm the next *times* requests of *method*."""
    left = [times]

    def choose(line: bytes) -> str | None:
        if not line.startswith(method) or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    link.choose = choose


def test_the_proxy_fetches_the_rest_of_an_input_that_was_cut(
    service: ServiceProcess, lease: dict[str, Any], tmp_path: Path
) -> None:
    async def fetch() -> tuple[int, int]:
        link = Link(service.port)
        await link.start()
        harm(link, "half_answer", b"GET", 3)
        connection = Connection(f"http://127.0.0.1:{link.port}/services/tessera", "local")
        patient = Patient()
        found = Lease.model_validate(lease)
        await ServiceInputs(connection, found, patient).fetch(tmp_path / "work", found.spec.inputs.files)
        await connection.close()
        await link.stop()
        return patient.errors, link.bytes_back

    errors, bytes_back = asyncio.run(fetch())
    assert errors == 3
    assert (tmp_path / "work" / "data" / "in.bin").read_bytes() == DATA
    assert (tmp_path / "work" / "data" / "in.bin").stat().st_mode & 0o777 == 0o640
    assert bytes_back < 2 * len(DATA), "what had come is not fetched again"


def test_an_input_that_is_damaged_in_the_store_fails_the_run(
    service: ServiceProcess, lease: dict[str, Any], tmp_path: Path
) -> None:
    (stored,) = (service.data_dir / "blobs").rglob(DIGEST)
    stored.write_bytes(b"?" + DATA[1:])

    async def fetch() -> None:
        connection = Connection(service.url, "local")
        found = Lease.model_validate(lease)
        with pytest.raises(DriverError) as caught:
            await ServiceInputs(connection, found, Patient()).fetch(tmp_path / "work", found.spec.inputs.files)
        assert (caught.value.code, caught.value.detail["path"]) == ("inputs.missing", "data/in.bin")
        await connection.close()

    asyncio.run(fetch())
    assert not (tmp_path / "work" / "data" / "in.bin").exists()


@pytest.mark.parametrize("fault", ["half_request", "before", "after", "twice", "late"])
def test_the_proxy_sends_the_rest_of_an_output_that_was_cut(
    service: ServiceProcess, lease: dict[str, Any], ada: httpx.Client, tmp_path: Path, fault: str
) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "out.bin").write_bytes(data)

    async def send() -> int:
        link = Link(service.port)
        await link.start()
        harm(link, fault, b"PATCH", 2)
        connection = Connection(f"http://127.0.0.1:{link.port}/services/tessera", "local")
        patient = Patient()
        output = OutputPath("out.bin", tmp_path / "out.bin", len(data), 0o600, os.geteuid())
        descriptor = os.open(output.file, os.O_RDONLY)
        await patient(lambda: connection.put_output(Lease.model_validate(lease), output, descriptor, "output"))
        os.close(descriptor)
        await connection.close()
        await link.stop()
        return patient.errors

    errors = asyncio.run(send())
    assert errors == (0 if fault in ("twice", "late") else 2)
    (file,) = ada.get(f"/tasks/{lease['task_id']}/outputs").json()
    assert ada.get(f"/tasks/{lease['task_id']}/outputs/{file['sha256']}").content == data
