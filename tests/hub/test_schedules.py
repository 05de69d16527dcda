"""Recurring and planned tasks through the API of real services."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from tessera_hub.scheduling.admission import KEEP_SECONDS
from tests.clock import DAY, WallClock
from tests.hub_double import HubDouble
from tests.service import ServiceProcess, script_spec, upload
from tests.tenancy.clusters import HandProxy


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.add_tenant("red")
    double.start()
    yield double
    double.stop()


@pytest.fixture
def start(hub: HubDouble, tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Start services; the test says which share a database."""
    started: list[ServiceProcess] = []

    def make(name: str = "service", database_url: str | None = None, command: tuple[str, ...] = (), **traits: Any) -> Any:
        process = ServiceProcess(tmp_path / name, hub, database_url, hub_cache_seconds=0.2, **traits)
        started.append(process)
        return process.start(command_prefix=command)

    yield make
    for process in started:
        process.stop()


def recurring(api: httpx.Client, cron: str = "0 7 * * *", zone: str = "UTC") -> dict[str, Any]:
    spec = script_spec(*upload(api, b"print('hello')\n"), schedule={"cron": cron, "time_zone": zone}, name=f"again-{uuid4().hex}")
    answer = api.post("/schedules", json=spec)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def fired(api: httpx.Client, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of a schedule; each has a name of its own."""
    found: list[dict[str, Any]] = api.get("/tasks", params={"limit": 200, "q": schedule["spec"]["name"]}).json()["items"]
    return found


def make_due(service: ServiceProcess, schedule: dict[str, Any], ago: timedelta = timedelta(seconds=1)) -> datetime:
    """Set the next firing into the past, as time would."""
    moment = datetime.now(UTC).replace(microsecond=0) - ago
    if service.database_url.startswith("sqlite"):
        with sqlite3.connect(service.database_url.removeprefix("sqlite:///"), timeout=30) as connection:
            stored = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
            connection.execute("UPDATE recurring_task SET next_at = ? WHERE id = ?", (stored, UUID(schedule["id"]).hex))
            assert connection.total_changes == 1
        connection.close()
    else:
        url = service.database_url.replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(url) as connection2:
            done = connection2.execute("UPDATE recurring_task SET next_at = %s WHERE id = %s", (moment, schedule["id"]))
            assert done.rowcount == 1
    return moment


def until(found: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def test_a_schedule_is_made_shown_stopped_and_removed(hub: HubDouble, start: Any) -> None:
    api = start(background=False).api(hub.add_user("ada", "red"))
    made = recurring(api, "30 9 * * 1-5", "Asia/Shanghai")
    following = datetime.fromisoformat(made["next_at"])
    assert (following.astimezone(UTC).hour, following.minute) == (1, 30)
    assert following > datetime.now(UTC)
    assert (made["cron"], made["time_zone"], made["enabled"], made["owner"]) == ("30 9 * * 1-5", "Asia/Shanghai", True, "ada")
    assert [s["id"] for s in api.get("/schedules").json()] == [made["id"]]
    stopped = api.patch(f"/schedules/{made['id']}", json={"enabled": False}).json()
    assert (stopped["enabled"], stopped["next_at"]) == (False, None)
    assert api.patch(f"/schedules/{made['id']}", json={"enabled": True}).json()["next_at"] == made["next_at"]
    assert api.delete(f"/schedules/{made['id']}").status_code == 204
    assert api.get(f"/schedules/{made['id']}").json()["code"] == "schedule.not_found"
    assert api.get("/schedules").json() == []


@pytest.mark.parametrize(
    ("schedule", "code"),
    [
        ({"cron": "every day"}, "schedule.cron"),
        ({"cron": "0 0 30 2 *"}, "schedule.cron"),
        ({"cron": "* * * * * *"}, "schedule.cron"),
        ({}, "schedule.cron"),
        ({"cron": "0 7 * * *", "time_zone": "Mars/Olympus"}, "schedule.zone"),
        ({"cron": "0 7 * * *", "at": "2099-01-01T00:00:00Z"}, "request.invalid"),
        ({"at": "2099-01-01T00:00:00"}, "request.invalid"),
    ],
)
def test_a_bad_schedule_is_refused_in_both_languages(schedule: dict[str, str], code: str, bad: SimpleNamespace) -> None:
    spec = script_spec(bad.sha256, bad.size, schedule=schedule)
    english = bad.api.post("/schedules", json=spec)
    assert (english.status_code, english.json()["code"]) == (422, code), english.text
    chinese = bad.api.post("/schedules", json=spec, headers={"Accept-Language": "zh-CN"}).json()
    assert any("\u4e00" <= c <= "\u9fff" for c in chinese["title"]), chinese
    assert bad.api.get("/schedules").json() == []


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    double = HubDouble()
    double.start()
    process = ServiceProcess(tmp_path_factory.mktemp("bad"), double, background=False).start()
    api = process.api(double.add_user("ada", "red"))
    digest, size = upload(api, b"print(1)")
    yield SimpleNamespace(api=api, sha256=digest, size=size)
    process.stop()
    double.stop()


def test_what_a_task_would_be_refused_for_a_schedule_is_refused_for(bad: SimpleNamespace) -> None:
    cron = {"schedule": {"cron": "0 7 * * *"}}
    spec = script_spec(bad.sha256, bad.size, **cron)
    assert bad.api.post("/schedules", json=spec | {"queue": "nowhere"}).json()["code"] == "queue.unknown"
    assert bad.api.post("/schedules", json=script_spec("0" * 64, 3, **cron)).json()["code"] == "inputs.not_uploaded"
    for path in ("/tasks", "/tasks?dry_run=true"):
        refused = bad.api.post(path, json=spec).json()
        assert (refused["code"], "/schedules" in refused["hint"]) == ("schedule.recurring", True)
    (item,) = bad.api.post("/tasks/batch", json={"tasks": [spec]}).json()
    assert item["problem"]["code"] == "schedule.recurring"
    assert bad.api.get("/tasks").json()["items"] == []


def test_two_services_on_one_database_fire_once(hub: HubDouble, start: Any, postgres_database: str) -> None:
    services = [start(name, postgres_database) for name in ("first", "second")]
    api = services[0].api(hub.add_user("ada", "red"))
    schedules = [recurring(api) for _ in range(5)]
    for _round in range(3):
        before = {s["id"]: len(fired(api, s)) for s in schedules}
        for schedule in schedules:
            make_due(services[0], schedule, timedelta(seconds=_round + 1))
        until(lambda before=before: all(len(fired(api, s)) > before[s["id"]] for s in schedules))
    time.sleep(6)  # each service has looked again by now
    assert [len(fired(api, s)) for s in schedules] == [3] * 5
    logs = [s.log_path.read_text().count('"schedule_fired"') for s in services]
    assert sum(logs) == 15, logs


def test_what_was_missed_while_the_service_was_down_fires_once(hub: HubDouble, start: Any) -> None:
    service = start()
    api = service.api(hub.add_user("ada", "red"))
    schedule = recurring(api, "* * * * *")
    service.kill()
    moment = make_due(service, schedule, timedelta(days=2))
    service.start()
    (task,) = until(lambda: fired(api, schedule))
    assert api.get(f"/schedules/{schedule['id']}").json()["last_task_id"] == task["id"]
    assert api.get(f"/tasks/{task['id']}/events").json()[0]["actor"] == f"schedule:{schedule['id']}"
    time.sleep(2)
    tasks = fired(api, schedule)
    assert len(tasks) <= 2, "the missed one, and at most the minute that has just begun"
    assert datetime.fromisoformat(api.get(f"/schedules/{schedule['id']}").json()["next_at"]) > datetime.now(UTC)
    assert moment < datetime.now(UTC) - timedelta(days=1)


def test_a_clock_that_jumps_and_comes_back_fires_each_time_once(hub: HubDouble, start: Any, tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    service = start(command=("env", *(f"{name}={value}" for name, value in clock.environment.items())))
    api = service.api(hub.add_user("ada", "red"))
    noon = (datetime.now(UTC) + timedelta(hours=2)).hour
    schedule = recurring(api, f"0 {noon} * * *")
    clock.move(3 * DAY)
    until(lambda: fired(api, schedule))
    time.sleep(6)
    assert len(fired(api, schedule)) == 1, "three days are missed at once: one firing"
    ahead = datetime.fromisoformat(api.get(f"/schedules/{schedule['id']}").json()["next_at"])
    assert ahead > datetime.now(UTC) + timedelta(days=3)
    clock.move(0)
    first = datetime.fromisoformat(schedule["next_at"])
    until(lambda: datetime.fromisoformat(api.get(f"/schedules/{schedule['id']}").json()["next_at"]) == first)
    assert len(fired(api, schedule)) == 1
    clock.move(DAY)  # the firing of today comes again, that of tomorrow is new
    until(lambda: datetime.fromisoformat(api.get(f"/schedules/{schedule['id']}").json()["next_at"]) > first)
    time.sleep(1)
    assert len(fired(api, schedule)) == 1, "that time has fired already"


def test_who_has_left_the_tenant_fires_nothing_any_more(hub: HubDouble, start: Any) -> None:
    service = start()
    api = service.api(hub.add_user("ada", "red"))
    operator = service.api(hub.add_user("root", "red", operator=True))
    schedule = recurring(api)
    hub.users["ada"]["groups"] = []
    time.sleep(0.4)
    make_due(service, schedule)
    until(lambda: not operator.get(f"/schedules/{schedule['id']}").json()["enabled"])
    assert operator.get("/tasks").json()["items"] == []
    assert api.get("/schedules").json() == []
    assert api.patch(f"/schedules/{schedule['id']}", json={"enabled": True}).status_code == 404


def test_a_firing_that_is_refused_is_a_failed_task_with_the_reason(hub: HubDouble, start: Any) -> None:
    service = start()
    api, token = service.api(hub.add_user("ada", "red")), hub.add_user("root", "red", operator=True)
    schedule = recurring(api)
    queue = next(q for q in api.get("/queues").json() if q["path"] == "red/default")
    service.api(token).put(f"/queues/{queue['id']}", json={"state": "closed"}).raise_for_status()
    make_due(service, schedule)
    (task,) = until(lambda: fired(api, schedule))
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "policy.queue_closed")
    assert api.get(f"/schedules/{schedule['id']}").json()["enabled"], "it is tried again the next time"


def test_a_schedule_that_nobody_can_read_holds_up_no_other(hub: HubDouble, start: Any) -> None:
    service = start()
    api = service.api(hub.add_user("ada", "red"))
    broken, wide = recurring(api), recurring(api)
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///"), timeout=30) as connection:
        old = json.dumps(wide["spec"] | {"parameters": {"a": "x" * 300_000}})  # taken before there was a bound
        for schedule, spec in ((broken, '{"kind": "of another world"}'), (wide, old)):
            connection.execute("UPDATE recurring_task SET spec = ? WHERE id = ?", (spec, UUID(schedule["id"]).hex))
    connection.close()
    make_due(service, broken, timedelta(seconds=60))
    make_due(service, wide)
    assert len(until(lambda: fired(api, wide))) == 1
    assert fired(api, broken) == []


def test_a_planned_task_is_not_placed_before_its_time(hub: HubDouble, start: Any) -> None:
    service = start()
    api, token = service.api(hub.add_user("ada", "red")), hub.add_user("root", "red", operator=True)
    HandProxy(service, token, "moon").begin()
    at = datetime.now(UTC) + timedelta(seconds=10)
    blob = upload(api, b"print(1)")
    # Two for one moment, and one for now that shows that the scheduler works meanwhile.
    planned = [api.post("/tasks", json=script_spec(*blob, schedule={"at": at.isoformat()})).json() for _ in range(2)]
    other = api.post("/tasks", json=script_spec(*blob)).json()
    until(lambda: api.get(f"/tasks/{other['id']}").json()["phase"] != "QUEUED")
    # The whole node, of which the other one has a part.
    large = api.post(
        "/tasks", json=script_spec(*blob, roles=[{"resources": {"cpu_millicores": 64_000, "memory_mib": 128}}])
    ).json()
    assert until(lambda: api.get(f"/tasks/{large['id']}").json()["position"])["position"] == 1
    api.post(f"/tasks/{large['id']}/cancel")
    time.sleep(KEEP_SECONDS)
    estimate = api.post("/estimate", json=script_spec(*blob)).json()
    assert (estimate["verdict"], estimate["position"]) == ("now", None), "what is planned for later is before nobody"
    waiting = api.get(f"/tasks/{planned[0]['id']}", headers={"Accept-Language": "zh-CN"}).json()
    assert datetime.now(UTC) < at
    assert (waiting["phase"], [r["code"] for r in waiting["reasons"]]) == ("QUEUED", ["policy.not_before"])
    assert any("\u4e00" <= c <= "\u9fff" for c in waiting["reasons"][0]["message"])
    assert datetime.fromisoformat(waiting["reasons"][0]["detail"]["at"]) == at
    for task in planned:
        until(lambda task=task: api.get(f"/tasks/{task['id']}").json()["phase"] != "QUEUED")
        reserved = api.get(f"/tasks/{task['id']}/events").json()[1]
        assert reserved["phase_to"] == "RESERVED"
        assert datetime.fromisoformat(reserved["at"]) >= at
    # A moment in the past is now.
    past = api.post("/tasks", json=script_spec(*blob, schedule={"at": "2020-01-01T00:00:00Z"})).json()
    until(lambda: api.get(f"/tasks/{past['id']}").json()["phase"] != "QUEUED")


def test_the_clock_of_a_process_moves_and_its_waits_stay_true(tmp_path: Path) -> None:
    """What the jumps above rest on."""
    clock = WallClock(tmp_path / "clock")
    clock.move(3 * DAY)
    environment = os.environ | clock.environment
    moved = int(subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True, env=environment).stdout)
    assert abs(moved - time.time() - 3 * DAY) < 60
    waits = "import threading, time; threading.Event().wait(0.1); time.sleep(0.1); print(int(time.time()))"
    command = [sys.executable, "-c", waits]
    waited = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=30)
    assert abs(int(waited.stdout) - time.time() - 3 * DAY) < 60
