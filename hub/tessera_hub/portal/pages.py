"""The portal: server-rendered pages below ``/services/tessera/``, in the reader's language.

They call the same functions as the API's routes and show the same data; nothing here reads the database by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from inspect import isawaitable
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from tessera_hub import __version__
from tessera_hub.api.auth import BILLS, BillReader, Caller, Ctx, Operator, Reader, Submitter, identify_optional
from tessera_hub.api.context import context_of
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.api.oauth import local_path, login_redirect
from tessera_hub.api.routes import bills, clusters, prices, queues, results, tasks
from tessera_hub.hubapi import HubError
from tessera_hub.i18n import current_language
from tessera_hub.i18n import gettext as _
from tessera_hub.portal import presentation as p
from tessera_hub.schemas.tasks import Phase, TaskKind

TEMPLATES: Final = Path(__file__).parent / "templates"
STATIC: Final = Path(__file__).parent / "static"
LANGUAGE_COOKIE: Final = "tessera-language"

_environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
SERVICE_ID: Final = secrets.token_hex(8)
"""Changes with each start of the service, so that a page opens its streams anew."""
_environment.globals.update(
    _=_,
    service=SERVICE_ID,
    tones=p.TONES,
    version=__version__,
    phase_label=p.phase_label,
    workspace_label=p.workspace_label,
    money=p.money,
    places=p.places,
    per_hour=p.per_hour,
    per_second=p.per_second,
    resources=p.resources,
    elapsed=p.elapsed,
    fraction=p.fraction,
    percent=p.percent,
    quantity=p.quantity,
    dimension_label=p.dimension_label,
    actor_label=p.actor_label,
    file_size=p.file_size,
    symbol=lambda currency: p.SYMBOLS.get(currency, currency + " "),
)


def render(request: Request, template: str, caller: Caller | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page."""
    settings = context_of(request).settings
    text = _environment.get_template(template).render(
        caller=caller,
        prefix=settings.prefix,
        hub_prefix=settings.hub_prefix,
        language=current_language(),
        path=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        now=datetime.now(UTC),
        **({"here": ""} | values),
    )
    headers = {"Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin"}
    headers["X-Tessera-Service"] = SERVICE_ID
    return HTMLResponse(text, status, headers=headers)


class PageRoute(APIRoute):
    """A route whose errors are pages: not signed in goes to the hub's sign-in, everything else is said in words."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with pages for errors."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                return await _problem_page(request, not_found("page"))
            except HubError:
                problem = Problem(503, "hub.unavailable", _("JupyterHub cannot be asked who you are at the moment."))
                problem.hint = _("Try again in a few seconds.")
                return await _problem_page(request, problem)
            except Problem as problem:
                if problem.status == 401:
                    context = context_of(request)
                    target = None if request.method == "GET" else f"{context.settings.prefix}/"
                    answer = login_redirect(context, request, target)
                    answer.status_code = 303
                    return answer
                return await _problem_page(request, problem)

        return handler


def install(app: FastAPI) -> None:
    """Answer a browser that asks for a page that does not exist with a page; programs get their problem document."""
    otherwise = app.exception_handlers[HTTPException]

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        page = "text/html" in request.headers.get("Accept", "") and "/api/" not in request.url.path
        if error.status_code == 404 and page:
            return await _problem_page(request, not_found("page"))
        answer = otherwise(request, error)
        return await answer if isawaitable(answer) else answer


async def _problem_page(request: Request, problem: Problem) -> HTMLResponse:
    try:
        caller = await identify_optional(request)
    except (Problem, HubError):
        caller = None
    values: dict[str, Any] = {"title": problem.title, "hint": problem.hint, "code": problem.code}
    return _error_page(request, caller, problem.status, values)


def _error_page(request: Request, caller: Caller | None, status: int, values: dict[str, str]) -> HTMLResponse:
    settings = context_of(request).settings
    text = _environment.get_template("problem.html").render(
        caller=caller,
        prefix=settings.prefix,
        hub_prefix=settings.hub_prefix,
        language=current_language(),
        path=settings.prefix + "/",
        here="",
        status=status,
        **values,
    )
    return HTMLResponse(text, status)


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Return a style, script or picture."""
    path = STATIC / name
    if path.parent != STATIC or not path.is_file():
        raise not_found("file")
    return FileResponse(path, headers={"Cache-Control": "public, max-age=300"})


