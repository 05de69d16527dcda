"""The table of the walk: for every route real things, the owner's exact answer, and who is refused how.

A case makes its things anew each time, so that a refused call could have changed something: after the refusals the owner
succeeds with the very same call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from tests.tenancy.clusters import HandProxy, bearer, now
from tests.tenancy.world import World

Kind = Literal["person", "operator", "spawner", "page", "operator page", "proxy", "run", "open"]


@dataclass(frozen=True, slots=True)
class Call:
    """A request with the right credential of its route's kind; ``path`` is below the API, or below the service for pages."""

    path: str
    token: str
    params: dict[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    form: dict[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Everything the caller says, which may come back to them."""
        said = [self.path, json.dumps(self.params), json.dumps(self.json), json.dumps(self.form), (self.content or b"").decode()]
        return " ".join(said)


@dataclass(frozen=True, slots=True)
class Case:
    """One route with real things.

    Attributes:
        route: method and path template.
        kind: whose token opens it.
        make: makes the things and returns the owner's call.
        status: the owner's answer.
        stranger: the answer to another tenant; below 400 it must not hold a word of the owner's tenant.
        colleague: the answer to a member of the same tenant who is not the owner; None: a member may do it as the owner.
        sees: what the owner's answer must hold, so that an empty answer does not pass for success.
        stream: an event stream that does not end.
    """

    route: str
    kind: Kind
    make: Callable[[World], Call]
    status: int
    stranger: int = 404
    colleague: int | None = 404
    sees: str = ""
    stream: bool = False


def get(path: str, **params: Any) -> Callable[[World], Call]:
    """Return a maker of Ada's GET of *path*, in which ``{finished}`` and the like stand for the world's ids."""

    def make(world: World) -> Call:
        return Call(fill(world, path), world.ada, {k: fill(world, str(v)) for k, v in params.items()})

    return make


def fill(world: World, text: str) -> str:
    """Put the world's ids into *text*."""
    known = {
        "{finished}": world.finished["id"],
        "{running}": world.running["id"],
        "{output}": world.output["sha256"],
        "{main}": world.main,
        "{queue}": str(world.queue["id"]),
        "{month}": f"{datetime.now(UTC):%Y-%m}",
    }
    for name, value in known.items():
        text = text.replace(name, value)
    return text


def _as(who: str, make: Callable[[World], Call]) -> Callable[[World], Call]:
    def made(world: World) -> Call:
        call = make(world)
        return Call(call.path, getattr(world, who), call.params, call.json, call.content, call.form, call.headers)

    return made


def _members_costs(by: str) -> Callable[[World], Call]:
    """What each member of a tenant spent: a person's route with a part for operators."""
    return _as("root", get("/costs", by=by, tenant="crimson", mine=False))


def _submit(world: World) -> Call:
    return Call("/tasks", world.ada, json=world.spec(tenant="crimson", schedule={"at": "2099-01-01T00:00:00Z"}))


def _submit_with_files_of_another_tenant(world: World) -> Call:
    """Whoever knows the hashes of a tenant's files gains nothing: here the caller's own tenant is meant."""
    return Call("/tasks", world.ada, json=world.spec(schedule={"at": "2099-01-01T00:00:00Z"}))


def _batch(world: World) -> Call:
    return Call("/tasks/batch", world.ada, json={"tasks": [_submit(world).json]})


def _new_schedule(world: World) -> Call:
    return Call("/schedules", world.ada, json=world.spec(tenant="crimson", schedule={"cron": "0 7 1 1 *"}))


def _of_schedule(path: str, body: Any = None) -> Callable[[World], Call]:
    def make(world: World) -> Call:
        made = world.api.post("/schedules", json=_new_schedule(world).json).raise_for_status().json()
        return Call(path.format(made["id"]), world.ada, json=body)

    return make


def _estimate(world: World) -> Call:
    return Call("/estimate", world.ada, json=world.spec(tenant="crimson"))


def _dry_run(world: World) -> Call:
    return Call("/tasks", world.ada, {"dry_run": True}, world.spec(tenant="crimson"))


def _missing(world: World) -> Call:
    return Call("/blobs/missing", world.ada, {"tenant": "crimson"}, {"sha256": [world.main]})


def _put_blob(world: World) -> Call:
    digest, data = world.blob()
    return Call(f"/blobs/{digest}", world.ada, {"tenant": "crimson"}, content=data)


def _patch_blob(world: World) -> Call:
    digest, data = world.blob()
    headers = {"Upload-Offset": "0", "Upload-Length": str(len(data) + 1)}
    return Call(f"/blobs/{digest}", world.ada, {"tenant": "crimson"}, content=data, headers=headers)


SMALL = [{"resources": {"cpu_millicores": 50, "memory_mib": 64}}]


def _workspace(world: World) -> Call:
    spec = {"name": "ada-w", "kind": "workspace", "tenant": "crimson", "roles": SMALL}
    return Call("/workspaces", world.ada, json={"server_name": f"w{uuid4().hex[:12]}", "spec": spec})


def _new_cluster(world: World) -> Call:
    return Call("/clusters", world.root, json={"name": f"c{uuid4().hex[:12]}"})


def _change_cluster(world: World) -> Call:
    fresh = HandProxy(world.service, world.root, f"c{uuid4().hex[:12]}")
    return Call(f"/clusters/{fresh.name}", world.root, json={"draining": True})


def _remove_cluster(world: World) -> Call:
    return Call(f"/clusters/{HandProxy(world.service, world.root, f'c{uuid4().hex[:12]}').name}", world.root)


def _new_queue(world: World) -> Call:
    root = next(q for q in world.service.api(world.root).get("/queues").json() if q["path"] == "crimson")
    return Call("/queues", world.root, json={"parent": root["id"], "name": f"q{uuid4().hex[:8]}"})


def _new_price(world: World) -> Call:
    return Call("/prices", world.root, json={"dimension": "cpu", "nano_per_unit_hour": 8, "tenant": "crimson"})


def _change_queue(world: World) -> Call:
    return Call(f"/queues/{world.queue['id']}", world.root, json={"priority": 51})


def _spawner_state(world: World) -> Call:
    granted = world.workspace()
    world.hub.add_server("ada-lovelace", granted["server_name"])
    body = {"lease_token": granted["lease_token"], "phase": "STARTING", "at": now()}
    return Call(f"/spawner/reservations/{granted['run_id']}/state", world.spawner, json=body)


def _find_reservation(world: World) -> Call:
    granted = world.workspace()
    return Call("/spawner/reservations", world.spawner, {"user": "ada-lovelace", "server": granted["server_name"]})


def _session(world: World) -> Call:
    fresh = HandProxy(world.service, world.root, f"c{uuid4().hex[:12]}")
    return Call(f"/proxies/{fresh.name}/sessions", fresh.bootstrap, json=fresh.introduction())


def _sync(world: World) -> Call:
    return Call("/proxies/moon/sync", world.moon.session, json=world.moon.report())


def _events(world: World) -> Call:
    lease = world.moon.place(world.api, world.spec())
    event = {"event_id": str(uuid4()), "run_id": lease["run_id"], "lease_token": lease["lease_token"], "at": now()}
    body = {"epoch": world.moon.epoch, "events": [event | {"kind": "phase", "phase": "STARTING"}]}
    del world.moon.leases[lease["run_id"]]  # it is not reported as PENDING any more
    return Call("/proxies/moon/events", world.moon.session, json=body)


def meter_report(run_id: str) -> dict[str, Any]:
    """Return the first fact about a run."""
    moment = int(datetime.now(UTC).timestamp())
    times = {"effective_at": moment, "observed_at": moment, "source": "test"}
    return {"run_id": run_id, "subject": f"s-{uuid4()}", "action": "START", "spec": {"cpu": 50}, **times}


def _metering(world: World) -> Call:
    body = {"epoch": world.moon.epoch, "checkpoint": uuid4().hex, "events": [meter_report(world.leased["run_id"])]}
    return Call("/proxies/moon/metering", world.moon.session, json=body)


def _usage(world: World) -> Call:
    sample = {"run_id": world.leased["run_id"], "at": now(), "cpu_millicores": 5, "memory_mib": 5}
    return Call("/proxies/moon/usage", world.moon.session, json={"epoch": world.moon.epoch, "samples": [sample]})


def _claim(world: World) -> Call:
    lease = world.moon.place(world.api, world.spec())
    body = {"lease_token": lease["lease_token"], "who": "runner"}
    return Call(f"/runs/{lease['run_id']}/claim", lease["run_token"], json=body)


def _of_run(path: str, **fields: Any) -> Callable[[World], Call]:
    def make(world: World) -> Call:
        return Call(fill(world, f"/runs/{world.leased['run_id']}{path}"), world.leased["run_token"], **fields)

    return make


def _put_log(world: World) -> Call:
    logs = world.service.api(world.root).get(f"/tasks/{world.leased['task_id']}/logs/output")
    offset = int(logs.headers["X-Log-End"])
    path = f"/runs/{world.leased['run_id']}/logs/output"
    return Call(path, world.leased["run_token"], {"offset": offset}, content=b"ada-words\n")


def _put_notebook(world: World) -> Call:
    data = json.dumps({"cells": [], "metadata": {"id": uuid4().hex}, "nbformat": 4, "nbformat_minor": 5}).encode()
    return Call(f"/runs/{world.leased['run_id']}/notebook", world.leased["run_token"], content=data)


def _started_output(world: World) -> tuple[str, bytes]:
    digest, data = world.blob()
    headers = bearer(world.leased["run_token"]) | {"Upload-Offset": "0", "Upload-Length": str(len(data))}
    world.service.api().patch(
        f"/runs/{world.leased['run_id']}/outputs/{digest}", content=data[:5], headers=headers
    ).raise_for_status()
    return digest, data


def _output_offset(world: World) -> Call:
    digest, _data = _started_output(world)
    return Call(f"/runs/{world.leased['run_id']}/outputs/{digest}", world.leased["run_token"])


def _append_output(world: World) -> Call:
    digest, data = _started_output(world)
    headers = {"Upload-Offset": "5", "Upload-Length": str(len(data))}
    return Call(f"/runs/{world.leased['run_id']}/outputs/{digest}", world.leased["run_token"], content=data[5:], headers=headers)


def _name_output(world: World) -> Call:
    path = f"/runs/{world.leased['run_id']}/outputs/{world.main}"
    return Call(path, world.leased["run_token"], {"path": f"{uuid4().hex}.txt"})


def _of_workspace(path: str) -> Callable[[World], Call]:
    return lambda world: Call(path.format(world.workspace()["id"]), world.ada)


def _activity(world: World) -> Call:
    return Call(f"/workspaces/{world.workspace()['id']}/activity", world.ada, json={"idle_seconds": 60})


def _of_waiting(path: str) -> Callable[[World], Call]:
    return lambda world: Call(path.format(world.tomorrow()["id"]), world.ada)


def _of_leased(path: str) -> Callable[[World], Call]:
    return lambda world: Call(path.format(world.leased["task_id"]), world.ada)


def _used(world: World) -> Call:
    sample = {"run_id": world.leased["run_id"], "at": now(), "cpu_millicores": 1234, "memory_mib": 5}
    body = {"epoch": world.moon.epoch, "samples": [sample]}
    world.service.api(world.moon.session).post("/proxies/moon/usage", json=body).raise_for_status()
    return Call(f"/tasks/{world.leased['task_id']}/usage", world.ada)


def _of_ended(path: str) -> Callable[[World], Call]:
    return lambda world: Call(path.format(world.cancelled()["id"]), world.ada)


def _form(path: str) -> Callable[[World], Call]:
    def make(world: World) -> Call:
        fields = {"cpu": "0.1", "memory": "0.25", "tenant": "crimson", "server": f"w{uuid4().hex[:12]}"}
        return Call(path, world.ada, form=fields)

    return make


LISTED = {"stranger": 200, "colleague": 200}
"""A list answers everybody, with what is theirs."""
TENANTS = {"stranger": 404, "colleague": 200}
"""What every member of the tenant may see."""

CASES: tuple[Case, ...] = (
    # you, and what there is
    Case("GET /me", "person", get("/me"), 200, **LISTED, sees="crimson"),
    Case("GET /environments", "person", get("/environments"), 200, **LISTED, sees="crimson-vault-only"),
    Case("GET /datasets", "person", get("/datasets"), 200, **LISTED, sees="crimson-data-only"),
    Case("GET /capacity", "person", get("/capacity"), 200, **LISTED, sees="crimson-vault"),
    Case("GET /prices", "person", get("/prices"), 200, **LISTED, sees='"tenant":"crimson"'),
    Case("POST /prices", "operator", _new_price, 201, sees="crimson"),
    # tasks
    Case("POST /estimate", "person", _estimate, 200, stranger=403, colleague=200, sees="nano_per_hour"),
    Case("POST /tasks", "person", _dry_run, 200, stranger=403, colleague=200, sees="estimate"),
    Case("POST /tasks", "person", _submit, 201, stranger=403, colleague=None, sees="ada-task"),
    Case("POST /tasks", "person", _submit_with_files_of_another_tenant, 201, stranger=409, colleague=None),
    Case("POST /tasks/batch", "person", _batch, 200, stranger=200, colleague=None, sees='"task":{"id"'),
    Case("GET /tasks", "person", get("/tasks", limit=200), 200, **LISTED, sees="{finished}"),
    Case("GET /tasks", "person", get("/tasks", tenant="crimson"), 200, **LISTED, sees="ada-task"),
    Case("GET /tasks/{task_id}", "person", get("/tasks/{finished}"), 200, sees="ada-secret-notebook"),
    Case("GET /tasks/{task_id}", "person", get("/tasks/{running}"), 200, sees="ada-secret-plan"),
    Case("POST /tasks/{task_id}/cancel", "person", _of_waiting("/tasks/{}/cancel"), 202, sees="CANCELLED"),
    Case("POST /tasks/{task_id}/retry", "person", _of_ended("/tasks/{}/retry"), 202, sees="QUEUED"),
    Case("POST /tasks/{task_id}/suspend", "person", _of_leased("/tasks/{}/suspend"), 202, sees="ada-"),
    Case("POST /tasks/{task_id}/resume", "person", _of_leased("/tasks/{}/resume"), 202, sees="ada-"),
    Case("GET /tasks/{task_id}/events", "person", get("/tasks/{finished}/events"), 200, sees="SUCCEEDED"),
    Case("GET /tasks/{task_id}/decision", "person", get("/tasks/{finished}/decision"), 200, sees="local"),
    Case("GET /tasks/{task_id}/logs/{stream}", "person", get("/tasks/{running}/logs/output"), 200, sees="ada-words"),
    Case("GET /tasks/{task_id}/logs/{stream}", "person", get("/tasks/{finished}/logs/progress"), 200, sees="cell"),
    Case("GET /tasks/{task_id}/notebook", "person", get("/tasks/{finished}/notebook"), 200, sees="ada-words"),
    Case("GET /tasks/{task_id}/usage", "person", _used, 200, sees='"cpu_millicores":1234'),
    Case("GET /tasks/{task_id}/outputs", "person", get("/tasks/{finished}/outputs"), 200, sees="ada-secret-result.txt"),
    Case("GET /tasks/{task_id}/outputs/{sha256}", "person", get("/tasks/{finished}/outputs/{output}"), 200, sees="ada-words"),
    Case("GET /tasks/{task_id}/follow", "person", get("/tasks/{running}/follow"), 200, sees="ada-words", stream=True),
    Case("GET /tasks/{task_id}/follow", "person", get("/tasks/{finished}/follow"), 200, sees="ada-words", stream=True),
    Case("GET /events", "person", get("/events"), 200, **LISTED, sees="hello", stream=True),
    # recurring tasks
    Case("POST /schedules", "person", _new_schedule, 201, stranger=403, colleague=None, sees="ada-task"),
    Case("GET /schedules", "person", _of_schedule("/schedules"), 200, **LISTED, sees="ada-secret-plan"),
    Case("GET /schedules/{schedule_id}", "person", _of_schedule("/schedules/{}"), 200, sees="ada-secret-plan"),
    Case("PATCH /schedules/{schedule_id}", "person", _of_schedule("/schedules/{}", {"enabled": False}), 200, sees="ada-task"),
    Case("DELETE /schedules/{schedule_id}", "person", _of_schedule("/schedules/{}"), 204),
    # files
    Case("POST /blobs/missing", "person", _missing, 200, stranger=403, colleague=200, sees='"missing":[]'),
    Case("HEAD /blobs/{sha256}", "person", get("/blobs/{main}", tenant="crimson"), 200, stranger=403, colleague=200),
    Case("HEAD /blobs/{sha256}", "person", get("/blobs/{main}"), 200, **TENANTS),
    Case("PUT /blobs/{sha256}", "person", _put_blob, 201, stranger=403, colleague=None),
    Case("PATCH /blobs/{sha256}", "person", _patch_blob, 204, stranger=403, colleague=None),
    Case("GET /blobs/{sha256}", "person", get("/blobs/{main}", tenant="crimson"), 200, stranger=403, colleague=200, sees="ada-"),
    Case("GET /blobs/{sha256}", "person", get("/blobs/{output}"), 200, **TENANTS, sees="ada-words"),
    # queues
    Case("GET /queues", "person", get("/queues"), 200, **LISTED, sees="crimson/default"),
    Case("GET /queues/{queue_id}", "person", get("/queues/{queue}"), 200, **TENANTS, sees="crimson/default"),
    Case("POST /queues", "operator", _new_queue, 201, sees="crimson"),
    Case("PUT /queues/{queue_id}", "operator", _change_queue, 200, sees="crimson/default"),
    # bills
    Case("GET /tasks/{task_id}/bill", "person", get("/tasks/{finished}/bill"), 200, sees='"dimension":"cpu"'),
    Case("GET /bills/{tenant}/{month}", "person", get("/bills/crimson/{month}"), 200, **TENANTS, sees='"dimension":"cpu"'),
    Case("GET /costs", "person", get("/costs", by="task"), 200, **LISTED, sees="ada-notebook"),
    Case("GET /costs", "person", get("/costs", by="day", tenant="crimson", mine=False), 200, **TENANTS, sees="amount_micro"),
    Case("GET /costs", "operator", _members_costs("task"), 200, sees="ada-notebook"),
    Case("GET /costs", "operator", _members_costs("person"), 200, sees="principal:"),
    Case("GET /costs/live", "person", get("/costs/live"), 200, **LISTED, sees="micro"),
    Case("GET /costs/live", "person", get("/costs/live", tenant="crimson"), 200, **TENANTS, sees="micro"),
    # workspaces
    Case("POST /workspaces", "person", _workspace, 201, stranger=403, colleague=None, sees="workspace"),
    Case("GET /spawner/reservations", "spawner", _find_reservation, 200, sees="granted"),
    Case("POST /spawner/reservations/{run_id}/state", "spawner", _spawner_state, 204),
    # clusters
    Case("GET /clusters", "operator", _as("root", get("/clusters")), 200, sees="local"),
    Case("POST /clusters", "operator", _new_cluster, 201, sees="bootstrap_token"),
    Case("GET /clusters/{name}", "operator", _as("root", get("/clusters/moon")), 200, sees="moon"),
    Case("PATCH /clusters/{name}", "operator", _change_cluster, 200, sees='"draining":true'),
    Case("DELETE /clusters/{name}", "operator", _remove_cluster, 204),
    # Proxies
    Case("POST /proxies/{cluster}/sessions", "proxy", _session, 200, sees="session_token"),
    Case("POST /proxies/{cluster}/sync", "proxy", _sync, 200, sees="ack_seq"),
    Case("POST /proxies/{cluster}/events", "proxy", _events, 200, sees="accepted"),
    Case("POST /proxies/{cluster}/metering", "proxy", _metering, 200, sees='"accepted":1'),
    Case("POST /proxies/{cluster}/usage", "proxy", _usage, 204),
    # runs
    Case("POST /runs/{run_id}/claim", "run", _claim, 200, sees="runner"),
    Case("PUT /runs/{run_id}/logs/{stream}", "run", _put_log, 200, sees="end"),
    Case("PUT /runs/{run_id}/notebook", "run", _put_notebook, 200, sees="etag"),
    Case("GET /runs/{run_id}/inputs", "run", _of_run("/inputs"), 200, sees="ada-secret-plan.py"),
    Case("GET /runs/{run_id}/inputs/{sha256}", "run", _of_run("/inputs/{main}"), 200, sees="ada-words"),
    Case("HEAD /runs/{run_id}/outputs/{sha256}", "run", _output_offset, 200),
    Case("PATCH /runs/{run_id}/outputs/{sha256}", "run", _append_output, 201),
    Case("PUT /runs/{run_id}/outputs/{sha256}", "run", _name_output, 204),
    # pages
    Case("GET ~/", "page", get("~/"), 200, **LISTED, sees="ada-task"),
    Case("GET ~/tasks", "page", get("~/tasks"), 200, **LISTED, sees="ada-task"),
    Case("GET ~/tasks", "page", get("~/tasks", all="1"), 200, **LISTED, sees="ada-task"),
    Case("GET ~/tasks/{task_id}", "page", get("~/tasks/{finished}"), 200, sees="ada-secret-notebook"),
    Case("POST ~/tasks/{task_id}/cancel", "page", _of_waiting("~/tasks/{}/cancel"), 303),
    Case("POST ~/tasks/{task_id}/retry", "page", _of_ended("~/tasks/{}/retry"), 303),
    Case("GET ~/costs", "page", get("~/costs"), 200, **LISTED, sees="ada-notebook"),
    Case("POST /workspaces/{task_id}/activity", "person", _activity, 200, sees="active_at"),
    Case("POST /workspaces/{task_id}/keep", "person", _of_workspace("/workspaces/{}/keep"), 200, sees="kept_until"),
    Case("GET ~/workspaces/new", "page", get("~/workspaces/new"), 200, **LISTED, sees="crimson"),
    Case("POST ~/workspaces/new/summary", "page", _form("~/workspaces/new/summary"), 200, **LISTED, sees="t-big"),
    Case("POST ~/workspaces/new", "page", _form("~/workspaces/new"), 303, stranger=403, colleague=None),
    Case("GET ~/workspaces/{task_id}", "page", _of_workspace("~/workspaces/{}"), 200, sees="lovelace"),
    Case("GET ~/workspaces/{task_id}/open", "page", _of_workspace("~/workspaces/{}/open"), 303),
    Case("POST ~/workspaces/{task_id}/stop", "page", _of_workspace("~/workspaces/{}/stop"), 303),
    Case("POST ~/workspaces/{task_id}/keep", "page", _of_workspace("~/workspaces/{}/keep"), 303),
    Case("GET ~/clusters", "operator page", _as("root", get("~/clusters")), 200, sees="moon"),
    Case("GET ~/queues", "operator page", _as("root", get("~/queues")), 200, sees="crimson/default"),
    Case("GET ~/prices", "operator page", _as("root", get("~/prices")), 200, sees="crimson"),
    # open to everybody: nothing of any tenant in them
    Case("GET /openapi.json", "open", get("/openapi.json"), 200, sees="openapi"),
    Case("GET ~/healthz", "open", get("~/healthz"), 200, sees="ok"),
    Case("GET ~/readyz", "open", get("~/readyz"), 200, sees="ready"),
    Case("GET ~/metrics", "operator", _as("root", get("~/metrics")), 200, sees="tessera_http_requests_total"),
    Case("GET ~/oauth_callback", "open", get("~/oauth_callback", state="forged", code="forged"), 403),
    Case("GET ~/logout", "open", get("~/logout"), 302),
    Case("GET ~/static/{name}", "open", get("~/static/tessera.css"), 200, sees="{"),
    Case("GET ~/language", "open", get("~/language", to="zh", next="//evil.example"), 303),
)
"""A route that starts with ``~`` is a page: its path is below the service, not below the API."""
