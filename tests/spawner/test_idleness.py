"""When an idle workspace is warned about and stopped: the rule, and the service that follows it on a workspace's reports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_hub.api.context import Settings
from tessera_hub.environments import EnvironmentRule
from tessera_hub.workspaces.idleness import IdleLimits, judge, limits_of
from tests.browser.running import until
from tests.spawner.handmade import HandmadeCentre, workspace

NOW = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
LIMITS = IdleLimits(timedelta(minutes=30), timedelta(minutes=10))


def ago(**spans: float) -> datetime:
    return NOW - timedelta(**spans)


def test_what_is_idle_is_warned_about_first_and_stopped_after_the_grace() -> None:
    assert judge(NOW, ago(minutes=29), None, None, LIMITS).warned_at is None
    warned = judge(NOW, ago(minutes=30), None, None, LIMITS)
    assert (warned.warned_at, warned.stops_at, warned.stop) == (NOW, NOW + timedelta(minutes=10), False)
    assert not judge(NOW, ago(minutes=39), ago(minutes=9), None, LIMITS).stop
    assert judge(NOW, ago(minutes=40), ago(minutes=10), None, LIMITS).stop


def test_who_was_never_warned_gets_the_whole_grace_however_long_it_was_idle() -> None:
    late = judge(NOW, ago(days=3), None, None, LIMITS)
    assert (late.stop, late.stops_at) == (False, NOW + timedelta(minutes=10))


def test_use_and_a_wish_take_the_warning_back() -> None:
    assert judge(NOW, ago(seconds=5), ago(minutes=9), None, LIMITS).stops_at is None
    assert judge(NOW, ago(hours=2), ago(minutes=30), NOW + timedelta(seconds=1), LIMITS).stops_at is None
    assert judge(NOW, ago(hours=2), None, ago(seconds=1), LIMITS).warned_at == NOW


MINUTES = st.integers(0, 5000).map(lambda n: timedelta(minutes=n))


@given(
    idle=MINUTES, warned=st.none() | MINUTES, kept=st.none() | st.integers(-500, 500), limit=st.none() | MINUTES, grace=MINUTES
)
def test_nothing_is_stopped_before_its_limit_its_grace_and_the_wish(
    idle: timedelta, warned: timedelta | None, kept: int | None, limit: timedelta | None, grace: timedelta
) -> None:
    warned_at = None if warned is None else NOW - warned
    kept_until = None if kept is None else NOW + timedelta(minutes=kept)
    found = judge(NOW, NOW - idle, warned_at, kept_until, IdleLimits(limit, grace))
    if found.stop:
        assert limit is not None
        assert idle >= max(limit, grace)
        assert kept_until is None or kept_until <= NOW
        assert not grace or (warned_at is not None and warned_at + grace <= NOW and NOW - idle <= warned_at)


def test_cards_have_their_own_limit_an_environment_its_own_and_zero_is_never() -> None:
    rules = {"mine": EnvironmentRule(idle_seconds=60, card_idle_seconds=0), "closed": EnvironmentRule(groups=["staff"])}
    settings = Settings(database_url="", data_dir=None, environment_rules=rules)  # type: ignore[arg-type]  # not looked at

    def idle(environment: str, *, cards: bool) -> Any:
        return limits_of(settings, environment, cards=cards).idle

    assert (idle("default", cards=False), idle("default", cards=True)) == (timedelta(hours=2), timedelta(minutes=30))
    assert (idle("closed", cards=False), idle("closed", cards=True)) == (timedelta(hours=2), timedelta(minutes=30))
    assert (idle("mine", cards=False), idle("mine", cards=True)) == (timedelta(minutes=1), None)
    off = Settings(database_url="", data_dir=None, idle_seconds=0, card_idle_seconds=0)  # type: ignore[arg-type]
    assert limits_of(off, "default", cards=False).idle is None


# -- the service


@pytest.fixture(scope="module")
def centre() -> Iterator[HandmadeCentre]:
    rules = {"never": {"idle_seconds": 0}}
    with HandmadeCentre(idle_seconds=3, card_idle_seconds=2, idle_grace_seconds=2, environment_rules=rules) as made:
        made.cluster("pods", environments=("default", "never"))
        yield made


class Running:
    """A workspace of Ada's whose spawner has reported that it runs; a test speaks for what is in it."""

    def __init__(self, centre: HandmadeCentre, server: str, **spec: Any) -> None:
        self.centre = centre
        self.api = centre.service.api(centre.ada)
        body = workspace(server=server, **spec)
        self.id = self.api.post("/workspaces", json=body).raise_for_status().json()["id"]
        self.lease = until(lambda: (g := centre.granted("ada", server))["state"] == "granted" and g, 20)
        centre.hub.users["ada"].setdefault("servers", {})[server] = {}
        for phase in ("STARTING", "RUNNING"):
            self.report(phase)

    def report(self, phase: str) -> None:
        body = {"lease_token": self.lease["lease_token"], "phase": phase, "at": datetime.now(UTC).isoformat()}
        spawner = self.centre.service.api(self.centre.spawner)
        spawner.post(f"/spawner/reservations/{self.lease['run_id']}/state", json=body).raise_for_status()

    def tell(self, idle_seconds: int) -> dict[str, Any]:
        answer = self.api.post(f"/workspaces/{self.id}/activity", json={"idle_seconds": idle_seconds})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/tasks/{self.id}").raise_for_status().json()
        return found

    def notes(self) -> list[str]:
        return [e["reason"]["code"] for e in self.api.get(f"/tasks/{self.id}/events").json() if e["kind"] == "note"]