@router.get("/language")
async def language(context: Ctx, to: str = "en", next: str = "") -> Response:  # noqa: A002  # the name in the address
    """Remember the language and go back."""
    answer = RedirectResponse(local_path(next, context.settings.prefix), 303)
    answer.set_cookie(LANGUAGE_COOKIE, "zh-CN" if to.lower().startswith("zh") else "en", max_age=31_536_000, samesite="lax")
    return answer


@router.get("/")
async def overview(request: Request, caller: Reader, context: Ctx) -> Response:
    """Show a person's workspaces, tasks, costs and quota."""
    phases = [phase for phase in Phase if not phase.final]
    workspaces = await tasks.list_tasks(caller, context, phase=phases, kind=[TaskKind.WORKSPACE], mine=True, limit=20)
    jobs: list[TaskKind] = [kind for kind in TaskKind if kind is not TaskKind.WORKSPACE]
    recent = await tasks.list_tasks(caller, context, kind=jobs, mine=True, limit=8)
    cost, days = None, []
    if caller.has(BILLS):
        cost = await bills.live(caller, context)
        days = (await bills.costs(caller, context, by="day")).rows
    own = [q for q in await queues.list_queues(caller, context) if q.tenant in caller.tenants]
    # The tenant's root says it all unless a queue below has limits of its own.
    own = [q for q in own if q.parent is None or any(line.limit is not None for line in q.quota)]
    return render(
        request,
        "overview.html",
        caller,
        here="overview",
        workspaces=workspaces.items,
        tasks=recent.items,
        cost=cost,
        days=days,
        most=max((d.amount_micro for d in days), default=0) or 1,
        queues=own,
    )


@router.get("/tasks")
async def task_list(
    request: Request,
    caller: Reader,
    context: Ctx,
    q: Annotated[str, Query(max_length=100)] = "",
    group: Literal["", "waiting", "active", "done"] = "",
    all: str = "",  # noqa: A002  # the name in the address
    cursor: str | None = None,
) -> Response:
    """List tasks."""
    page = await tasks.list_tasks(caller, context, q=q or None, group=group or None, mine=not all, limit=30, cursor=cursor)
    values: dict[str, Any] = {"q": q, "group": group, "all": bool(all), "next": page.next, "tasks": page.items}
    return render(request, "tasks.html", caller, here="tasks", **values)


@router.get("/tasks/{task_id}")
async def task_page(request: Request, task_id: UUID, caller: Reader, context: Ctx) -> Response:
    """Show a task."""
    task = await tasks.show(task_id, caller, context, Response(), None)
    events = await tasks.events(task_id, caller, context)
    outputs = await results.outputs(task_id, caller, context)
    bill = await bills.bill_of_task(task_id, caller, context) if caller.has(BILLS) else None
    return render(request, "task.html", caller, here="tasks", task=task, events=events, outputs=outputs, bill=bill)


@router.post("/tasks/{task_id}/cancel")
async def task_cancel(task_id: UUID, caller: Submitter, context: Ctx) -> Response:
    """Cancel a task and show it."""
    await tasks.cancel(task_id, caller, context)
    return RedirectResponse(f"{context.settings.prefix}/tasks/{task_id}", 303)


@router.post("/tasks/{task_id}/retry")
async def task_retry(task_id: UUID, caller: Submitter, context: Ctx) -> Response:
    """Run a task again and show it."""
    await tasks.run_again(task_id, caller, context)
    return RedirectResponse(f"{context.settings.prefix}/tasks/{task_id}", 303)


