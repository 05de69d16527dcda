"""The FastAPI application of the hub service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from prometheus_client import Counter, Histogram
from sqlalchemy import select
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tessera_billing.prices import ensure_default_prices
from tessera_hub import __version__, schedules, workspaces
from tessera_hub.api import errors, oauth
from tessera_hub.api.context import Context, Settings
from tessera_hub.api.limits import limited
from tessera_hub.api.routes import bills, blobs, clusters, health, me, prices, proxies, queues, results, runs, spawner, tasks
from tessera_hub.api.routes import schedules as schedule_routes
from tessera_hub.api.routes import workspaces as workspace_routes
from tessera_hub.api.text import storable
from tessera_hub.card_prices import default_card_prices
from tessera_hub.hubapi import HubApi
from tessera_hub.i18n import choose_language, speak
from tessera_hub.manager import watch
from tessera_hub.portal import pages, workspace_pages
from tessera_hub.scheduling import loop
from tessera_hub.store import Store
from tessera_hub.store.blobs import BlobStore
from tessera_hub.store.runfiles import RunFiles

log = structlog.get_logger(__name__)

API_ROUTERS = (
    *(me, tasks, schedule_routes, results, blobs, queues, bills, prices),
    *(clusters, workspace_routes, spawner, proxies, runs),
)
LOOPS = (loop, watch, workspaces, schedules)
"""Modules with ``async def run(context)``."""
RESTART_SECONDS = 1.0
LANGUAGE_COOKIE = "tessera-language"

REQUESTS = Counter("tessera_http_requests_total", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram("tessera_http_request_seconds", "Time until a request's answer begins.", ["route"])


def make_context(settings: Settings) -> Context:
    """Return store, hub and files of *settings*, nothing opened yet."""
    return Context(
        settings=settings,
        store=Store(settings.database_url),
        hub=HubApi(settings.hub_api_url, settings.hub_token, cache_seconds=settings.hub_cache_seconds),
        blobs=BlobStore(settings.data_dir / "blobs"),
        run_files=RunFiles(settings.data_dir / "runs-store"),
    )


def create_app(settings: Settings, *, background: bool = True) -> FastAPI:
    """Return the application.

    Args:
        background: run the loops (scheduler, watch, workspaces, schedules) in this process too; False for a further API replica.
    """
    context = make_context(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await prepare(context)
        running = [asyncio.create_task(_forever(m.__name__, m.run, context), name=m.__name__) for m in LOOPS if background]
        log.info("service_started", prefix=settings.prefix, version=__version__)
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            for task in running:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await context.hub.close()
            await context.store.close()

    app = FastAPI(
        title="Tessera",
        version=__version__,
        description="Queues, runs and bills of a modelling hub. Errors are application/problem+json with stable codes.",
        openapi_url=f"{context.api_prefix}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    app.add_middleware(Observe)
    errors.install(app)
    pages.install(app)
    api = APIRouter(prefix=context.api_prefix, dependencies=[Depends(storable)])
    for module in API_ROUTERS:
        api.include_router(module.router)
    app.include_router(api)
    for router in (health.router, oauth.router, pages.router, workspace_pages.router):
        app.include_router(router, prefix=settings.prefix)
    return app


async def prepare(context: Context) -> None:
    """Give a new database its prices and begin to listen."""
    settings = context.settings
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with context.store.write() as session:
        await session.run_sync(
            lambda s: ensure_default_prices(s.connection(), int(time.time()), default_card_prices(), currency=settings.currency)
        )
        await session.execute(select(1))
    await context.store.notifier.start()


async def _forever(name: str, run: Callable[[Context], Awaitable[None]], context: Context) -> None:
    """Run a loop again when it fails: one bad row must not stop the service."""
    while True:
        try:
            await run(context)
            return
        except Exception:
            log.exception("loop_failed", loop=name)
            await asyncio.sleep(RESTART_SECONDS)


class Observe:
    """ASGI middleware: give every request an id, a language and a limit, log and count it. Streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request_id = request.headers.get("X-Request-ID", "")[:64] or uuid4().hex
        request.state.request_id = request_id
        chosen = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE)
        speak(choose_language(request.headers.get("Accept-Language"), chosen))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        begun = time.perf_counter()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - begun
                route = getattr(scope.get("route"), "path", "unmatched")
                REQUESTS.labels(scope["method"], route, message["status"]).inc()
                SECONDS.labels(route).observe(seconds)
                log.debug("request", method=scope["method"], route=route, status=message["status"], ms=round(seconds * 1000, 1))
                MutableHeaders(scope=message).append("X-Request-ID", request_id)
            await send(message)

        await self.app(scope, limited(receive, scope), answer)
