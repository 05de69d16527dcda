"""Every route of the service, with real ids: its owner succeeds, everybody else is refused, and nothing has changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from tessera_hub.api.app import create_app
from tessera_hub.api.context import Settings
from tests.service import PREFIX
from tests.tenancy.cases import CASES, Call, Case, fill, meter_report
from tests.tenancy.clusters import bearer, now
from tests.tenancy.world import World

pytestmark = [pytest.mark.tenancy, pytest.mark.timeout(300)]

LOGIN = "/hub/api/oauth2/authorize?"
SAFE = ("GET", "HEAD")
MARK = {"X-Tessera-Request": "1"}


def routes() -> set[str]:
    """Return ``METHOD /path`` of every route of the application, pages as ``METHOD ~/path``."""
    app = create_app(Settings(database_url="sqlite://", data_dir=Path()), background=False)
    found = set()
    for route in iter_route_contexts(app.routes):
        methods = set(route.methods or ())
        if methods == {"GET", "HEAD"}:
            methods = {"GET"}  # the same handler
        path = str(route.path)
        short = path.removeprefix(f"{PREFIX}/api/v1") if path.startswith(f"{PREFIX}/api/v1") else "~" + path.removeprefix(PREFIX)
        found |= {f"{method} {short}" for method in methods}
    return found


def test_every_route_has_a_case_and_every_case_a_route() -> None:
    covered = {case.route for case in CASES}
    assert covered - routes() == set(), "cases of routes that do not exist"
    assert routes() - covered == set(), "routes that the walk does not try"


def test_the_published_document_names_no_route_that_the_application_lacks(world: World) -> None:
    document = world.service.api().get("/openapi.json").json()
    published = {
        f"{method.upper()} {path.removeprefix(f'{PREFIX}/api/v1')}".replace(f" {PREFIX}", " ~")
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert published - routes() == set()
    assert len(published) > 40


def address(world: World, path: str) -> str:
    return f"{world.service.url}/api/v1{path}" if path.startswith("/") else f"{world.service.url}{path.removeprefix('~')}"


def request(world: World, case: Case, call: Call, headers: dict[str, str], seconds: float = 8) -> tuple[httpx.Response, str]:
    """Make the call with *headers* as credential and return the answer and its text; of a stream what comes within a while."""
    method = case.route.partition(" ")[0]
    body: dict[str, Any] = {"json": call.json} if call.json is not None else {}
    if call.form is not None:
        body = {"data": call.form}
    elif call.content is not None:
        body = {"content": call.content}
    with (
        httpx.Client(timeout=30) as client,
        client.stream(
            method, address(world, call.path), params=call.params, headers={**call.headers, **headers}, **body
        ) as answer,
    ):
        if not case.stream or answer.status_code != 200:
            return answer, answer.read().decode(errors="replace")
        text = ""
        try:
            for piece in answer.iter_text():
                text += piece
                if case.sees and case.sees in text:
                    break
        except httpx.ReadTimeout:
            pass
        return answer, text


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"tessera-token={token}"} | MARK


def right(case: Case, call: Call) -> dict[str, str]:
    """The owner's credential: pages are for browsers, all else for programs."""
    if case.kind == "open":
        return {}
    return cookie(call.token) if "page" in case.kind else bearer(call.token)


