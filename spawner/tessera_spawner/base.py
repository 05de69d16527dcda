"""What every Tessera spawner does, whatever starts the process: reserve before, report after.

A concrete spawner is ``class X(TesseraSpawner, SomeSpawner)``: :class:`TesseraSpawner` takes a reservation at the hub service
before the start, applies it, and reports start and end, which the service meters. Nothing starts without a granted
reservation; a refusal is a ``SpawnException``, which JupyterHub does not count as an error of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import urlencode

import httpx
from jupyterhub.spawner import Spawner, SpawnException
from tornado.web import HTTPError
from traitlets import Bool, Unicode, default

from tessera_hub.i18n import current_language, language
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.workspaces import Reservation
from tessera_hub.tasks.reasons import reason
from tessera_spawner.failures import StartRefused, WorkspaceStartError
from tessera_spawner.options import OptionErrors, WorkspaceOptions
from tessera_spawner.progress import STEPS, Notice, describe
from tessera_spawner.reservation import ReservationClient, ReservationError, trusted

REPORT_PAUSES_SECONDS: Final = (0.5, 2.0, 5.0, 15.0, 30.0)
ANSWER_PAUSE_SECONDS: Final = 0.2
WITHDRAWN_CHECK_SECONDS: Final = 2.0
LAST_REPORT_SECONDS: Final = 5.0
MEMORY_SLACK_MIB: Final = 256
"""What a workspace gets above its memory, besides a tenth, as jobs do: the server itself needs some."""


def memory_limit_mib(memory_mib: int) -> int:
    """Return the memory at which the kernel ends a workspace that was granted *memory_mib*."""
    return memory_mib + memory_mib // 10 + MEMORY_SLACK_MIB


class TesseraSpawner(Spawner):  # type: ignore[misc]  # JupyterHub has no types
    """Mixin in front of a real spawner."""

    service_url = Unicode(help="Address of the service inside the installation.").tag(config=True)
    public_service_url = Unicode(help="Address of the service as people see it.").tag(config=True)
    service_token = Unicode(help="Token with the scope ``custom:tessera:spawner``.").tag(config=True)
    reserve = Bool(True, help="Ask for a reservation before each start; False only to debug a spawner.").tag(config=True)

    reservation: Reservation | None = None
    _reports: set[asyncio.Task[None]]

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._reports = set()
        self._in_order = asyncio.Lock()
        self._events: list[Notice] = []
        self._starting = False
        self._taken_up = False
        """The state is of a former hub, and whether the server answers has not been reported yet."""

    # -- before the start

    @default("options_form")
    def _default_options_form(self) -> Any:
        return self.form_link

    async def form_link(self, _spawner: Spawner) -> str:
        """Return, in place of a form of the hub's, the way to the service's form."""
        with language(self._language()):
            link, label = html.escape(self.options_form_link(), quote=True), html.escape(_("New workspace"))
        return f'<a class="t-btn" href="{link}">{label}</a><meta http-equiv="refresh" content="0; url={link}">'

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, Any]:
        """Take nothing from a form of the hub's: what was picked is in the reservation."""
        return {}

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        return TesseraSpawner.check_user_options

    @staticmethod
    def check_user_options(_spawner: Spawner, options: dict[str, Any]) -> None:
        """Refuse options of a direct start that the form would refuse, too; what is granted is in the reservation alone.

        Raises:
            HTTPError: 400 with what is wrong, field by field.
        """
        try:
            WorkspaceOptions.parse(options)
        except OptionErrors as error:
            raise HTTPError(400, str(error).replace("%", "%%")) from error

    def options_form_link(self) -> str:
        """Return the address of the form, with what a deep link preset."""
        query: dict[str, str] = {}
        if self.name:
            query["opt-server"] = self.name
        handler = self.handler
        if handler is not None:
            for key in handler.request.query_arguments:
                if key.startswith("opt-"):
                    query[key] = handler.get_query_argument(key)
        base = f"{self.public_service_url}/workspaces/new"
        return f"{base}?{urlencode(query)}" if query else base

    async def obtain_reservation(self) -> Reservation:
        """Return the granted reservation of this server.

        Raises:
            SpawnException: there is none yet, or the service cannot be asked; nothing was started.
        """
        client = ReservationClient(self.service_url, self.service_token)
        try:
            reservation = await client.find(self.user.name, self.name)
        except ReservationError as error:
            self.log.warning("no reservation for %s: %s", self._log_name, error)
            with language(self._language()):
                raise SpawnException(
                    _("The compute service cannot be asked at the moment. Try again in a minute."),
                    reason="service",
                    log_message=str(error),
                    status_code=503,
                ) from error
        if reservation.state == "none":
            raise self._refusal("reservation", _no_reservation, self.options_form_link())
        if reservation.state != "granted":
            raise self._refusal("waiting", _still_waiting, f"{self.public_service_url}/workspaces/{reservation.task_id}")
        return reservation

    def _language(self) -> str:
        handler = self.handler
        if handler is None:
            return "en"
        from tessera_hub.hub_pages import LANGUAGE_COOKIE
        from tessera_hub.i18n import choose_language

        return choose_language(handler.request.headers.get("Accept-Language"), handler.get_cookie(LANGUAGE_COOKIE))

    def _refusal(self, reason: str, text: Any, link: str) -> SpawnException:
        with language(self._language()):
            message, label = text()
        link_html = f'<a href="{html.escape(link, quote=True)}">{html.escape(label)}</a>'
        return SpawnException(
            f"{message} {link}", reason=reason, message_html=f"{html.escape(message)} {link_html}", status_code=409
        )

    # -- start and end

    async def start(self) -> Any:
        """Reserve, start, wait until the server answers, report.

        Raises:
            SpawnException: no granted reservation.
            WorkspaceStartError: the server ended before it answered.
        """
        self._events = []
        if not self.reserve:
            return await super().start()
        reservation = self.reservation = await self.obtain_reservation()
        self._starting = True
        try:
            self.apply_reservation(reservation)
            self._note("reserved")
            both = self._send(reservation, "STARTING"), self.look_around(reservation)
            for failed in filter(None, await asyncio.gather(*both, return_exceptions=True)):
                raise failed
            self._note("starting")
            began = datetime.now(UTC)
            address = await super().start()
            self._keep_state()
            self._note("started")
            await self._until_it_answers(address, reservation)
        except BaseException as error:
            await self._give_up(error)
            raise
        finally:
            self._starting = False
        self._report(reservation, "RUNNING", native_id=self.native_id(), at=self.started_at(began))
        return address

    def started_at(self, asked: datetime) -> datetime:
        """Return when the server started, by its engine's clock if that tells; it was asked to at *asked*."""
        return asked

    def ending(self, status: int) -> tuple[Reason, datetime | None]:
        """Return why the server ended with *status*, and when if the engine tells."""
        if status == 0:
            return reason("workspace.stopped"), None
        return reason("workspace.ended", exit_code=status), None

    def _keep_state(self) -> None:
        """Store what finds the server again now, not only when it answers: the hub may be killed in between."""
        orm = self.orm_spawner
        if orm is not None:
            orm.state = self.get_state()
            self.db.commit()

    async def _until_it_answers(self, address: Any, reservation: Reservation) -> None:
        """Return when the server answers HTTP; one that dies meanwhile is noticed at once, one that was cancelled soon."""
        base = address if isinstance(address, str) else f"http://{address[0]}:{address[1]}"
        url = f"{base.rstrip('/')}{self.server.base_url if self.server else '/'}api"
        check = time.monotonic() + WITHDRAWN_CHECK_SECONDS
        async with httpx.AsyncClient(timeout=5.0, verify=trusted()) as client:
            while True:
                if time.monotonic() >= check:
                    await self._check_withdrawn(reservation)
                    check = time.monotonic() + WITHDRAWN_CHECK_SECONDS
                if (status := await super().poll()) is not None:
                    with language(self._language()):
                        raise WorkspaceStartError(_("JupyterLab ended with status {status} while it started.", status=status))
                try:
                    if (await client.get(url)).status_code < 500:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(ANSWER_PAUSE_SECONDS)

    async def _check_withdrawn(self, reservation: Reservation) -> None:
        """Refuse to go on when the workspace was cancelled: the hub itself does not stop a server that still starts.

        Raises:
            SpawnException: the reservation is not granted any more.
        """
        try:
            now = await ReservationClient(self.service_url, self.service_token).find(self.user.name, self.name)
        except ReservationError:
            return  # A service that is away has cancelled nothing.
        if now.state != "granted" or now.run_id != reservation.run_id:
            with language(self._language()):
                raise SpawnException(_("The workspace was stopped."), reason="withdrawn", status_code=409)

    async def _give_up(self, error: BaseException) -> None:
        """Leave nothing behind of a start that failed: neither a process nor the reservation.

        Who stops a server that still starts has taken the reservation already and reports its end.
        """
        reservation, self.reservation = self.reservation, None
        if reservation is None:
            return
        with contextlib.suppress(Exception):
            await super().stop(now=True)
        why = error.reason if isinstance(error, SpawnException) else ""
        if why == "withdrawn":
            self._report(reservation, "SUCCEEDED", reason="workspace.stopped")
        elif isinstance(error, StartRefused):
            self._report(reservation, "FAILED", reason=error.why.code, detail=error.why.detail)
        elif why != "expired":
            self._report(reservation, "FAILED", reason="workspace.start_failed", detail={"error": str(error)[:500]})

    def apply_reservation(self, reservation: Reservation) -> None:
        """Take what was granted: names, amounts and, by the subclass, limits."""
        assert reservation.spec is not None
        role = reservation.spec.roles[0].resources
        self.cpu_limit = role.cpu_millicores / 1000
        self.mem_limit = role.memory_mib * 1024 * 1024

    async def look_around(self, reservation: Reservation) -> None:
        """Ask the engine what has to be known of it before the start, while the service is told; nothing is started yet."""

    def native_id(self) -> str:
        """Return what identifies the server at its engine."""
        raise NotImplementedError

    async def stop(self, now: bool = False) -> None:
        """Stop and report the end, at once if the service answers: the hub itself may be about to end."""
        reservation, self.reservation = self.reservation, None
        try:
            await super().stop(now=now)
        except BaseException:
            # It may live on, and what it holds and costs goes on with it.
            self.reservation = reservation
            raise
        if reservation is not None:
            self._report(reservation, "SUCCEEDED", reason="workspace.stopped")
            await asyncio.wait(self._reports, timeout=LAST_REPORT_SECONDS)

    async def poll(self) -> Any:
        """Report the end when the server ended by itself."""
        status = await super().poll()
        reservation = self.reservation
        if reservation is None or self._starting:
            return status
        if status is not None:
            self.reservation = None
            why, at = self.ending(status)
            phase = "SUCCEEDED" if why.code == "workspace.stopped" else "FAILED"
            self._report(reservation, phase, reason=why.code, detail=why.detail, at=at)
        return status

    async def poll_and_notify(self) -> int | None:
        """Look now and then, which the hub does of a server that has answered; so one that a former hub started is running."""
        status: int | None = await super().poll_and_notify()
        if status is None and self._taken_up and self.reservation is not None:
            self._taken_up = False
            # If the former hub has reported it already, the repeat is harmless.
            self._report(self.reservation, "RUNNING", native_id=self.native_id(), at=self.started_at(datetime.now(UTC)))
        return status

    # -- environment

    def get_env(self) -> dict[str, str]:
        """Return the server's environment, with what Tessera's Lab extension and SDK read."""
        env = cast("dict[str, str]", super().get_env())
        env["TESSERA_URL"] = self.public_service_url
        if self.reservation is not None:
            env |= {
                "TESSERA_TASK_ID": self.reservation.task_id,
                "TESSERA_RUN_ID": self.reservation.run_id,
                "TESSERA_TENANT": self.reservation.tenant,
            }
        return env

    # -- state over a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """Keep the reservation over a restart of the hub."""
        state = cast("dict[str, Any]", super().get_state())
        if self.reservation is not None:
            state["tessera_reservation"] = self.reservation.model_dump(mode="json")
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the reservation up again."""
        super().load_state(state)
        if kept := state.get("tessera_reservation"):
            self.reservation = Reservation.model_validate(kept, context=STORED)
            self._taken_up = True

    def clear_state(self) -> None:
        """Leave the reservation alone: its end is reported by :meth:`stop` and :meth:`poll`."""
        super().clear_state()

    # -- progress and reports

    def _note(self, step: str) -> None:
        self._tell(STEPS[step])

    def _tell(self, notice: Notice) -> None:
        """Show something to whoever waits, once."""
        if notice not in self._events:
            self._events.append(notice)

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what a person waiting for the server sees, in that person's language: not of who asked for the start."""
        shown, code = 0, current_language()
        while True:
            while shown < len(self._events):
                yield describe(self._events[shown], code)
                shown += 1
            await asyncio.sleep(0.5)

    async def _send(self, reservation: Reservation, phase: str, reason: str = "", **values: Any) -> None:
        client = ReservationClient(self.service_url, self.service_token)
        try:
            await client.report(reservation, phase, reason=reason, **values)
        except ReservationError as error:
            if error.stale:
                with language(self._language()):
                    raise SpawnException(
                        _("The reservation ran out before the workspace started. Start it again."),
                        reason="expired",
                        status_code=409,
                    ) from error
            raise SpawnException(str(error), reason="service", status_code=503) from error

    async def _send_patiently(self, reservation: Reservation, phase: str, reason: str = "", **values: Any) -> None:
        """Report, one after the other; a service that is away for longer finds it out by itself, from the hub."""
        client = ReservationClient(self.service_url, self.service_token)
        async with self._in_order:
            for pause in (0.0, *REPORT_PAUSES_SECONDS):
                await asyncio.sleep(pause)
                try:
                    await client.report(reservation, phase, reason=reason, **values)
                except ReservationError as error:
                    if error.stale:
                        return
                    self.log.warning("cannot report %s of %s: %s", phase, self._log_name, error)
                else:
                    return

    def _report(self, reservation: Reservation, phase: str, **values: Any) -> None:
        task = asyncio.ensure_future(self._send_patiently(reservation, phase, **values))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)


def _no_reservation() -> tuple[str, str]:
    return _("A workspace starts from the form, which reserves its resources first."), _("New workspace")


def _still_waiting() -> tuple[str, str]:
    return _("This workspace still waits for its resources; it starts by itself."), _("Show the wait")
