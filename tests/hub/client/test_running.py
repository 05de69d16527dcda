"""The SDK, blocking and asynchronous, with tasks that really run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera_hub.client import AsyncTesseraClient, SubmitOptions, TesseraClient
from tests.centre import Centre

SMALL: SubmitOptions = {"cpu": 0.1, "memory": "512MiB", "max_run_seconds": 120}


@pytest.fixture
def alice(centre: Centre) -> Iterator[TesseraClient]:
    with TesseraClient(centre.service.url, centre.token, speak="en") as connected:
        yield connected


def code(identifier: str, source: str, **metadata: Any) -> dict[str, Any]:
    cell = {"cell_type": "code", "id": identifier, "metadata": metadata, "source": source}
    return {**cell, "outputs": [], "execution_count": None}


def notebook(folder: Path) -> Path:
    cells = [
        code("a", "epochs = 1", tags=["parameters"]),
        code("b", "import helper\nfor epoch in range(epochs):\n    print('epoch', epoch, flush=True)"),
        code("c", "open('weights.txt', 'w').write(helper.TEXT * epochs)"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "train.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}))
    (folder / "helper.py").write_text("TEXT = 'w'")
    return path


def test_a_notebook_runs_with_its_parameters_and_everything_comes_back(alice: TesseraClient, tmp_path: Path) -> None:
    task = alice.submit(notebook(tmp_path), parameters={"epochs": 3}, include=["helper.py"], **SMALL)
    (tmp_path / "helper.py").write_text("the job works on what it was sent")
    updates = list(task.follow())
    kinds = [update.kind for update in updates]
    assert {"task", "log", "notebook"} <= set(kinds)
    assert kinds[-1] == "end"
    assert kinds.count("end") == 1
    text = "".join(update.data["text"] for update in updates if update.kind == "log" and update.data["stream"] == "output")
    assert text == "".join(task.logs())
    assert "epoch 2" in text
    assert task.task.phase == "SUCCEEDED", text
    assert (task.task.progress.cells_done, task.task.progress.cells_total) == (4, 4), "with the cell of the parameters"
    assert "epochs = 3" in json.dumps(task.notebook())
    assert {output.path for output in task.outputs()} == {"train.ipynb", "weights.txt"}
    places = task.download(tmp_path / "back")
    assert (tmp_path / "back" / "weights.txt").read_text() == "www"
    assert task.download(tmp_path / "back") == places, "what is there already is not fetched again"
    deadline = time.monotonic() + 30
    while not (bill := task.bill()).lines or any(line.provisional for line in bill.lines):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    frame = bill.to_frame()
    assert frame["amount_micro"].sum() == bill.amount_micro > 0
    assert [event.phase_to for event in task.events()][-1] == "SUCCEEDED"
    assert str(task.id) in [row.key for row in alice.costs("task").rows]


def test_many_tasks_are_followed_at_once_in_one_loop(centre: Centre, tmp_path: Path) -> None:
    async def one(client: AsyncTesseraClient, number: int) -> tuple[str, str]:
        path = tmp_path / f"job{number}.py"
        path.write_text(f"print('number {number}')\nopen('out.txt', 'w').write('{number}')")
        task = await client.submit(path, **SMALL)
        ended = asyncio.create_task(task.wait(90))
        text = "".join([update.data["text"] async for update in task.follow() if update.kind == "log"])
        await task.download(tmp_path / f"back{number}")
        return (await ended).phase, text + "".join([piece async for piece in task.logs(follow=True)])

    async def tour() -> list[tuple[str, str]]:
        async with AsyncTesseraClient(centre.service.url, centre.token, speak="en") as client:
            return await asyncio.gather(*(one(client, number) for number in range(3)))

    for number, (phase, text) in enumerate(asyncio.run(tour())):
        assert phase == "SUCCEEDED"
        assert text.count(f"number {number}\n") == 2
        assert (tmp_path / f"back{number}" / "out.txt").read_text() == str(number)


def test_following_goes_on_when_the_service_restarts(centre: Centre, alice: TesseraClient, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        "import time\nfor number in range(10):\n    print('line', number, flush=True)\n    time.sleep(0.4)\n"
    )
    task = alice.submit(tmp_path / "long.py", **SMALL)
    text, restarted = "", False
    for update in task.follow():
        if update.kind == "log" and update.data["stream"] == "output":
            text += update.data["text"]
        if not restarted and "line 2" in text:
            restarted = True
            centre.service.stop()
            centre.service.start()
    assert restarted
    assert task.task.phase == "SUCCEEDED"
    assert text.split("line ")[1:] == [f"{number}\n" for number in range(10)], "each line once, in order"
