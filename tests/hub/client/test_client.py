"""The SDK against the real service."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import ClassVar

import httpx
import pandas as pd
import pytest

from tessera_hub.client import AsyncTesseraClient, TesseraClient, TesseraError
from tessera_hub.client.submission import UPLOAD_CHUNK_BYTES
from tessera_hub.schemas.resources import CardMode
from tests.service import ServiceProcess


def notebook(folder: Path, name: str = "train.ipynb") -> Path:
    path = folder / name
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}))
    return path


def test_a_notebook_becomes_a_task_with_the_resources_asked_for(client: TesseraClient, tmp_path: Path) -> None:
    task = client.submit(notebook(tmp_path), parameters={"epochs": 3}, cpu=0.5, memory="512MiB", max_run_seconds=60)
    detail = task.refresh()
    assert detail.owner == "alice"
    assert detail.spec.parameters == {"epochs": 3}
    assert detail.spec.roles[0].resources.cpu_millicores == 500
    assert detail.spec.roles[0].resources.memory_mib == 512
    assert [file.path for file in detail.spec.inputs.files] == ["train.ipynb"]
    assert detail.spec.lifecycle.max_run_seconds == 60


def test_a_repeated_key_is_the_same_task_and_another_body_is_refused(client: TesseraClient, tmp_path: Path) -> None:
    path = notebook(tmp_path)
    first = client.submit(path, idempotency_key="again")
    assert client.submit(path, idempotency_key="again").id == first.id
    with pytest.raises(TesseraError) as refused:
        client.submit(path, idempotency_key="again", name="another")
    assert (refused.value.code, refused.value.status) == ("idempotency.mismatch", 409)


def test_a_cancelled_task_ends_and_its_life_is_told(client: TesseraClient, tmp_path: Path) -> None:
    task = client.submit(notebook(tmp_path))
    task.cancel()
    assert task.wait(timeout_seconds=10).phase == "CANCELLED"
    assert [event.phase_to for event in task.events()][-1] == "CANCELLED"
    assert list(task.logs(follow=True)) == []
    assert [update.kind for update in task.follow()][-1] == "end"
    assert task.bill().amount_micro == 0


def test_a_large_file_goes_on_where_its_upload_was_cut(service: ServiceProcess, token: str, tmp_path: Path) -> None:
    notebook(tmp_path)
    data = os.urandom(3 * UPLOAD_CHUNK_BYTES + 17)
    (tmp_path / "data.bin").write_bytes(data)

    class CutOnce(httpx.HTTPTransport):
        """A network that breaks once, behind the second piece."""

        pieces: ClassVar[list[int]] = []

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PATCH":
                self.pieces.append(int(request.headers["Upload-Offset"]))
                if len(self.pieces) == 3:
                    super().handle_request(request).close()
                    raise httpx.ReadError("cut", request=request)
            return super().handle_request(request)

    with TesseraClient(service.url, token, transport=CutOnce()) as client:
        files = client.submit(tmp_path / "train.ipynb", include=["data.bin"]).refresh().spec.inputs.files
    assert CutOnce.pieces == [0, UPLOAD_CHUNK_BYTES, 2 * UPLOAD_CHUNK_BYTES, 3 * UPLOAD_CHUNK_BYTES]
    assert {file.path: file.size for file in files}["data.bin"] == len(data)


def test_what_the_store_has_is_not_sent_again(service: ServiceProcess, token: str, tmp_path: Path) -> None:
    sent: list[str] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(f"{request.method} {request.url.path.rsplit('/', 2)[-2]}")
            return super().handle_request(request)

    (tmp_path / "run.py").write_text("print('unique text of this test')")
    with TesseraClient(service.url, token, transport=Counting()) as client:
        client.submit(tmp_path / "run.py")
        client.submit(tmp_path / "run.py")
    assert sent.count("PUT blobs") == 1


def test_lists_become_frames_with_units_in_the_column_names(client: TesseraClient, tmp_path: Path) -> None:
    client.submit(notebook(tmp_path), cpu=1, memory="1GiB", name="framed")
    frame = client.tasks(mine=True, search="framed").to_frame()
    assert frame.loc[0, "name"] == "framed"
    assert {"cost_micro", "run_seconds", "cpu_millicores", "memory_mib"} <= set(frame.columns)
    assert frame.loc[0, "memory_mib"] == 1024
    assert isinstance(frame["created_at"].dtype, pd.DatetimeTZDtype)
    assert {"amount_micro", "day"} <= set(client.costs("day").to_frame().columns)
    assert {"used", "unit", "limit"} <= set(client.queues().to_frame().columns)


def test_a_period_of_costs_is_given_in_days_of_the_bills(client: TesseraClient) -> None:
    table = client.costs("day", start="2026-11-01", end="2026-11-03")
    assert (table.start.isoformat()[:19], table.end.isoformat()[:19]) == ("2026-11-01T00:00:00", "2026-11-03T00:00:00")
    with pytest.raises(TesseraError) as refused:
        client.costs("day", start="2026-11-03", end="2026-11-01")
    assert refused.value.code == "period.order"


def test_a_wrong_token_and_a_service_that_is_away_are_told_apart(service: ServiceProcess, tmp_path: Path) -> None:
    with TesseraClient(service.url, "wrong", speak="en") as stranger, pytest.raises(TesseraError) as refused:
        stranger.me()
    assert (refused.value.status, refused.value.code) == (401, "auth.invalid_token")
    with TesseraClient("http://127.0.0.1:9/services/tessera", "x", speak="en") as lost, pytest.raises(TesseraError) as refused:
        lost.me()
    assert refused.value.code == "service.unreachable"


def test_the_asynchronous_client_does_the_same(service: ServiceProcess, token: str, tmp_path: Path) -> None:
    async def tour() -> None:
        async with AsyncTesseraClient(service.url, token) as client:
            assert (await client.me()).name == "alice"
            task = await client.submit(notebook(tmp_path), name="async")
            assert "async" in [item.task.name for item in await client.tasks(mine=True)]
            await task.cancel()
            assert (await task.wait(10)).phase == "CANCELLED"
            assert [text async for text in task.logs(follow=True)] == []
            with pytest.raises(TesseraError):
                await client.submit(tmp_path / "missing.ipynb")

    asyncio.run(tour())


def test_an_estimate_reads_no_file(client: TesseraClient) -> None:
    found = client.estimate("not-there.ipynb", cpu=1, memory="1GiB", max_run_seconds=3600)
    assert found.nano_per_hour > 0
    assert found.verdict in ("now", "wait", "never")


def test_a_dry_run_starts_nothing(client: TesseraClient, tmp_path: Path) -> None:
    before = len(client.tasks(mine=True))
    result = client.dry_run(notebook(tmp_path), name="dry")
    assert result.spec.name == "dry"
    assert len(client.tasks(mine=True)) == before


@pytest.mark.parametrize(
    ("cards", "model", "mode", "centi"),
    [
        (1, None, "whole", 100),
        (0.5, None, "vcuda", 50),
        ("A100-80G:0.25", "A100-80G", "vcuda", 25),
        ("A100-80G", "A100-80G", "whole", 100),
    ],
)
def test_cards_are_read_as_people_write_them(cards: object, model: str | None, mode: str, centi: int) -> None:
    from tessera_hub.client import card_request

    request = card_request(cards)  # type: ignore[arg-type]
    assert request is not None
    assert (request.model, request.mode, request.centi_cards) == (model, CardMode(mode), centi)


@pytest.mark.parametrize("cards", [1.5, -1, 0.005, "A100-80G:much"])
def test_cards_that_cannot_be_given_are_refused(cards: object) -> None:
    from tessera_hub.client import card_request

    with pytest.raises(TesseraError) as refused:
        card_request(cards)  # type: ignore[arg-type]
    assert refused.value.code == "spec.cards"


def test_a_closed_client_says_so(service: ServiceProcess, token: str) -> None:
    client = TesseraClient(service.url, token)
    client.close()
    with pytest.raises(TesseraError) as refused:
        client.me()
    assert refused.value.code == "client.closed"

    async def after_the_end() -> str:
        async with AsyncTesseraClient(service.url, token) as ended:
            pass
        with pytest.raises(TesseraError) as refused:
            await ended.me()
        return refused.value.code

    assert asyncio.run(after_the_end()) == "client.closed"


def test_the_asynchronous_client_repeats_tasks_by_the_clock(service: ServiceProcess, token: str, tmp_path: Path) -> None:
    async def tour() -> None:
        async with AsyncTesseraClient(service.url, token) as client:
            made = await client.schedules.add(notebook(tmp_path), "*/5 * * * *", name="often")
            assert made.next_at is not None
            assert [item.id for item in await client.schedules.all()] == [made.id]
            assert (await client.schedules.pause(made.id)).next_at is None
            assert (await client.schedules.resume(made.id)).enabled
            await client.schedules.remove(made.id)
            assert await client.schedules.all() == []

    asyncio.run(tour())