def test_an_idle_workspace_is_warned_about_then_stopped_with_the_reason_in_its_history(centre: HandmadeCentre) -> None:
    one = Running(centre, "idle")
    assert one.tell(0)["stops_at"] is None
    time.sleep(3.2)
    warned = one.tell(3)
    assert warned["stops_at"] > warned["warned_at"]
    assert one.notes() == ["workspace.idle_warned"]
    assert one.tell(3)["stops_at"] == warned["stops_at"]
    time.sleep(2.1)
    assert not one.task()["cancel_requested"]  # nothing is stopped without a fresh word from the workspace
    one.tell(6)
    assert one.task()["cancel_requested"]
    until(lambda: ("DELETE", "/users/ada/servers/idle", None) in centre.hub.calls, 20)
    one.report("SUCCEEDED")
    ended = one.task()
    assert (ended["phase"], [r["code"] for r in ended["reasons"]]) == ("SUCCEEDED", ["workspace.idle"])
    assert one.notes() == ["workspace.idle_warned"]
    assert one.api.post(f"/workspaces/{one.id}/activity", json={"idle_seconds": 9}).json()["code"] == "workspace.ended"
    assert one.api.post(f"/workspaces/{one.id}/keep").status_code == 409


def test_use_and_keeping_take_the_warning_back_and_are_in_the_history(centre: HandmadeCentre) -> None:
    one = Running(centre, "kept")
    time.sleep(3.2)
    assert one.tell(100)["stops_at"]
    assert one.tell(0)["stops_at"] is None
    time.sleep(3.2)
    assert one.tell(3)["stops_at"]
    page = centre.page(centre.ada, f"/workspaces/{one.id}").text
    assert "Nothing runs in this workspace." in page
    assert f"/workspaces/{one.id}/keep" in page
    kept = centre.page(centre.ada, f"/workspaces/{one.id}/keep", {})
    assert kept.status_code == 303
    assert "Nothing runs in this workspace." not in centre.page(centre.ada, f"/workspaces/{one.id}").text
    time.sleep(2.2)
    assert one.tell(9)["stops_at"] is None
    assert not one.task()["cancel_requested"]
    assert one.notes() == ["workspace.idle_warned", "workspace.active", "workspace.idle_warned", "workspace.kept"]


def test_a_report_that_comes_late_makes_nothing_look_idle_for_longer(centre: HandmadeCentre) -> None:
    one = Running(centre, "late")
    # More than it has run for, and older than what is known.
    assert one.tell(10**6)["stops_at"] is None
    time.sleep(2.5)
    fresh = one.tell(0)
    assert one.tell(10**6)["active_at"] == fresh["active_at"]
    assert one.notes() == []


def test_an_environment_may_leave_its_workspaces_alone(centre: HandmadeCentre) -> None:
    one = Running(centre, "alone", environment="never")
    time.sleep(3.2)
    assert one.tell(10**6)["stops_at"] is None
    assert one.notes() == []
