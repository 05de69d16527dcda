"""A pod is deleted although the API server fails for a while."""

from __future__ import annotations

import asyncio
import json
from http.server import HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from kubernetes_asyncio.client import Configuration, V1DeleteOptions
from kubernetes_asyncio.config import kube_config

from tessera_spawner.kubernetes import TesseraKubeSpawner
from tests.answering import Answering

ANSWERS = (500, 429, 200)


def test_a_failed_deletion_is_tried_again_until_the_pod_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Server(Answering):
        def answer(self) -> None:
            self.body()
            asked.append(self.path.partition("?")[0])
            self.say(ANSWERS[len(asked) - 1], {})

        do_DELETE = answer  # noqa: N815

    async def delete() -> list[bool]:
        spawner = TesseraKubeSpawner(_mock=True, namespace="people")
        spawner.pod_name = "tessera-1"
        request = "tessera-1", V1DeleteOptions(), 0, 60
        try:
            done = [await spawner._make_delete_pod_request(*request) for _ in ANSWERS]
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            return [*done, await spawner._make_delete_pod_request(*request)]  # nobody listens any more
        finally:
            await spawner.api.api_client.close()

    server = HTTPServer(("127.0.0.1", 0), Server)
    here = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    (tmp_path / "config").write_text(json.dumps(here))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert asyncio.run(delete()) == [False, False, True, False]
    finally:
        server.server_close()
        Configuration.set_default(None)
    assert set(asked) == {"/api/v1/namespaces/people/pods/tessera-1"}
