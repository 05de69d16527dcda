"""Pages of workspaces: the form, the wait, the way in and out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from tessera_hub.api.auth import Caller, Ctx, Reader, Submitter
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.api.intake import examine
from tessera_hub.api.routes import queues, tasks
from tessera_hub.api.routes.workspaces import keep, reserve
from tessera_hub.catalogue import capacities, datasets, environments
from tessera_hub.environments import opener
from tessera_hub.i18n import gettext as _
from tessera_hub.portal import presentation as p
from tessera_hub.portal.choices import class_tiles, dataset_tiles, partition_tiles
from tessera_hub.portal.pages import PageRoute, render
from tessera_hub.schemas.tasks import Phase, TaskDetail, TaskKind
from tessera_hub.schemas.workspaces import DEFAULT_NAME, WorkspaceRequest
from tessera_hub.tasks.submission import requested
from tessera_hub.workspaces.idleness import idleness
from tessera_spawner.options import LINK_PREFIX, OptionErrors, WorkspaceOptions, link_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)

DEFAULTS = {
    "environment": "",
    "compute": "cpu",
    "card_class": "",
    "partition": "",
    "share": "25",
    "card_memory": "",
    "cards": "1",
    "cpu": "1",
    "memory": "2",
    "hours": "8",
    "server": "",
    "tenant": "",
    "queue": "",
    "datasets": "",
    "replaces": "",
}
"""Fields of the form. ``datasets`` are names with commas; ``replaces`` is the waiting workspace that a changed choice takes the
place of."""
_SEVERAL = ("datasets", f"{LINK_PREFIX}datasets")
"""Fields that come once for each choice."""


async def form_fields(request: Request) -> dict[str, str]:
    """Return the fields of a posted form (application/x-www-form-urlencoded), at most 64 KiB."""
    body = await request.body()
    if len(body) > 64 << 10:
        raise Problem(413, "form.too_large", _("The form is too large."))
    return _joined(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields by name; the last of a name counts, but for those of which all do."""
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields[name] = f"{fields[name]},{value}" if name in _SEVERAL and fields.get(name) else value
    return fields


async def _form(
    request: Request,
    caller: Caller,
    context: Context,
    values: Mapping[str, str],
    *,
    problem: Problem | None = None,
    checked: bool = True,
) -> Response:
    shown = DEFAULTS | {k.removeprefix(LINK_PREFIX): v for k, v in values.items() if k.removeprefix(LINK_PREFIX) in DEFAULTS}
    # What a workspace of this person may have: an operator's, too, goes to clusters of their own tenants only.
    own_tenants = set(caller.tenants)
    async with context.store.read() as session:
        capacity = [c for c in await capacities(session, own_tenants) if c.workspaces]
        may = opener(context.settings.environment_rules, caller.groups)
        offered = await environments(session, own_tenants, may, workspaces=True)
        readable = await datasets(session, own_tenants, own_tenants)
    cards = [card for c in capacity for card in c.cards]
    own = [q for q in await queues.list_queues(caller, context) if q.tenant in caller.tenants and q.state == "open"]
    classes, partitions = class_tiles(cards), partition_tiles(cards)
    none = _("No cards are given in this way.") if cards else _("This machine has no cards.")
    kinds = [
        ("cpu", _("CPU only"), ""),
        ("share", _("Shared card"), "" if any("share" in tile.kinds for tile in classes) else none),
        *([("mig", _("Card partition"), "")] if partitions else []),
        ("whole", _("Whole cards"), "" if any("whole" in tile.kinds for tile in classes) else none),
        ("multi", _("Multi-node"), _("A workspace runs on one node. For several, run a job.")),
    ]
    if not shown["card_class"]:
        fitting = [tile.card_class for tile in classes if shown["compute"] in tile.kinds]
        shown["card_class"] = (fitting or [tile.card_class for tile in classes] or [""])[0]
    if not shown["partition"] and partitions:
        shown["partition"] = next((tile.value for tile in partitions if tile.free), partitions[0].value)
    summary = await _summary(caller, context, shown)
    extra = problem.extra if problem else {}
    status = problem.status if problem else 422 if checked and summary["errors"] else 200
    return render(
        request,
        "workspace_new.html",
        caller,
        status=status,
        here="workspaces",
        v=shown,
        kinds=kinds,
        reasons=sorted({why for _key, _label, why in kinds if why}),
        classes=classes,
        partitions=partitions,
        currency=context.settings.currency,
        environments=offered,
        datasets=dataset_tiles(readable, own_tenants, [name for name in shown["datasets"].split(",") if name]),
        tenants=sorted(caller.tenants),
        queues=own,
        most_cores=max((c.total.get("cpu", 0) for c in capacity), default=0) // 1000 or 4,
        most_memory=max((c.total.get("memory", 0) for c in capacity), default=0) // 1024 or 16,
        problem=problem,
        existing=str(extra.get("detail", {}).get("task_id", "")) if problem and problem.code == "workspace.exists" else "",
        **summary,
    )


