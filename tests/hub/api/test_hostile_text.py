"""What no engine could carry to a program as it is, or no database keep, is refused at every door a specification comes in."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.hub_double import HubDouble
from tests.service import ServiceProcess, script_spec, upload

NUMBER = float("nan")
LONG = "x" * 140_000


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """With its loops, which read what was stored."""
    process = ServiceProcess(tmp_path_factory.mktemp("service"), hub, schedule_interval=0.1)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def ada(service: ServiceProcess, people: SimpleNamespace) -> httpx.Client:
    return service.api(people.ada)


@pytest.fixture(scope="module")
def good(ada: httpx.Client) -> dict[str, Any]:
    return script_spec(*upload(ada, b"print(1)"))


def deep(levels: int) -> Any:
    value: Any = 1
    for _level in range(levels):
        value = [value]
    return value


REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("NaN", {"parameters": {"rate": NUMBER}}, "a number must be finite"),
    ("Infinity", {"parameters": {"rate": [{"a": -float("inf")}]}}, "a number must be finite"),
    ("a NUL in a parameter", {"parameters": {"a": {"\0": 1}}}, "not text"),
    ("a NUL in a label", {"labels": {"a": "\0"}}, "not text"),
    ("a NUL in an environment", {"environment": "default\0"}, "not text"),
    ("half a character", {"variables": {"A": "\ud800"}}, "not text"),
    ("nested without end", {"parameters": {"a": deep(600)}}, "nested too deep"),
    ("large parameters", {"parameters": {"a": [LONG, LONG]}}, "put what is longer into a file"),
    ("a parameter longer than an argument", {"parameters": {"a": LONG}}, "a has more than 131071 bytes"),
    ("a line break in a variable's name", {"variables": {"A\n": "x"}}, "not a name of an environment variable"),
    ("a variable's name with a command", {"variables": {"$(id)": "x"}}, "not a name of an environment variable"),
    ("a variable's name with its value", {"variables": {"A=B": "x"}}, "not a name of an environment variable"),
    ("a reserved variable", {"variables": {"LD_PRELOAD": "x"}}, "reserved"),
    ("a reserved secret", {"secrets": {"TESSERA_RUN_ID": "x"}}, "reserved"),
    ("a variable larger than the kernel takes", {"variables": {"A": LONG}}, "A has more than 131071 bytes"),
    ("variables larger than an object takes", {"variables": {f"A{i}": "ü" * 60_000 for i in range(3)}}, "at most 262144 bytes"),
    ("a line break in the name", {"name": "a\u2028b"}, "control characters"),
    ("a control character in the name", {"name": "a\x9bb"}, "control characters"),
    ("a long environment", {"environment": "x" * 121}, "at most 120 characters"),
    ("a long label", {"labels": {"a": "x" * 4097}}, "at most 4096 characters"),
    ("a parameter that is no name", {"parameters": {"a; import os": 1}}, "not allowed here"),
    ("an absolute entry", {"entry": "/etc/passwd"}, "relative path"),
    ("an entry outside", {"entry": "../x.py"}, "relative path"),
    ("a checkpoint directory outside", {"lifecycle": {"checkpoint_directory": "a/../../x"}}, "relative path"),
    ("an output folder outside", {"output_folder": "/srv"}, "relative path"),
    ("a file outside", {"inputs": {"files": [{"path": "a/../../b", "sha256": "0" * 64, "size": 0}]}}, "relative path"),
    (
        "a file with a control character",
        {"inputs": {"files": [{"path": "a\x7f", "sha256": "0" * 64, "size": 0}]}},
        "relative path",
    ),
    (
        "a file below a file",
        {"inputs": {"files": [{"path": p, "sha256": "0" * 64, "size": 0} for p in ("a", "a/b")]}},
        "lies below",
    ),
    ("a role that is an option", {"roles": [{"name": "--wrap"}]}, "not allowed here"),
    ("an unknown field", {"sbatch": ["--uid=0"]}, "not known here"),
)


@pytest.mark.parametrize(("fields", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_it_is_refused_with_what_to_do_wherever_it_comes_in(
    ada: httpx.Client, good: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    spec = good | fields
    json_type = {"Content-Type": "application/json"}
    for path, body in (
        ("/tasks", spec),
        ("/tasks/batch", {"tasks": [spec]}),
        ("/schedules", spec | {"schedule": {"cron": "0 7 * * *"}}),
        ("/workspaces", {"spec": spec | {"kind": "workspace"}}),
    ):
        answer = ada.post(path, content=json.dumps(body), headers=json_type)
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid"), answer.text[:500]
        assert words in answer.json()["hint"], answer.text[:500]
        assert len(answer.json()["hint"]) < 500
    hint = ada.post("/tasks", content=json.dumps(spec), headers=json_type | {"Accept-Language": "zh-CN"}).json()["hint"]
    assert any("\u4e00" <= c <= "\u9fff" for c in hint), hint
    assert ada.get("/tasks").json()["items"] == []


def test_what_was_refused_stops_nobody_s_queue(ada: httpx.Client, good: dict[str, Any], service: ServiceProcess) -> None:
    ada.post("/tasks", content=json.dumps(good | {"parameters": {"rate": NUMBER}}), headers={"Content-Type": "application/json"})
    task = ada.post("/tasks", json=good).json()
    deadline = time.monotonic() + 30
    while not (shown := ada.get(f"/tasks/{task['id']}").json())["reasons"]:  # of the scheduler's cycle that read it
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    assert "loop_failed" not in service.log_path.read_text()
