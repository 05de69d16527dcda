"""What a person gets told for bad input, from the submit through the real service to a real local Proxy and back.

Each row of the two tables: what is wrong, the stable code, and words of the message in English and Chinese. What is refused at
the submit leaves nothing in the database; what fails while running leaves nothing at the cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

from tessera_hub.client import TesseraClient, TesseraError
from tests.clock import DAY, WallClock
from tests.hub_double import HubDouble
from tests.proxy.by_hand import BOOTSTRAP
from tests.proxy.machine import LocalProxy, small_disk
from tests.service import ServiceProcess, script_spec, upload

pytestmark = pytest.mark.timeout(300)

GIB = 1 << 30
MIB = 1 << 20


class Place:
    """A service with a Proxy, and Ada's client."""

    def __init__(self, directory: Path, command: tuple[str, ...] = ()) -> None:
        self.hub = HubDouble()
        self.hub.start()
        self.token = self.hub.add_user("ada", "red")
        self.service = ServiceProcess(directory / "service", self.hub, local_token=BOOTSTRAP, snapshot_limit_bytes=GIB)
        self.service.start(command_prefix=command)
        self.api = self.service.api(self.token)
        self.proxy = LocalProxy(self.service, directory / "proxy", self.api)
        self.proxy.start()
        self.proxy.wait_for_session()
        deadline = time.monotonic() + 30
        while not self.api.get("/environments").json():
            assert time.monotonic() < deadline, self.proxy.log_path.read_text()
            time.sleep(0.1)
        time.sleep(2.1)  # what the service keeps in mind about clusters

    def close(self) -> None:
        if self.proxy.process is not None:
            self.proxy.stop()
        self.service.stop()
        self.hub.stop()

    def rows(self) -> dict[str, int]:
        """Return how many rows each table has that a submit writes to."""
        connection = sqlite3.connect(f"file:{self.service.data_dir / 'tessera.sqlite'}?mode=ro", uri=True)
        tables = ("task", "run", "task_event", "run_output", "meter_event", "usage_interval", "recurring_task")
        counts = {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
        connection.close()
        return counts

    def used(self) -> int:
        """Return how much of any quota is taken."""
        return sum(line["used"] for queue in self.api.get("/queues").json() for line in queue["quota"])

    def notebook_spec(self, content: bytes, **fields: Any) -> dict[str, Any]:
        digest, size = upload(self.api, content)
        files = {"files": [{"path": "nb.ipynb", "sha256": digest, "size": size}]}
        spec = {"name": "bad", "kind": "notebook", "entry": "nb.ipynb", "inputs": files}
        return spec | {"roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 512}}]} | fields

    def script(self, text: bytes = b"print(1)", **fields: Any) -> dict[str, Any]:
        return script_spec(*upload(self.api, text), **fields)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not below pytest's own: people's runs have their own uids and must get through."""
    made = Path(tempfile.mkdtemp(prefix="tessera-bad-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Path(tempfile.mkdtemp(prefix="tessera-bad-"))
    made.chmod(0o711)
    found = Place(made)
    yield found
    found.close()
    shutil.rmtree(made, ignore_errors=True)


def notebook(*cells: str, parameters: str | None = None, kernel: str | None = None) -> bytes:
    made = nbformat.v4.new_notebook()
    if parameters is not None:
        made.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    if kernel is not None:
        made.metadata["kernelspec"] = {"name": kernel, "display_name": kernel}
    return nbformat.writes(made).encode()


def chinese(text: str) -> bool:
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def resources(**fields: Any) -> list[dict[str, Any]]:
    return [{"resources": {"cpu_millicores": 100, "memory_mib": 128} | fields}]


def huge(place: Place) -> dict[str, Any]:
    spec = place.script()
    spec["inputs"]["files"].append({"path": "big.bin", "sha256": "0" * 64, "size": 2 * GIB})
    return spec


@dataclass(frozen=True)
class Refused:
    """A specification that is refused at the submit.

    Attributes:
        words: of the English title and hint together.
        facts: of the problem's detail, for programs.
    """

    name: str
    make: Callable[[Place], dict[str, Any]]
    status: int
    code: str
    words: tuple[str, ...]
    facts: tuple[tuple[str, Any], ...] = ()


BROKEN = b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {},\n "cells": [}'
TYPED = notebook("print(epochs)", parameters="epochs = 1")

REFUSED = (
    Refused(
        "broken notebook JSON",
        lambda p: p.notebook_spec(BROKEN),
        422,
        "notebook.invalid",
        ("not valid JSON", "line 2, column 12"),
        (("line", 2), ("column", 12)),
    ),
    Refused("JSON but no notebook", lambda p: p.notebook_spec(b"[1, 2]"), 422, "notebook.invalid", ("notebook format",)),
    Refused("no text", lambda p: p.notebook_spec(bytes(range(256))), 422, "notebook.invalid", ("notebook format", "encoding")),
    Refused("an empty file", lambda p: p.notebook_spec(b""), 422, "notebook.invalid", ("line 1",)),
    Refused(
        "cells that are none",
        lambda p: p.notebook_spec(b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [7]}'),
        422,
        "notebook.invalid",
        ("cell 1",),
    ),
    Refused("nested without end", lambda p: p.notebook_spec(b"[" * 200_000), 422, "notebook.invalid", ("notebook format",)),
    Refused(
        "unknown kernel, chosen",
        lambda p: p.notebook_spec(notebook("1"), kernel="fortran"),
        422,
        "kernel.unknown",
        ("fortran", "python3"),
    ),
    Refused(
        "unknown kernel, the notebook's own",
        lambda p: p.notebook_spec(notebook("1", kernel="my-old-env")),
        422,
        "kernel.unknown",
        ("my-old-env", "python3"),
    ),
    Refused(
        "missing file, not in the snapshot",
        lambda p: p.script(entry="elsewhere.py") | {"inputs": p.script()["inputs"]},
        422,
        "request.invalid",
        ("elsewhere.py", "not among the files"),
    ),
    Refused(
        "missing file, not uploaded", lambda _p: script_spec("0" * 64, 3), 409, "inputs.not_uploaded", ("hello.py", "uploaded")
    ),
    Refused(
        "parameter of a wrong type",
        lambda p: p.notebook_spec(TYPED, parameters={"epochs": "three"}),
        422,
        "parameter.type",
        ("epochs", "int", "'three'"),
        (("name", "epochs"), ("expected", "int")),
    ),
    Refused(
        "parameter with a misspelt name",
        lambda p: p.notebook_spec(TYPED, parameters={"epoch": 3}),
        422,
        "parameter.unknown",
        ("no parameter epoch", "Name one of: epochs"),
    ),
    Refused("snapshot of 2 GB", huge, 413, "inputs.too_large", ("2049 MiB", "1024 MiB")),
    Refused(
        "more processors than any node has",
        lambda p: p.script(roles=resources(cpu_millicores=9_000_000)),
        422,
        "never.too_large",
        ("never", "large enough"),
    ),
    Refused(
        "more memory than any node has",
        lambda p: p.script(roles=resources(memory_mib=1 << 29)),
        422,
        "never.too_large",
        ("never",),
    ),
    Refused(
        "a card where there is none",
        lambda p: p.script(roles=resources(cards={"centi_cards": 100, "model": "H200-141G"})),
        422,
        "never.no_card_class",
        ("never", "card"),
    ),
    Refused("unknown queue", lambda p: p.script(queue="nowhere"), 422, "queue.unknown", ("red/nowhere", "red/default")),
    Refused("unknown tenant", lambda p: p.script(tenant="blue"), 403, "tenant.unknown", ("blue", "red")),
    Refused(
        "unknown environment", lambda p: p.script(environment="moon"), 422, "environment.unknown", ("environment moon", "default")
    ),
    Refused("unknown cluster", lambda p: p.script(clusters=["moon"]), 422, "cluster.unknown", ("moon", "local")),
    Refused("a time without a zone", lambda p: p.script(schedule={"at": "2099-01-01T00:00:00"}), 422, "request.invalid", ("at",)),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_can_be_told_at_the_submit_is_told_there_and_leaves_nothing(place: Place, case: Refused) -> None:
    spec = case.make(place)
    before = place.rows(), place.used()
    english = place.api.post("/tasks", json=spec, headers={"Accept-Language": "en"})
    assert (english.status_code, english.json()["code"]) == (case.status, case.code), english.text
    body = english.json()
    told = f"{body['title']} {body.get('hint', '')}"
    assert all(word in told for word in case.words), told
    assert all(body["detail"][key] == value for key, value in case.facts), body
    assert not chinese(told)
    other = place.api.post("/tasks", json=spec, headers={"Accept-Language": "zh-CN"}).json()
    assert chinese(other["title"]), other
    (batch,) = place.api.post("/tasks/batch", json={"tasks": [spec]}).json() if case.code != "request.invalid" else (None,)
    assert batch is None or batch["problem"]["code"] == case.code
    assert (place.rows(), place.used()) == before


def test_a_notebook_that_is_right_passes_the_same_check(place: Place) -> None:
    """A value that only needs fitting, a computed name of the cell, and no tagged cell at all."""
    computed = notebook("1", parameters="epochs = 1\nfor rate in (0.1,):\n    pass")
    for content, parameters in (
        (TYPED, {"epochs": 3.0}),
        (computed, {"rate": 0.5}),
        (notebook("1"), {"anything": [1]}),
        (notebook("1", kernel="python3"), {}),
    ):
        spec = place.notebook_spec(content, parameters=parameters, schedule={"at": "2099-01-01T00:00:00Z"})
        answer = place.api.post("/tasks", json=spec)
        assert answer.status_code == 201, answer.text
        place.api.post(f"/tasks/{answer.json()['id']}/cancel").raise_for_status()


def test_a_wrong_token_is_told_in_both_languages_and_leaves_nothing(place: Place) -> None:
    before = place.rows()
    spec = place.script()
    for headers, code, word in (
        ({"Authorization": "Bearer wrong"}, "auth.invalid_token", "expired"),
        ({}, "auth.required", "token"),
    ):
        with httpx.Client(base_url=f"{place.service.url}/api/v1", headers=headers) as client:
            english = client.post("/tasks", json=spec)
            assert (english.status_code, english.json()["code"]) == (401, code)
            assert word in english.json()["title"]
            assert english.json()["hint"]
            other = client.post("/tasks", json=spec, headers={"Accept-Language": "zh-CN"}).json()
            assert chinese(other["title"])
            assert chinese(other["hint"])
    assert place.rows() == before


def test_a_snapshot_of_2_gb_is_refused_before_a_byte_is_read_or_sent(place: Place, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)")
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(2 * GIB)
    before = place.rows()
    begun = time.monotonic()
    with TesseraClient(place.service.url, place.token) as client, pytest.raises(TesseraError) as error:
        client.submit(tmp_path / "train.py", include="folder")
    assert error.value.code == "snapshot.too_large"
    assert time.monotonic() - begun < 5, "the file was read"
    assert place.rows() == before


def test_an_upload_that_announces_2_gb_is_refused_and_leaves_no_piece(place: Place) -> None:
    digest = "ab" * 32
    headers = {"Upload-Offset": "0", "Upload-Length": str(2 * GIB), "Accept-Language": "zh-CN"}
    answer = place.api.patch(f"/blobs/{digest}", content=b"x" * 1000, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "blob.too_large")
    assert chinese(answer.json()["title"])
    assert place.api.head(f"/blobs/{digest}").status_code == 404
    assert not list(place.service.data_dir.rglob(f"{digest}*"))


@dataclass(frozen=True)
class Ended:
    """A run that meets something bad; ``code`` None: it succeeds all the same."""

    name: str
    make: Callable[[Place], dict[str, Any]]
    code: str | None
    words: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


FLOOD = b"import os\nline = b'x' * 9_999 + b'\\n'\nfor _ in range(8_000):\n    os.write(1, line)\nprint('the end')\n"
BINARY = b"import os\nos.write(1, bytes(range(256)) * 20)\nos.write(1, b'\\xe4\\xb8')\nprint('and text')\n"

KILLED = notebook("print('before', flush=True)", "import os\nos.kill(os.getpid(), 9)", "print('never')")

ENDED = (
    Ended(
        "killed kernel",
        lambda p: p.notebook_spec(
            notebook("print('before', flush=True)", "import os\nos.kill(os.getpid(), 9)", "print('never')")
        ),
        "kernel.died",
        ("The kernel died.",),
        ("before",),
    ),
    Ended("error in a cell", lambda p: p.notebook_spec(notebook("1 / 0")), "cell.error", ("ZeroDivisionError",)),
    Ended("error in a script", lambda p: p.script(b"raise SystemExit(7)"), "script.exit", ("The script ended with an error.",)),
    Ended("too much memory", lambda p: p.script(b"x = bytearray(900 << 20)"), "limit.memory", ("memory limit",)),
    Ended(
        "too long",
        lambda p: p.script(b"import time; time.sleep(60)", lifecycle={"max_run_seconds": 1, "grace_seconds": 1}),
        "limit.time",
        ("time limit",),
    ),
    Ended("binary in the log", lambda p: p.script(BINARY), None, (), ("and text",)),
    Ended("output without end", lambda p: p.script(FLOOD), None, (), ("xxx",)),
)


@pytest.mark.parametrize("case", ENDED, ids=lambda case: case.name)
def test_what_goes_wrong_while_running_is_told_with_a_reason_and_leaves_nothing(place: Place, case: Ended) -> None:
    answer = place.api.post("/tasks", json=case.make(place))
    assert answer.status_code == 201, answer.text
    task = place.proxy.wait(answer.json()["id"], seconds=120)
    if case.code is None:
        assert task["phase"] == "SUCCEEDED", task
    else:
        assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("FAILED", [case.code]), task
        assert all(word in task["reasons"][0]["message"] for word in case.words), task["reasons"]
        other = place.api.get(f"/tasks/{task['id']}", headers={"Accept-Language": "zh-CN"}).json()
        assert chinese(other["reasons"][0]["message"]), other["reasons"]
    log = place.api.get(f"/tasks/{task['id']}/logs/output", params={"limit": 4 << 20})
    assert all(word in log.text for word in case.log), log.text[-2000:]
    place.proxy.wait_until_forgotten()
    assert place.used() == 0


def last_task(place: Place, name: str) -> dict[str, Any]:
    spec = {"binary": BINARY, "flood": FLOOD}[name]
    found: dict[str, Any] = place.proxy.wait(place.api.post("/tasks", json=place.script(spec)).json()["id"], seconds=120)
    return found


def test_binary_in_a_log_is_valid_text_in_the_live_stream(place: Place) -> None:
    task = last_task(place, "binary")
    text = ""
    with place.api.stream("GET", f"/tasks/{task['id']}/follow") as stream:
        event = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event == "log":
                text += json.loads(line.removeprefix("data:"))["text"]
            if event == "end":
                break
    assert "and text" in text
    assert "\0" not in text
    assert "\ufffd" in text


def test_output_without_end_is_bounded_and_says_so(place: Place) -> None:
    task = last_task(place, "flood")
    end = int(place.api.get(f"/tasks/{task['id']}/logs/output", params={"limit": 1}).headers["X-Log-End"])
    assert 60 * MIB < end < 70 * MIB
    tail = place.api.get(f"/tasks/{task['id']}/logs/output", params={"offset": -2000}).text
    assert "not kept" in tail, tail
    for speaks in ("en", "zh-CN"):
        events = place.api.get(f"/tasks/{task['id']}/events", headers={"Accept-Language": speaks}).json()
        (note,) = [e for e in events if e["kind"] == "note"]
        assert note["reason"]["code"] == "output.truncated"
        assert chinese(note["reason"]["message"]) is (speaks == "zh-CN")


@pytest.mark.root
def test_a_disk_that_fills_while_running_is_told(directory: Path) -> None:
    """Needs root: the Proxy's directory is a disk of 4 MiB."""
    found = Place(directory)
    try:
        found.proxy.stop()
        with small_disk(found.proxy.data_dir, 4 * 1024):
            found.proxy.start()
            found.proxy.wait_for_session()
            text = "with open('big', 'wb', buffering=0) as f:\n    while True:\n        f.write(bytes(1 << 16))\n"
            task = found.proxy.wait(found.proxy.submit(text))
            assert (task["phase"], [r["code"] for r in task["reasons"]]) == ("FAILED", ["disk.full"])
            assert "The disk is full." in task["reasons"][0]["message"]
            other = found.api.get(f"/tasks/{task['id']}", headers={"Accept-Language": "zh-CN"}).json()
            assert chinese(other["reasons"][0]["message"])
            found.proxy.wait_until_forgotten()
            assert found.used() == 0
            found.proxy.stop()
    finally:
        found.close()


@pytest.mark.parametrize("days", [2, -2])
def test_a_clock_that_jumps_while_running_changes_neither_the_end_nor_the_bill(
    directory: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock(directory / "clock")
    # The service is started with them, the Proxy inherits them from here.
    found = None
    try:
        with monkeypatch.context() as patch:
            for name, value in clock.environment.items():
                patch.setitem(os.environ, name, value)
            found = Place(directory)
        task_id = found.proxy.submit("import time\nprint('begun', flush=True)\ntime.sleep(6)\nprint('ended')\n")
        found.proxy.wait_for_output(task_id, "begun")
        clock.move(days * DAY)
        task = found.proxy.wait(task_id, seconds=90)
        assert (task["phase"], task["attempts"], task["reasons"]) == ("SUCCEEDED", 1, []), task
        assert task["started_at"] <= task["finished_at"]
        clock.move(0)  # somebody sets it right
        deadline = time.monotonic() + 30
        while True:
            bill = found.api.get(f"/tasks/{task_id}/bill").json()
            if bill["lines"] and not any(line["provisional"] for line in bill["lines"]):
                break
            assert time.monotonic() < deadline, bill
            time.sleep(0.2)
        assert 4 <= bill["seconds"] <= 30, bill
        found.proxy.wait_until_forgotten(60)
    finally:
        if found is not None:
            found.close()
