"""The live views against the real service."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tessera_hub.client import TesseraClient
from tessera_hub.schemas.bills import CostRow, CostTable
from tessera_hub.schemas.capacity import Queue, QuotaLine
from tessera_widgets import QuotaView, SubmitForm, TaskView, cost_chart
from tessera_widgets.costs import cost_figure
from tessera_widgets.fallback import render
from tessera_widgets.quota import quota_view
from tests.service import ServiceProcess


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def script(folder: Path) -> Path:
    path = folder / "run.py"
    path.write_text("print('hello')")
    return path


def view_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tessera-view"]


def test_a_task_view_follows_its_task_to_the_end_and_then_stops_asking(client: TesseraClient, tmp_path: Path) -> None:
    task = client.submit(script(tmp_path))
    view = TaskView(task, every_seconds=1)
    assert (view.view["phase"], view.view["final"]) == ("QUEUED", False)
    assert view_threads()
    task.cancel()
    wait_until(lambda: view.view["phase"] == "CANCELLED")
    wait_until(lambda: not view_threads())
    view.close()


def test_closing_a_view_ends_its_thread(client: TesseraClient) -> None:
    view = QuotaView(client)
    assert view_threads()
    view.close()
    wait_until(lambda: not view_threads(), 5)


def test_the_cancel_button_ends_the_task(client: TesseraClient, tmp_path: Path) -> None:
    task = client.submit(script(tmp_path))
    view = TaskView(task, every_seconds=1)
    view._handle_custom_msg({"action": "cancel"}, [])
    assert task.wait(10).phase == "CANCELLED"
    view.close()


def test_a_view_keeps_its_last_state_when_the_service_goes_away(
    service: ServiceProcess, client: TesseraClient, tmp_path: Path
) -> None:
    task = client.submit(script(tmp_path), name="kept")
    view = TaskView(task, every_seconds=1)
    service.stop()
    try:
        wait_until(lambda: view.view["problem"] is not None)
        assert view.view["title"] == "kept"
        assert view.view["problem"]["since"]
    finally:
        service.start()
    view.refresh()
    wait_until(lambda: view.view["problem"] is None, 40)
    view.close()


def test_a_view_speaks_the_language_of_its_client(service: ServiceProcess, token: str, tmp_path: Path) -> None:
    with TesseraClient(service.url, token, speak="zh_CN") as chinese:
        task = chinese.submit(script(tmp_path))
        view = TaskView(task)
        assert view.view["state"] == "排队中"
        assert view.view["words"]["log"] == "输出"
        assert {"任务", "集群", "资源"} <= {fact["name"] for fact in view.view["facts"]}
        view.close()


def test_the_fallback_of_a_saved_view_escapes_what_programs_wrote() -> None:
    page = render({"title": "<script>", "facts": [{"name": "a", "value": "<b>"}], "log": "</pre><img>"})
    assert "<script>" not in page
    assert "<img>" not in page
    assert "&lt;/pre&gt;" in page


def test_the_form_submits_one_task_for_a_double_click(client: TesseraClient, tmp_path: Path) -> None:
    form = SubmitForm(str(script(tmp_path)), client)
    form.parameters.value = "epochs = 3\nname = text"
    before = len(client.tasks(mine=True))
    form.button.click()
    form.button.click()
    wait_until(lambda: form.task is not None)
    wait_until(lambda: not form.button.disabled)
    assert len(client.tasks(mine=True)) == before + 1
    assert form.task is not None
    assert client.tasks(mine=True)[0].refresh().spec.parameters == {"epochs": 3, "name": "text"}
    form.task.close()
    form.close()


def test_the_form_asks_for_data_sets_and_says_which_there_are_not(client: TesseraClient, tmp_path: Path) -> None:
    form = SubmitForm(str(script(tmp_path)), client)
    form.datasets.value = " imagenet-that-is-not, "
    assert form.options()["datasets"] == ["imagenet-that-is-not"]
    form.button.click()
    wait_until(lambda: "imagenet-that-is-not" in form.message.value)
    assert form.task is None
    form.close()


def test_tasks_of_one_name_have_a_bar_each() -> None:
    rows = [CostRow(key=f"task-{n}", title="train", currency="CNY", amount_micro=n) for n in (1, 2)]
    day = datetime(2026, 11, 1, tzinfo=UTC)
    figure = cost_figure(CostTable(by="task", start=day, end=day, currency="CNY", amount_micro=3, rows=rows))
    assert list(figure.data[0].x) == ["task-1", "task-2"]
    assert list(figure.layout.xaxis.ticktext) == ["train", "train"]


@pytest.mark.parametrize("by", ["day", "task", "resource"])
def test_a_cost_chart_says_when_nothing_was_spent(service: ServiceProcess, token: str, by: str) -> None:
    figure = cost_chart(by, client=TesseraClient(service.url, token, speak="zh_CN"))
    assert "合计" in figure.layout.title.text
    assert figure.layout.annotations[0].text == "这段时间没有消费。"


def test_a_view_lives_in_a_busy_kernel_and_a_saved_notebook_holds_its_last_state(
    service: ServiceProcess, token: str, tmp_path: Path
) -> None:
    script(tmp_path)
    source = f"""
from tessera_hub.client import TesseraClient
from tessera_hub.schemas.bills import CostRow, CostTable
from tessera_hub.schemas.capacity import Queue, QuotaLine
from tessera_widgets import TaskView
client = TesseraClient({service.url!r}, {token!r}, speak="en")
task = client.submit("run.py", name="from-a-notebook")
view = TaskView(task, every_seconds=1)
view
"""
    busy = "import time\nbegan = view.view['as_of']\ntime.sleep(2.5)\nview.view['as_of'] > began"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (source, busy)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}, timeout=60).execute()
    bundle = notebook.cells[0].outputs[0]["data"]
    assert "from-a-notebook" in bundle["text/html"]
    model = bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"][model]["state"]
    assert state["view"]["title"] == "from-a-notebook"
    assert "setInterval" in state["_esm"]
    assert notebook.cells[1].outputs[0]["data"]["text/plain"] == "True", "a busy kernel does not hold the view up"
    json.dumps(notebook)


def test_a_dashboard_names_every_queue_even_when_nothing_is_in_use(client: TesseraClient) -> None:
    view = QuotaView(client)
    groups = {group["title"]: group for group in view.view["groups"]}
    assert {"Mine", "Queue physics/default", "Tenant physics"} <= set(groups)
    assert all(group["bars"] or group["note"] for group in groups.values())
    assert "Tenant physics" in view._repr_mimebundle_()[0]["text/html"]
    view.close()


def test_cards_are_counted_by_class() -> None:
    lines = [
        QuotaLine(dimension="cards/A100-80G", used=150, limit=400),
        QuotaLine(dimension="cards/H20-96G", used=0, limit=None),
        QuotaLine(dimension="card_memory/A100-80G", used=122880, limit=None),
    ]
    queue = Queue(id=1, path="physics", tenant="physics", parent=None, state="open", policy="fifo", priority=0, quota=lines)
    groups = quota_view([queue], [], datetime.now(UTC))["groups"]
    assert [(bar["name"], bar["text"]) for bar in groups[1]["bars"]] == [
        ("Cards A100-80G", "1.5 of 4"),
        ("Cards H20-96G", "0 (no limit)"),
        ("Card memory A100-80G", "120 GiB (no limit)"),
    ]