class _NoErrors(dict[str, str]):
    """Field → message; a field without an error gives nothing."""

    def __missing__(self, key: str) -> str:
        return ""


async def _summary(caller: Caller, context: Context, values: Mapping[str, str]) -> dict[str, Any]:
    """Return price, quota and verdict of what is chosen, or what is wrong with it."""
    empty = {"estimate": None, "summary_problem": None, "chosen": "", "errors": _NoErrors()}
    try:
        options = WorkspaceOptions.parse(values)
        spec = options.specification()
        estimate = await examine(context, caller, spec, 3600)
        return empty | {"estimate": estimate, "chosen": p.resources(requested(spec))}
    except OptionErrors as error:
        problem = Problem(422, "form.invalid", _("Please check the fields."), hint=" ".join(dict.fromkeys(error.errors.values())))
        return empty | {"summary_problem": problem, "errors": _NoErrors(error.errors)}
    except Problem as problem:
        field = {"environment": "environment", "dataset": "datasets"}.get(problem.code.partition(".")[0])
        wrong = {field: problem.title} if field else {}
        return empty | {"summary_problem": problem, "errors": _NoErrors(wrong)}


@router.get("/workspaces/new")
async def new(request: Request, caller: Submitter, context: Ctx) -> Response:
    """Show the form, preset by a deep link's ``opt-…``."""
    return await _form(request, caller, context, _joined(request.query_params.multi_items()), checked=False)


@router.post("/workspaces/new/summary")
async def summary(request: Request, caller: Reader, context: Ctx) -> Response:
    """Return the summary of what is chosen now, for the page's side."""
    return render(request, "summary.html", caller, **await _summary(caller, context, DEFAULTS | await form_fields(request)))


@router.post("/workspaces/new")
async def create(request: Request, caller: Submitter, context: Ctx) -> Response:
    """Reserve the workspace and show the wait, or the form again with what is wrong."""
    values = await form_fields(request)
    if request.query_params.get("preview"):
        return await _form(request, caller, context, values)
    try:
        options = WorkspaceOptions.parse(values)
        wanted = WorkspaceRequest(server_name=options.server_name, spec=options.specification())
        await _make_way(caller, context, values.get("replaces", ""), wanted)
        record = await reserve(context, caller, wanted)
    except OptionErrors:
        return await _form(request, caller, context, values)
    except Problem as problem:
        return await _form(request, caller, context, values, problem=problem)
    return RedirectResponse(f"{context.settings.prefix}/workspaces/{record.task.id}?go=1", 303)


async def _make_way(caller: Caller, context: Context, replaces: str, wanted: WorkspaceRequest) -> None:
    """Cancel the waiting workspace that *wanted* replaces, if that can be had; one that has started stays."""
    try:
        task_id = UUID(replaces)
    except ValueError:
        return
    task = await _workspace(caller, context, task_id)
    if task.phase is not Phase.QUEUED or server_of(task) != wanted.server_name:
        return
    if (await examine(context, caller, wanted.spec, None)).verdict != "never":
        await tasks.cancel(task_id, caller, context)


async def _workspace(caller: Caller, context: Context, task_id: UUID) -> TaskDetail:
    task = await tasks.show(task_id, caller, context, Response(), None)
    if task.kind is not TaskKind.WORKSPACE:
        raise not_found("workspace")
    return task


def server_of(task: TaskDetail) -> str:
    """Return the name of a workspace's server at the hub."""
    return "" if task.name == DEFAULT_NAME else task.name


def server_address(context: Context, task: TaskDetail) -> str:
    """Return the address of the workspace's JupyterLab."""
    base = context.settings.hub_prefix.removesuffix("hub/")
    name = server_of(task)
    return f"{base}user/{quote(task.owner)}/" + (f"{quote(name)}/" if name else "") + "lab"