@router.get("/costs")
async def cost_page(
    request: Request, caller: BillReader, context: Ctx, month: Annotated[str, Query(pattern=r"^\d{4}-\d{2}$")] = ""
) -> Response:
    """Show a month's costs."""
    now = datetime.now(UTC)
    shown = _month(month, now)
    following = _shifted(shown, 1)
    mine = await bills.costs(caller, context, by="task", start=shown, end=following)
    months = f"{shown:%Y-%m}"
    tenant_bills = [await bills.bill_of_month(t, months, caller, context) for t in sorted(caller.tenants)]
    return render(
        request,
        "costs.html",
        caller,
        here="costs",
        month=months,
        zone=context.settings.time_zone,
        before=f"{_shifted(shown, -1):%Y-%m}",
        after=f"{following:%Y-%m}" if following <= now else "",
        mine=mine,
        bills=tenant_bills,
    )


def _month(text: str, now: datetime) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _shifted(month: datetime, by: int) -> datetime:
    index = month.year * 12 + month.month - 1 + by
    return month.replace(year=index // 12, month=index % 12 + 1)


@router.get("/clusters")
async def cluster_page(request: Request, caller: Operator, context: Ctx) -> Response:
    """Show the clusters."""
    rows = []
    for c in await clusters.list_clusters(caller, context):
        tone = "good" if c.state == "ok" else "mute" if c.state == "never_connected" else "warn"
        contact = f"{c.last_contact_at:%Y-%m-%d %H:%M:%S} UTC" if c.last_contact_at else "–"
        rows.append([c.name, {"text": p.cluster_state(c.state), "tone": tone}, c.driver or "–", str(c.live_runs), contact])
    columns = [_("Name"), _("State"), _("Kind"), _("Running tasks"), _("Last contact")]
    about = _("Compute centres that are connected through their Proxy")
    values: dict[str, Any] = {
        "heading": _("Clusters"),
        "about": about,
        "columns": columns,
        "rows": rows,
        "empty": _("No cluster is connected."),
    }
    return render(request, "table.html", caller, here="clusters", **values)


@router.get("/queues")
async def queue_page(request: Request, caller: Operator, context: Ctx) -> Response:
    """Show the queues with their quotas."""
    rows = []
    for q in await queues.list_queues(caller, context):
        tone = "good" if q.state == "open" else "warn"
        quota = ", ".join(
            f"{p.dimension_label(line.dimension)} {p.quantity(line.dimension, line.used)}"
            f"/{p.quantity(line.dimension, line.limit) if line.limit is not None else '∞'}"
            for line in q.quota
        )
        state = {"text": p.queue_state(q.state), "tone": tone}
        running, waiting = str(q.running_tasks), str(q.waiting_tasks)
        rows.append([q.path, state, p.policy_label(q.policy), running, waiting, quota or "–"])
    columns = [_("Queue"), _("State"), _("Policy"), _("Running"), _("Waiting"), _("Used of the limit")]
    about = _("A tenant is the root of a tree; limits hold on the way up")
    values: dict[str, Any] = {
        "heading": _("Queues"),
        "about": about,
        "columns": columns,
        "rows": rows,
        "empty": _("There are no queues yet."),
    }
    return render(request, "table.html", caller, here="queues", **values)


@router.get("/prices")
async def price_page(request: Request, caller: Operator, context: Ctx) -> Response:
    """Show the price book."""
    rows = [
        [
            p.dimension_label(x.dimension),
            p.unit_price(x.unit, x.nano_per_unit_hour, x.currency),
            x.cluster or _("all"),
            x.tenant or _("all"),
            f"{x.valid_from:%Y-%m-%d}" if x.valid_from else "–",
            f"{x.valid_to:%Y-%m-%d}" if x.valid_to else "–",
        ]
        for x in await prices.list_prices(caller, context)
    ]
    columns = [_("Dimension"), _("Price"), _("Cluster"), _("Tenant"), _("From"), _("Until")]
    about = _("Billed by the second; a new version never changes what was used before")
    values: dict[str, Any] = {
        "heading": _("Prices"),
        "about": about,
        "columns": columns,
        "rows": rows,
        "empty": _("There are no prices yet."),
    }
    return render(request, "table.html", caller, here="prices", **values)
