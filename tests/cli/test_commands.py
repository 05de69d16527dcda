"""``tessera`` as a person's shell runs it, against a service and a Proxy that really run tasks."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import nbformat
import pytest

from tessera_hub.cli.commands import COMMANDS, CommandTable
from tests.centre import Centre
from tests.cli.conftest import Tessera

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def write(folder: Path, text: str, name: str = "job.py") -> None:
    (folder / name).write_text(text)


def notebook(folder: Path) -> None:
    cells = [nbformat.v4.new_code_cell("epochs = 1", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell("print('epochs are', epochs)"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "train.ipynb")


SMALL = ("--cpu", "0.1", "--memory", "256MiB")


def test_a_training_of_several_nodes_is_told_where_none_can_run_it(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "print('one of many')")
    told = tessera("submit", "job.py", "--nodes", "2", "--framework", "pytorch", *SMALL)
    assert told.returncode == 2
    assert "never.no_gang" in told.stderr
    done = tessera("submit", "job.py", "--kind", "training", "--follow", *SMALL)
    assert done.returncode == 0, done.stderr
    task = re.search(r"as task ([0-9a-f-]{36})", done.stdout)
    assert task
    shown = json.loads(tessera("show", task[1], "--json").stdout)
    assert shown["kind"] == "training"
    assert tessera("submit", "job.py", "--nodes", "0").returncode == 2


def test_a_followed_task_prints_its_output_and_ends_with_its_result(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "import pathlib, time; time.sleep(1); print('seen é 世界'); pathlib.Path('out.txt').write_text('result')")
    done = tessera("submit", "job.py", "--follow", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "seen é 世界" in done.stdout
    # A job this short may begin and end between two looks.
    assert "Queued" in done.stderr
    assert "Succeeded" in done.stderr
    assert "Cost: CNY" in done.stderr
    task = re.search(r"as task ([0-9a-f-]{36})", done.stdout)
    assert task
    assert "seen é 世界" in tessera("logs", task[1][:8]).stdout
    shown = json.loads(tessera("show", task[1], "--json").stdout)
    assert (shown["phase"], shown["owner"]) == ("SUCCEEDED", "alice")
    assert "out.txt" in tessera("outputs", task[1]).stdout
    saved = tessera("outputs", task[1], "--download", "back")
    assert saved.returncode == 0, saved.stderr
    assert (tmp_path / "back" / "out.txt").read_text() == "result"
    (tmp_path / "back" / "out.txt").write_text("my own")
    tessera("outputs", task[1], "--download", "back")
    assert (tmp_path / "back" / "out.txt").read_text() == "my own"
    assert (tmp_path / "back" / "out (2).txt").read_text() == "result"
    bill = json.loads(tessera("bill", task[1], "--json").stdout)
    assert bill["amount_micro"] == sum(line["amount_micro"] for line in bill["lines"])
    cpu = next(line for line in bill["lines"] if line["dimension"] == "cpu")
    assert cpu["unit_seconds"] == 100 * bill["seconds"]
    shown = tessera("bill", task[1], language="zh_CN.UTF-8").stdout
    assert f"{bill['seconds'] / 10:g} 核·秒" in shown, shown


def test_a_notebook_is_followed_with_its_parameters_in_chinese(tessera: Tessera, tmp_path: Path) -> None:
    notebook(tmp_path)
    done = tessera("submit", "train.ipynb", "-p", "epochs=3", "--follow", *SMALL, language="zh_CN.UTF-8")
    assert done.returncode == 0, done.stderr
    assert "epochs are 3" in done.stdout
    assert "运行中" in done.stderr
    assert "单元格 3/3" in done.stderr
    assert "费用：CNY" in done.stderr


def test_a_failed_task_ends_with_one(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "raise SystemExit(3)")
    done = tessera("submit", "job.py", "-f", "--json", *SMALL)
    assert done.returncode == 1
    last = [json.loads(line) for line in done.stdout.splitlines()][-1]
    assert last["task"]["phase"] == "FAILED"


def test_a_task_that_ended_runs_again(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "import pathlib, sys; p = pathlib.Path('x'); print('again'); sys.exit(3)")
    done = tessera("submit", "job.py", "-f", "--json", *SMALL)
    task = json.loads(done.stdout.splitlines()[-1])["task"]["id"]
    again = tessera("retry", task[:8], "--follow")
    assert again.returncode == 1, again.stderr
    assert again.stdout.startswith("again\n")
    assert json.loads(tessera("show", task, "--json").stdout)["attempts"] == 2


def test_a_task_waits_for_its_time_and_comes_again_by_the_clock(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "print(1)")
    later = json.loads(tessera("submit", "job.py", "--at", "2099-01-01T02:00+08:00", "--json", *SMALL).stdout)
    at = json.loads(tessera("show", later["id"], "--json").stdout)["spec"]["schedule"]["at"]
    assert datetime.fromisoformat(at) == datetime(2098, 12, 31, 18, tzinfo=UTC)
    tessera("cancel", later["id"])
    assert "spec.at" in tessera("submit", "job.py", "--at", "tomorrow", *SMALL).stderr
    added = tessera("schedules", "add", "job.py", "--cron", "0 3 * * *", "--time-zone", "Asia/Shanghai", "--json", *SMALL)
    schedule = json.loads(added.stdout)
    assert schedule["spec"]["inputs"]["files"][0]["path"] == "job.py"
    listed = tessera("schedules", "list", language="zh_CN.UTF-8").stdout
    assert schedule["id"][:8] in listed
    assert "启用" in listed
    assert tessera("schedules", "pause", schedule["id"][:8]).returncode == 0
    assert json.loads(tessera("schedules", "resume", schedule["id"], "--json").stdout)["next_at"]
    wrong = tessera("schedules", "add", "job.py", "--cron", "0 3 31 2 *", *SMALL)
    assert (wrong.returncode, "schedule.cron" in wrong.stderr) == (2, True)
    assert tessera("schedules", "remove", schedule["id"][:8]).returncode == 0
    assert json.loads(tessera("schedules", "list", "--json").stdout) == []
    assert tessera("schedules", "pause", schedule["id"][:8]).returncode == 2


def test_a_task_can_be_cancelled_by_the_beginning_of_its_id(tessera: Tessera, tmp_path: Path) -> None:
    write(tmp_path, "import time; time.sleep(300)")
    task = json.loads(tessera("submit", "job.py", "--json", *SMALL).stdout)
    done = tessera("cancel", task["id"][:8])
    assert done.returncode == 0, done.stderr
    assert tessera("logs", "-f", task["id"]).returncode == 1
    assert json.loads(tessera("show", task["id"], "--json").stdout)["phase"] == "CANCELLED"
    listed = json.loads(tessera("tasks", "--json", "--phase", "CANCELLED").stdout)
    assert task["id"] in [item["id"] for item in listed]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("submit", "missing.ipynb"), 2, "snapshot.missing"),
        (("submit", "broken.ipynb"), 2, "notebook.invalid"),
        (("submit", "train.ipynb", "-p", "epochs=three"), 2, "parameter.type"),
        (("submit", "train.ipynb", "-p", "epoch=3"), 2, "parameter.unknown"),
        (("submit", "train.ipynb", "--kernel", "cobol"), 2, "kernel.unknown"),
        (("submit", "job.py", "--cpu", "many"), 2, "spec.cpu"),
        (("submit", "job.py", "--queue", "nowhere"), 2, "queue.unknown"),
        (("submit", "job.py", "--memory", "900TiB"), 2, "Memory: at most"),
        (("submit", "job.py", "-p", "noequals"), 2, "name=value"),
        (("submit", "job.py", "--folder", "--include", "x"), 2, "--folder"),
        (("show", "ffffffff"), 2, "task.not_found"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    tessera: Tessera, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    write(tmp_path, "print(1)")
    write(tmp_path, '{"cells": [', "broken.ipynb")
    notebook(tmp_path)
    before = tessera("tasks", "--json", "--limit", "1000").stdout
    done = tessera(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(json.loads(tessera("tasks", "--json", "--limit", "1000").stdout)) == len(json.loads(before))


def test_a_wrong_token_and_a_service_that_is_away_have_their_own_codes(tessera: Tessera) -> None:
    assert tessera("whoami", token="wrong").returncode == 4
    away = tessera("whoami", "--json", TESSERA_URL="http://127.0.0.1:9/services/tessera")
    assert away.returncode == 3
    assert json.loads(away.stderr)["error"]["code"] == "service.unreachable"


def test_everything_speaks_chinese(tessera: Tessera) -> None:
    assert "把笔记本或脚本作为任务运行" in tessera("--help", language="zh_CN.UTF-8").stdout
    assert "缺少参数" in tessera("show", language="zh_CN.UTF-8").stderr
    assert "没有任务" in tessera("show", "ffffffff", language="zh_CN.UTF-8").stderr
    assert "空闲" in tessera("capacity", language="zh_CN.UTF-8").stdout


@pytest.mark.parametrize("name", ["tasks", "queues", "clusters", "capacity", "whoami", "bill", "estimate"])
def test_every_list_is_a_table_for_people_and_json_for_programs(tessera: Tessera, name: str) -> None:
    table, data = tessera(name), tessera(name, "--json")
    assert (table.returncode, data.returncode) == (0, 0), table.stderr + data.stderr
    assert table.stdout.strip()
    json.loads(data.stdout)


def test_an_operator_sets_quotas_which_hold_and_others_may_not(tessera: Tessera, centre: Centre, tmp_path: Path) -> None:
    assert tessera("queue", "add", "physics/vision", token=centre.operator).returncode == 0
    limits = ("--limit", "cpu=0.5", "--limit", "memory=2GiB", "--limit", "cards/A100-80G=1.5", "--deserved", "cpu=0.25")
    done = tessera("queue", "set", "physics/vision", *limits, "--priority", "60", "--json", token=centre.operator)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    quota = {line["dimension"]: (line["limit"], line["deserved"]) for line in answer["quota"]}
    assert quota == {"cpu": (500, 250), "memory": (2048, 0), "cards/A100-80G": (150, 0)}
    assert answer["priority"] == 60
    lifted = tessera("queue", "set", "physics/vision", "--limit", "memory=none", token=centre.operator, language="zh_CN.UTF-8")
    assert "应得" in lifted.stdout
    found = next(q for q in json.loads(tessera("queues", "--json").stdout) if q["path"] == "physics/vision")
    assert {line["dimension"]: (line["limit"], line["deserved"]) for line in found["quota"]} == quota | {"memory": (None, 0)}
    write(tmp_path, "print(1)")
    refused = tessera("submit", "job.py", "--queue", "vision", "--cpu", "0.6", "--memory", "64MiB")
    assert refused.returncode == 2, refused.stdout
    for wrong in ("cpu", "cpu=much", "gpu=1", "cpu=-1", "cards/A100-80G=0.001", "cpu=none.5"):
        told = tessera("queue", "set", "physics/vision", "--limit", wrong, token=centre.operator)
        assert (told.returncode, "quota.amount" in told.stderr) == (2, True), wrong
    assert "queue.unknown" in tessera("queue", "set", "physics/nothing", "--limit", "cpu=1", token=centre.operator).stderr
    assert tessera("queue", "set", "physics", "--limit", "cpu=1").returncode == 2
    assert tessera("queue", "set", "physics", token=centre.operator).returncode == 2
    assert "queue.path" in tessera("queue", "add", "chemistry", token=centre.operator).stderr


def test_an_operator_sets_a_price_that_holds_from_its_time_on(tessera: Tessera, centre: Centre) -> None:
    assert tessera("price", "add", "cards/A100-80G", "15.005", "--cluster", "local", token=centre.operator).returncode == 0
    planned = tessera("price", "add", "cpu", "0.000000001", "--unit", "millicore", "--from", "2099-01-01", token=centre.operator)
    assert "2099-01-01" in planned.stdout
    prices = json.loads(tessera("price", "list", "--json").stdout)
    assert [p["nano_per_unit_hour"] for p in prices if p["cluster"] == "local"] == [15_005_000_000]
    assert [(p["unit"], p["unit_size"]) for p in prices if p["nano_per_unit_hour"] == 1] == [("millicore", 1)]
    assert "CNY 15.01" in tessera("price", "list").stdout
    wrong: dict[str, tuple[str, ...]] = {
        "price.amount": ("cpu", "free"),
        "price.unit": ("gpu", "1"),
        "price.past": ("cpu", "1", "--from", "2020-01-01"),
        "price.scope": ("cards/A100-81G", "1"),
        "price.validity": ("cpu", "1", "--until", "2020-01-01"),
    }
    for code, arguments in wrong.items():
        told = tessera("price", "add", *arguments, token=centre.operator)
        assert (told.returncode, code in told.stderr) == (2, True), (code, told.stderr)
    for scope in ("--tenant", "--cluster"):
        assert "price.scope" in tessera("price", "add", "cpu", "1", scope, "nobody", token=centre.operator).stderr
    assert tessera("price", "add", "memory", "1", "--unit", "core", token=centre.operator).returncode == 2
    assert tessera("price", "add", "cpu", "1").returncode == 2
    assert len(json.loads(tessera("price", "list", "--json").stdout)) == len(prices)


def test_login_stores_a_token_that_only_its_owner_can_read(tessera: Tessera, centre: Centre, tmp_path: Path) -> None:
    assert tessera("login", centre.service.url).returncode == 0
    stored = tmp_path / "config" / "tessera" / "client.toml"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    by_file = tessera("whoami", TESSERA_URL="", TESSERA_TOKEN="")
    assert by_file.returncode == 0, by_file.stderr
    assert "alice" in by_file.stdout
    elsewhere = tessera("whoami", TESSERA_URL="http://127.0.0.1:9/services/tessera", TESSERA_TOKEN="")
    assert elsewhere.returncode == 4, "a stored token goes to no other address"
    assert tessera("login", centre.service.url, token="wrong").returncode == 4
    assert tessera("login", "--forget").returncode == 0
    assert not stored.exists()


def test_an_operator_connects_drains_and_removes_a_cluster(tessera: Tessera, centre: Centre) -> None:
    assert tessera("cluster", "add", "far").returncode == 2, "a person is no operator"
    added = json.loads(tessera("cluster", "add", "far", "--json", token=centre.operator).stdout)
    cloud = json.loads(tessera("cluster", "add", "sky", "--kind", "aws-batch", "--json", token=centre.operator).stdout)
    assert cloud["command"][-4:] == ["--driver", "aws-batch", "--settings", "SETTINGS.toml"]
    tessera("cluster", "remove", "sky", "--yes", token=centre.operator)
    assert added["bootstrap_token"]
    assert "far" in tessera("cluster", "list", token=centre.operator).stdout
    assert tessera("cluster", "drain", "far", token=centre.operator).returncode == 0
    assert tessera("cluster", "remove", "far", "--yes", token=centre.operator).returncode == 0
    assert "far" not in tessera("cluster", "list", token=centre.operator).stdout


def test_an_operator_sees_the_connection_made_and_what_the_cluster_has(tessera: Tessera, centre: Centre, tmp_path: Path) -> None:
    silent = tessera("cluster", "add", "mute", "--wait", "1", token=centre.operator)
    assert (silent.returncode, "cluster.silent" in silent.stderr) == (2, True)
    assert "has not told" in tessera("cluster", "show", "mute", token=centre.operator).stdout
    tessera("cluster", "remove", "mute", "--yes", token=centre.operator)
    program = [sys.executable, "-m", "tessera_hub.cli"]
    environment = os.environ | {"TESSERA_URL": centre.service.url, "TESSERA_TOKEN": centre.operator}
    adding = subprocess.Popen(
        [*program, "cluster", "add", "near", "--wait", "60"], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert adding.stdout is not None
    token = tmp_path / "token"
    token.write_text(adding.stdout.readline())
    token.chmod(0o600)
    where = ("--url", centre.service.url, "--bootstrap-token-file", str(token), "--data-dir", str(tmp_path / "near"))
    proxy = subprocess.Popen([*program, "proxy", "--cluster", "near", *where], stderr=subprocess.DEVNULL)
    try:
        table, _nothing = adding.communicate(timeout=90)
        assert adding.returncode == 0
        assert "Processor cores" in table
        shown = json.loads(tessera("cluster", "show", "near", "--json", token=centre.operator).stdout)
        assert shown["inventory"]["pools"][0]["total"]["cpu"] > 0
        assert tessera("cluster", "show", "near").returncode == 2, "a person is no operator"
    finally:
        proxy.terminate()
        proxy.wait(30)
    assert tessera("cluster", "remove", "near", "--yes", token=centre.operator).returncode == 0


def test_the_reference_page_lists_every_command_and_option() -> None:
    page = REFERENCE.read_text("utf-8")
    table = CommandTable(name="tessera")
    context = click.Context(table, info_name="tessera")
    for name in COMMANDS:
        command = table.get_command(context, name)
        assert command is not None
        assert f"## tessera {name}" in page
        for child in [command, *getattr(command, "commands", {}).values()]:
            for parameter in child.params:
                if isinstance(parameter, click.Option):
                    assert f"`{parameter.opts[-1]}`" in page, f"{name} {parameter.opts[-1]}"
