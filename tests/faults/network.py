"""A TCP link between Proxy and service that misbehaves on order: it drops answers, repeats requests, delays and is cut.

It understands just enough of HTTP/1.1 to see one request and one answer at a time: each connection carries requests with a
Content-Length or none, as our client sends them, and is closed after a fault.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Choice = Callable[[bytes], str | None]


async def read_message(reader: asyncio.StreamReader, *, head_only: bool = False) -> bytes:
    """Return one HTTP message, empty at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _colon, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    if head_only:
        return head
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while True:
            size_line = await reader.readuntil(b"\r\n")
            size = int(size_line.split(b";")[0], 16)
            piece = await reader.readexactly(size + 2)
            body += size_line + piece
            if size == 0:
                return head + body
    length = int(fields.get(b"content-length", b"0"))
    return head + (await reader.readexactly(length) if length else b"")


@dataclass(slots=True)
class Link:
    """The link. ``choose`` gets the first line of a request and names a fault.

    Faults: ``before`` (the request never arrives), ``after`` (it arrives, its answer is dropped), ``twice`` (it arrives twice,
    one after the other), ``late`` (a copy of it arrives again two seconds later), ``delay`` (half a second), ``half_request``
    and ``half_answer`` (cut in the middle of its bytes).

    Attributes:
        bytes_back: what was handed on to clients.
    """

    target: int
    choose: Choice = lambda _line: None
    cut: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    port: int = 0
    bytes_back: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen at a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.cut_now()
        for task in self._late:
            task.cancel()

    def cut_now(self) -> None:
        """End all connections, also those that wait."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            while request := await read_message(reader):
                if self.cut:
                    return
                fault = self.choose(request.split(b"\r\n", 1)[0])
                if fault is not None:
                    self.faults[fault] = self.faults.get(fault, 0) + 1
                if fault == "before":
                    return
                if fault == "half_request":
                    await self._ask(request[: len(request) // 2], whole=False)
                    return
                if fault == "delay":
                    await asyncio.sleep(0.5)
                answer = await self._ask(request)
                if fault == "twice":
                    answer = await self._ask(request)
                if fault == "late":
                    task = asyncio.create_task(self._again(request))
                    self._late.add(task)
                    task.add_done_callback(self._late.discard)
                if fault == "after" or not answer or self.cut:
                    return
                if fault == "half_answer":
                    answer = answer[: len(answer) // 2]
                self.bytes_back += len(answer)
                writer.write(answer)
                await writer.drain()
                if fault == "half_answer":
                    return
        except (ConnectionError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _again(self, request: bytes) -> None:
        await asyncio.sleep(2.0)
        await self._ask(request)

    async def _ask(self, request: bytes, *, whole: bool = True) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return b""
        self._open.add(writer)
        try:
            writer.write(request)
            await writer.drain()
            if not whole:
                await asyncio.sleep(0.2)  # what came is read before the end of it is seen
                return b""
            return await read_message(reader, head_only=request.startswith(b"HEAD "))
        except (ConnectionError, asyncio.IncompleteReadError):
            return b""
        finally:
            self._open.discard(writer)
            writer.transport.abort()


def seeded(seed: int, share: float) -> Choice:
    """Return a choice that harms this share of the requests, in a way that a seed repeats."""
    chance = random.Random(seed)

    def choose(_line: bytes) -> str | None:
        if chance.random() >= share:
            return None
        return chance.choice(["before", "after", "twice", "late", "delay"])

    return choose
