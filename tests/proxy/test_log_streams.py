"""The streams of a run's log: those of its parts, and no other name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.proxy.by_hand import ProxyByHand
from tests.service import script_spec, upload


def started(proxy: ProxyByHand, ada: httpx.Client, nodes: int) -> dict[str, object]:
    """Return the lease of a running task of several nodes."""
    spec = script_spec(*upload(ada, b"print('hello')\n"))
    spec["roles"][0]["replicas"] = nodes
    proxy.begin("gang")
    answer = ada.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    return proxy.start(answer.json()["id"])


def test_each_part_has_a_stream_of_its_own(proxy: ProxyByHand, ada: httpx.Client) -> None:
    lease = started(proxy, ada, 3)
    for stream, text in (("output", b"first"), ("part-1", b"second"), ("part-2", b"third")):
        assert proxy.run_call(lease, "PUT", f"logs/{stream}", params={"offset": 0}, content=text).json() == {"end": len(text)}
        shown = ada.get(f"/tasks/{lease['task_id']}/logs/{stream}")
        assert shown.content == text
        assert shown.headers["X-Log-Final"] == "false"
    assert ada.get(f"/tasks/{lease['task_id']}/logs/part-9").content == b""


@pytest.mark.parametrize(
    "stream", ["part-1", "part-0", "part-01", "part-", "part--1", "part-99999", "other", "..%2foutput", "output%0a"]
)
def test_other_names_are_refused_and_write_nothing(proxy: ProxyByHand, ada: httpx.Client, stream: str) -> None:
    lease = started(proxy, ada, 1)
    answer = proxy.run_call(lease, "PUT", f"logs/{stream}", params={"offset": 0}, content=b"x")
    assert answer.status_code in (404, 422), answer.text
    assert ada.get(f"/tasks/{lease['task_id']}/logs/output").content == b""
    assert ada.get(f"/tasks/{lease['task_id']}/logs/part-1").content == b""


def follow(ada: httpx.Client, task: object, last: str | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what a stream tells to its end: id, name and data of each event."""
    found, fields = [], {"id": "", "event": "", "data": ""}
    headers = {} if last is None else {"Last-Event-ID": last.encode("latin-1")}
    with ada.stream("GET", f"/tasks/{task}/follow", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            name, _colon, value = line.partition(":")
            if name in fields:
                fields[name] = value.strip()
            elif not line and fields["data"]:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
                if fields["event"] == "end":
                    return found
                fields["data"] = ""
    raise AssertionError("the stream ended early")


def test_a_stream_that_is_taken_up_after_a_new_attempt_tells_all_of_the_new_log(proxy: ProxyByHand, ada: httpx.Client) -> None:
    lease = started(proxy, ada, 1)
    proxy.run_call(lease, "PUT", "logs/output", params={"offset": 0}, content=b"a first attempt\xe2\x82")
    proxy.event(lease, kind="phase", phase="FAILED")
    told = follow(ada, lease["task_id"])
    text = "".join(data["text"] for _id, name, data in told if name == "log")
    assert text == "a first attempt\ufffd", "a cut character at the end is shown"
    assert "log" not in [name for _id, name, _data in follow(ada, lease["task_id"], told[-1][0])]
    assert ada.post(f"/tasks/{lease['task_id']}/retry").status_code == 202
    again = proxy.start(lease["task_id"])
    proxy.run_call(again, "PUT", "logs/output", params={"offset": 0}, content=b"second")
    proxy.event(again, kind="phase", phase="SUCCEEDED")
    text = "".join(data["text"] for _id, name, data in follow(ada, lease["task_id"], told[-1][0]) if name == "log")
    assert text == "second"
    for strange in ("\u00b2", "9" * 5000, "1-x", ""):
        assert follow(ada, lease["task_id"], strange)[-1][1] == "end"
