"""What a person does in JupyterLab, without a browser: run code in a kernel, type into a terminal, save a file."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.browser.running import notebook


class Jupyter:
    """A Jupyter server at *url*, which ends with a slash."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.headers = {"Authorization": f"token {token}"}

    def post(self, path: str, body: Any = None) -> Any:
        """Call the server and return its JSON."""
        answer = httpx.post(f"{self.url}api/{path}", headers=self.headers, json=body, timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def save(self, path: str, text: str) -> None:
        """Save a text file, as an editor does."""
        body = {"type": "file", "format": "text", "content": text}
        httpx.put(f"{self.url}api/contents/{path}", headers=self.headers, json=body, timeout=30).raise_for_status()

    def save_notebook(self, path: str, *sources: str) -> None:
        """Save a notebook of such cells."""
        body = {"type": "notebook", "content": notebook(*sources)}
        httpx.put(f"{self.url}api/contents/{path}", headers=self.headers, json=body, timeout=30).raise_for_status()

    def look(self) -> None:
        """Ask what an open tab asks for ever."""
        for path in ("contents?content=1", "kernels", "terminals", "sessions", "status"):
            httpx.get(f"{self.url}api/{path}", headers=self.headers, timeout=30).raise_for_status()

    def run(self, code: str) -> str:
        """Run code in a new kernel and return the kernel's id as soon as the kernel is busy with it."""
        kernel: str = self.post("kernels", {"name": "python3"})["id"]
        asyncio.run(self._execute(kernel, code, "execute_input"))
        return kernel

    def printed(self, code: str, kernel: str = "") -> str:
        """Run code in a kernel, by default a new one, and return all that it printed and, if it failed, why."""
        return asyncio.run(self._execute(kernel or self.post("kernels", {"name": "python3"})["id"], code, "execute_reply"))

    async def _execute(self, kernel: str, code: str, until: str) -> str:
        socket = await self._connect(f"api/kernels/{kernel}/channels")
        header = {"msg_id": uuid4().hex, "msg_type": "execute_request", "session": "s", "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await socket.write_message(json.dumps(message))
        said, awaited = "", {until, "idle"} if until == "execute_reply" else {until}
        while awaited:
            text = await asyncio.wait_for(socket.read_message(), 60)
            assert text is not None
            found = json.loads(text)
            if found["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            content = found["content"]
            said += content.get("text", "") + "\n".join(content.get("traceback", ()))
            # Output may come after the reply, never after the kernel is idle.
            awaited -= {found["header"]["msg_type"], str(content.get("execution_state"))}
        socket.close()
        return said

    def type(self, line: str) -> str:
        """Open a terminal, type a line, and return the terminal's name once the line is echoed."""
        name: str = self.post("terminals")["name"]
        asyncio.run(self._type(name, line))
        return name

    async def _type(self, name: str, line: str) -> None:
        socket = await self._connect(f"terminals/websocket/{name}")
        await socket.write_message(json.dumps(["stdin", f"{line}\r"]))
        said = ""
        while line not in said:
            text = await asyncio.wait_for(socket.read_message(), 60)
            assert text is not None
            found = json.loads(text)
            said += found[1] if found[0] == "stdout" else ""
        socket.close()

    async def _connect(self, path: str) -> WebSocketClientConnection:
        return await websocket_connect(HTTPRequest(f"ws{self.url.removeprefix('http')}{path}", headers=self.headers))