def refusals(world: World, case: Case, call: Call) -> Iterator[tuple[str, dict[str, str], int]]:
    """Who else tries, and what they are answered."""
    if case.kind in ("page", "operator page"):
        operators = case.kind == "operator page"
        yield "nobody", MARK, 303
        yield "wrong cookie", cookie("wrong"), 303
        yield "no scope", cookie(world.bare), 403
        yield "stranger", cookie(world.eve), 403 if operators else case.stranger
        if operators or case.colleague is not None:
            yield "colleague", cookie(world.bob), 403 if operators else case.colleague or 0
    elif case.kind in ("proxy", "run"):
        yield "nobody", {}, 401
        yield "wrong token", bearer("wrong"), 401
        yield "a person", bearer(world.ada), 401
        yield "an operator", bearer(world.root), 401
        yield "an operator's cookie", cookie(world.root), 401
        yield "another cluster", bearer(world.mars.session), 401
        if case.kind == "run":
            yield "its cluster", bearer(world.moon.session), 401
            yield "another run", bearer(world.other["run_token"]), 401
        else:
            yield "a run", bearer(world.leased["run_token"]), 401
            yield "another cluster's start", bearer(world.mars.bootstrap), 401
    elif case.kind in ("person", "operator", "spawner"):
        yield "nobody", {}, 401
        yield "wrong token", bearer("wrong"), 401
        yield "a run", bearer(world.leased["run_token"]), 401
        if case.route != "GET /me":
            yield "no scope", bearer(world.bare), 403
        if case.kind == "spawner":
            yield "the person herself", bearer(world.ada), 403
            yield "an operator", bearer(world.root), 403
        elif case.kind == "operator":
            # Costs are a person's route with a part for operators: the tenant is hidden from others, the part refused.
            yield "stranger", bearer(world.eve), case.stranger if case.route == "GET /costs" else 403
            yield "a member", bearer(world.ada), 403
        else:
            yield "stranger", bearer(world.eve), case.stranger
            if case.colleague is not None:
                yield "colleague", bearer(world.bob), case.colleague


def leaked(world: World, call: Call, text: str, who: str) -> set[str]:
    """Words in *text* that *who* may not read and did not say."""
    words = world.private if who in ("colleague", "a member", "no scope") else world.markers
    return {word for word in words if word in text and word not in call.words}


def changes(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """Return what changed: rows that went and came, and of those that are both the columns that differ."""
    found = []
    for table, rows in before.items():
        went, came = set(rows) - set(after[table]), set(after[table]) - set(rows)
        for row in sorted(went):
            old = ast.literal_eval(row)
            for other in sorted(came):
                new = ast.literal_eval(other)
                if next(iter(old.values())) == next(iter(new.values())):
                    differing = {name: (old[name], new[name]) for name in old if old[name] != new[name]}
                    found.append(f"{table} {next(iter(old.values()))}: {differing}")
        if not found and rows != after[table]:
            found.append(f"{table}: {went} went, {came} came")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.route)
def test_owners_succeed_and_others_are_refused_without_a_trace(world: World, case: Case) -> None:
    sees = fill(world, case.sees)
    call = case.make(world)
    answer, text = request(world, case, call, right(case, call))
    assert answer.status_code == case.status, text
    assert sees in text

    call = case.make(world)
    before = world.quiet_picture()
    for who, credential, expected in refusals(world, case, call):
        answer, text = request(world, case, call, credential)
        assert answer.status_code == expected, (who, text)
        if expected == 303:
            assert LOGIN in answer.headers["Location"], who
        elif expected >= 400 and "page" not in case.kind and "HEAD" not in case.route:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["code"], who
        found = leaked(world, call, text, who)
        if expected < 400 and who == "colleague" and case.colleague == 200 and case.route.startswith("GET /blobs"):
            found = set()  # the store is the tenant's: a member who knows the hash has the bytes
        assert found == set(), (who, text)
    after = world.picture()
    assert after["orders"] == before["orders"]
    assert after["files"] == before["files"]
    changed = changes(before["database"], after["database"])
    assert changed == [], "\n".join(changed)

    answer, text = request(world, case, call, right(case, call))
    assert answer.status_code == case.status, ("the very call that others were refused", text)