@router.get("/workspaces/{task_id}")
async def show(request: Request, task_id: UUID, caller: Reader, context: Ctx, go: str = "") -> Response:
    """Show the wait, the running workspace, or its end. With ``go`` it opens by itself when it runs."""
    task = await _workspace(caller, context, task_id)
    address = server_address(context, task)
    if go and task.phase is Phase.RUNNING and "X-Tessera-Request" not in request.headers:
        return RedirectResponse(address, 303)
    async with context.store.read() as session:
        idle = None if task.phase.final or task.cancel_requested else await idleness(session, context.settings, task.run_id)
    again = link_of(task.spec, server_of(task))
    if not task.phase.final:
        again[f"{LINK_PREFIX}replaces"] = str(task.id)
    return render(
        request,
        "workspace.html",
        caller,
        here="workspaces",
        task=task,
        opened=address if go and task.phase is Phase.RUNNING else "",
        change=f"{context.settings.prefix}/workspaces/new?{urlencode(again)}",
        idle=idle,
        sentence=sentence(task),
        steps=steps(task),
        events=await tasks.events(task_id, caller, context),
    )


def sentence(task: TaskDetail) -> str:
    """Return the plain sentence about where the workspace stands."""
    if task.cancel_requested and not task.phase.final:
        return _("Your workspace is stopping.")
    if task.phase is Phase.QUEUED:
        if task.position and task.position.ahead_tasks:
            return _("Your workspace waits in the queue; {count} are ahead.", count=task.position.ahead_tasks)
        return _("Your workspace waits for its resources.")
    if task.phase in (Phase.RESERVED, Phase.DISPATCHED, Phase.PENDING):
        return _("The resources are yours; the workspace is about to start.")
    if task.phase is Phase.STARTING:
        return _("Your workspace is starting.")
    if task.phase is Phase.RUNNING:
        return _("Your workspace is running.")
    if task.phase is Phase.FAILED:
        return task.reasons[0].message if task.reasons else _("The workspace did not start.")
    return task.reasons[0].message if task.reasons else _("The workspace has ended.")


def steps(task: TaskDetail) -> list[tuple[str, str, str]]:
    """Return the stepper: (``ok``, ``now``, ``bad`` or nothing, label, note)."""
    labels = [_("Quota checked"), _("In the queue"), _("Resources reserved"), _("Starting"), _("Running")]
    order = {Phase.QUEUED: 1, Phase.RESERVED: 2, Phase.DISPATCHED: 2, Phase.PENDING: 2, Phase.STARTING: 3, Phase.RUNNING: 5}
    if task.phase.final:
        reached = 5 if task.started_at else 3 if any(r.started_at for r in task.runs) else 2
    else:
        reached = order.get(task.phase, 4)
    waits = {Phase.QUEUED: 1, Phase.STARTING: 3}
    note = task.reasons[0].message if task.reasons and task.phase in waits else ""
    found = []
    for index, label in enumerate(labels):
        state = "ok" if index < reached else "now" if index == reached and not task.phase.final else ""
        if task.phase is Phase.FAILED and index == reached:
            state = "bad"
        found.append((state, label, note if index == waits.get(task.phase) and state == "now" else ""))
    return found


@router.get("/workspaces/{task_id}/open")
async def open_lab(task_id: UUID, caller: Reader, context: Ctx) -> Response:
    """Go to the workspace's JupyterLab."""
    return RedirectResponse(server_address(context, await _workspace(caller, context, task_id)), 303)


@router.post("/workspaces/{task_id}/stop")
async def stop(task_id: UUID, caller: Submitter, context: Ctx) -> Response:
    """Stop or cancel the workspace and show it."""
    await _workspace(caller, context, task_id)
    await tasks.cancel(task_id, caller, context)
    return RedirectResponse(f"{context.settings.prefix}/workspaces/{task_id}", 303)


@router.post("/workspaces/{task_id}/keep")
async def keep_it(task_id: UUID, caller: Submitter, context: Ctx) -> Response:
    """Keep the workspace for an hour although it is idle, and show it."""
    await keep(task_id, caller, context)
    return RedirectResponse(f"{context.settings.prefix}/workspaces/{task_id}", 303)
