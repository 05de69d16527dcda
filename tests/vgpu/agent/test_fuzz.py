"""Whatever is sent to the agent's socket and port, it answers the next, and changes nothing but what was asked for rightly."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera_vgpu.agent.resizing import FIELDS, change, describe
from tessera_vgpu.agent.view import View
from tessera_vgpu.agent.web import ControlServer, MetricsServer
from tessera_vgpu.bindings import Owner
from tessera_vgpu.cards import new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.choosing import Request
from tessera_vgpu.slots import SlotStore
from tests.vgpu.interposer.conftest import EFFORT

CARDS = [new_card("GPU-a", "A100-80G", 60_000, load().cards["A100-80G"].continuous)]
SECONDS = 30
many = settings(
    max_examples=100 * EFFORT,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

word = st.sampled_from(["", "slices", "lab", "train", "main", "other", "..", "%2e%2e", "%00", "a" * 5000, "\xe9"]) | st.text(
    max_size=8
)
path = st.one_of(
    st.just("/slices"),
    st.just("/slices/lab/train/main"),
    st.just("/slices/lab/train/main"),
    st.just("/metrics"),
    st.lists(word, max_size=6).map(lambda words: "/" + "/".join(words)),
)
amount = st.one_of(st.integers(-2, 70_000), st.sampled_from([1 << 31, 1 << 63, 1 << 64, -(1 << 70), 10**400]))
value = st.recursive(
    amount | st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2)
)
name = st.sampled_from(sorted(FIELDS)) | st.text(max_size=8)
body = st.one_of(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), amount, max_size=3).map(lambda fields: json.dumps(fields).encode()),
    st.dictionaries(name, value, max_size=3).map(lambda fields: json.dumps(fields).encode()),
    st.sampled_from(
        [b"", b"[" * 60_000, b'{"weight": 1e400}', b'{"weight": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}', b"\xff\xfe{}"]
    ),
    st.binary(max_size=50),
)
length = st.sampled_from(["", "-1", "x", "0", "+5", "1_0", "\u0661", "99999999", "9" * 5000])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """What looks like a request, and what does not."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    content = draw(body)
    said = draw(st.none() | st.none() | length)
    method = draw(st.sampled_from(["PATCH", "PATCH", "GET", "HEAD", "POST", "patch", "\xe9", ""]))
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "HTTP/x", ""]))
    more = draw(
        st.sampled_from(
            ["", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n", "x" * 70_000 + ": 1\r\n", "y: 1\r\n" * 200]
        )
    )
    head = f"{method} {draw(path)} {version}\r\nContent-Length: {len(content) if said is None else said}\r\n{more}\r\n"
    sent = head.encode("utf-8", "surrogatepass") + content
    return sent[: draw(st.sampled_from([len(sent), len(sent), len(sent), len(sent) // 2, 5]))]


class Agent:
    """The two services on a store with two slices."""

    def __init__(self, folder: Path) -> None:
        self.store = SlotStore(folder, lambda _folder, _uuids: None)
        for index, pod in enumerate(("train", "other")):
            slot = self.store.allocate(f"slot-{100 * index + place}" for place in range(30))
            owner, request = Owner(f"uid-{pod}", "lab", pod, "main"), Request(30, 1000)
            self.store.bind(slot.device_ids, owner, request, CARDS)
        self.socket = folder / "control.sock"
        self.control = ControlServer(self.socket, self.slices, partial(change, self.store, CARDS))
        self.metrics = MetricsServer(("127.0.0.1", 0), View, lambda: True)
        self.control.start()
        self.metrics.start()
        self.local = httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=SECONDS)
        self.client = httpx.Client(timeout=SECONDS)

    def slices(self) -> list[dict[str, Any]]:
        return [describe(slot, slot.binding) for slot in self.store.slots() if slot.binding is not None]

    def close(self) -> None:
        self.local.close()
        self.client.close()
        self.control.stop()
        self.metrics.stop()
        self.store.close()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    made = Agent(tmp_path_factory.mktemp("agent"))
    yield made
    made.close()


def send(client: socket.socket, content: bytes) -> bytes:
    """Send all, and return all that comes back."""
    client.settimeout(SECONDS)
    answer = b""
    # It does not read to the end what it refuses.
    with suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(content)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        while got := client.recv(1 << 16):
            answer += got
    return answer


@many
@given(requests())
def test_requests_to_the_socket(agent: Agent, capfd: pytest.CaptureFixture[str], sent: bytes) -> None:
    before = agent.slices()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(agent.socket))
        answer = send(client, sent)
    after = agent.slices()
    assert after[1] == before[1]
    if after != before:
        assert answer.startswith(b"HTTP/1.0 200")
        assert sent.startswith(b"PATCH /slices/lab/train/main ")
    assert agent.local.get("http://agent/slices").json() == after
    errors = capfd.readouterr().err
    assert "Traceback" not in errors, errors


@many
@given(requests())
def test_requests_to_the_port(agent: Agent, capfd: pytest.CaptureFixture[str], sent: bytes) -> None:
    host, _colon, port = agent.metrics.address.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        send(client, sent)
    assert agent.client.get(f"http://{agent.metrics.address}/healthz").text == "ok\n"
    errors = capfd.readouterr().err
    assert "Traceback" not in errors, errors