FOREIGN_PAGES = (
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "null"},
)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.route.partition(" ")[0] not in SAFE and case.kind in ("person", "operator", "page")],
    ids=lambda case: case.route,
)
def test_a_cookie_alone_changes_nothing(world: World, case: Case) -> None:
    """A page elsewhere can make a browser send the cookie, never the header of our own pages."""
    call = case.make(world)
    before = world.quiet_picture()
    for said in FOREIGN_PAGES:
        headers = {"Cookie": f"tessera-token={call.token}"} | said
        answer, text = request(world, case, call, headers)
        assert answer.status_code == 403, (said, text)
        assert "auth.cross_site" in text, said
    after = world.picture()
    assert (after["orders"], after["files"]) == (before["orders"], before["files"])
    changed = changes(before["database"], after["database"])
    assert changed == [], "\n".join(changed)
    answer, text = request(world, case, call, cookie(call.token))
    assert answer.status_code == case.status, text


def test_another_cluster_cannot_speak_about_a_run(world: World) -> None:
    """With a session of its own it may call, and what it says about runs of others changes nothing."""
    lease = world.moon.place(world.api, world.spec())
    run = {"run_id": lease["run_id"], "lease_token": lease["lease_token"]}
    moment = {"at": now()}
    before = world.quiet_picture()
    api, epoch = world.service.api(world.mars.session), world.mars.epoch
    event = run | moment | {"event_id": "00000000-0000-4000-8000-000000000001", "kind": "phase", "phase": "SUCCEEDED"}
    told = api.post("/proxies/mars/events", json={"epoch": epoch, "events": [event]})
    assert set(told.raise_for_status().json()["results"].values()) == {"stale"}
    body = {"epoch": epoch, "checkpoint": "here", "events": [meter_report(lease["run_id"])]}
    assert api.post("/proxies/mars/metering", json=body).raise_for_status().json()["accepted"] == 0
    sample = {"run_id": lease["run_id"], "cpu_millicores": 1, "memory_mib": 1, **moment}
    api.post("/proxies/mars/usage", json={"epoch": epoch, "samples": [sample]}).raise_for_status()
    report = world.mars.report() | {"runs": [run | moment | {"phase": "SUCCEEDED"}]}
    answer = api.post("/proxies/mars/sync", json=report).raise_for_status()
    assert answer.json()["leases"] == []
    assert lease["run_token"] not in answer.text
    after = world.picture()
    mars = [row for row in after["database"].pop("cluster") if "'mars'" not in row]
    assert mars == [row for row in before["database"].pop("cluster") if "'mars'" not in row]
    assert after == before


def test_a_token_of_a_run_is_dead_when_the_run_has_ended(world: World) -> None:
    lease = world.moon.place(world.api, world.spec())
    api = world.service.api(lease["run_token"])
    assert api.get(f"/runs/{lease['run_id']}/inputs").status_code == 200
    world.api.post(f"/tasks/{lease['task_id']}/cancel").raise_for_status()
    event = {"run_id": lease["run_id"], "lease_token": lease["lease_token"], "at": now(), "kind": "phase", "phase": "CANCELLED"}
    body = {"epoch": world.moon.epoch, "events": [event | {"event_id": "00000000-0000-4000-8000-000000000002"}]}
    world.service.api(world.moon.session).post("/proxies/moon/events", json=body).raise_for_status()
    world.moon.leases.pop(lease["run_id"], None)
    before = world.quiet_picture()
    for method, path in (
        ("GET", "/inputs"),
        ("GET", f"/inputs/{world.main}"),
        ("PUT", "/logs/output?offset=0"),
        ("PUT", "/notebook"),
        ("PUT", f"/outputs/{world.main}?path=late.txt"),
    ):
        assert api.request(method, f"/runs/{lease['run_id']}{path}").status_code == 401, path
    assert world.picture() == before


def test_a_run_reads_the_inputs_of_its_own_task_only(world: World) -> None:
    """Its token does not open the rest of the tenant's store."""
    api = world.service.api(world.leased["run_token"])
    assert api.get(f"/runs/{world.leased['run_id']}/inputs/{world.main}").status_code == 200
    assert api.get(f"/runs/{world.leased['run_id']}/inputs/{world.output['sha256']}").status_code == 404
