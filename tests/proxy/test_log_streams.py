"""The streams of a run's log: those of its parts, and no other name."""

from __future__ import annotations

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
