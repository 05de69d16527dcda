"""A Proxy's calls while its session is renewed: it is not fenced by itself, and is by another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from tessera_hub.proxy.connection import CallError, Connection
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.protocol import SessionAnswer, SessionRequest, Timers, UsageRequest
from tests.answering import Answering


class Service(ThreadingHTTPServer):
    """One that begins sessions when it is told to, and takes every other call for one of an older Proxy."""

    def __init__(self) -> None:
        self.asked, self.begins = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(Answering):
    server: Service

    def answer(self) -> None:
        self.body()
        if self.path.endswith("/sessions"):
            self.server.asked.set()
            assert self.server.begins.wait(20)
            answer = SessionAnswer(session_token="new", epoch=2, timers=Timers(), meter_checkpoint=None, cluster="c")
            return self.say(200, answer.model_dump(mode="json"))
        return self.say(409, {"code": "proxy.fenced"})

    do_POST = answer  # noqa: N815


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as double:
        threading.Thread(target=double.serve_forever, daemon=True).start()
        yield double
        double.begins.set()
        double.shutdown()


async def test_a_call_of_the_session_before_is_not_taken_for_another_proxys(service: Service) -> None:
    connection = Connection(f"http://127.0.0.1:{service.server_address[1]}", "c")
    connection.token = "old"
    request = SessionRequest(agent_version="1", instance="i", driver="local", capabilities=[])
    usage = UsageRequest(epoch=1, samples=[])
    try:
        renewal = asyncio.create_task(connection.session("secret", request))
        assert await asyncio.to_thread(service.asked.wait, 20)
        with pytest.raises(CallError) as told:
            await connection.usage(usage)
        assert told.value.status == 401
        service.begins.set()
        await renewal
        with pytest.raises(ProxyError):
            await connection.usage(usage)
    finally:
        await connection.close()
