"""Tasks that come again and again: the snapshot is uploaded once, and every firing works on it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Unpack
from uuid import UUID

from tessera_hub.i18n import language
from tessera_hub.schemas.schedules import RecurringTask
from tessera_hub.schemas.tasks import Schedule, TaskSpec

from . import calls
from .calls import Call, DryRun, Steps
from .quantities import invalid_spec
from .snapshot import inputs_of
from .submission import Submission, SubmitOptions, prepare, upload

if TYPE_CHECKING:
    from .asynchronous import AsyncTesseraClient
    from .sync import TesseraClient

_read: Final = calls.reader(RecurringTask)
_read_list: Final = calls.reader(list[RecurringTask])


def recurs(spec: TaskSpec) -> bool:
    """Whether *spec* has a cron expression."""
    return spec.schedule is not None and spec.schedule.cron is not None


def recurring(submission: Submission, cron: str, time_zone: str) -> Submission:
    """Return *submission* with a cron expression of five fields, read in an IANA time zone.

    Raises:
        TesseraError: ``spec.invalid``.
    """
    try:
        schedule = Schedule(cron=cron, time_zone=time_zone)
    except ValueError as error:
        raise invalid_spec(error) from error
    return replace(submission, spec=submission.spec.model_copy(update={"schedule": schedule}))


def send_recurring(submission: Submission) -> Steps[RecurringTask]:
    """Upload what the service lacks, then leave the specification there to be submitted whenever it is due.

    Raises:
        TesseraError: as the service refuses, or ``snapshot.changed`` when a file was changed meanwhile.
    """
    inputs, sources = inputs_of(submission.snapshot)
    try:
        spec = TaskSpec.model_validate(submission.spec.model_copy(update={"inputs": inputs}).model_dump())
    except ValueError as error:
        raise invalid_spec(error) from error
    yield from upload(sources, {file.sha256: file.size for file in inputs.files}, spec.tenant)
    # Without an idempotency key a lost answer must not be asked for again by itself.
    body = spec.model_dump(mode="json")
    made: RecurringTask = yield Call("POST", "/schedules", _read, body=body, repeatable=False)
    return made


def check_recurring(spec: TaskSpec) -> Steps[DryRun]:
    """Check what each firing would submit; the answer has the schedule again."""
    checked: DryRun = yield calls.dry_run(spec.model_copy(update={"schedule": None}))
    return checked.model_copy(update={"spec": checked.spec.model_copy(update={"schedule": spec.schedule})})


def _all() -> Call[list[RecurringTask]]:
    return Call("GET", "/schedules", _read_list)


def _enable(identifier: UUID | str, enabled: bool) -> Call[RecurringTask]:
    return Call("PATCH", f"/schedules/{calls.part(identifier)}", _read, body={"enabled": enabled})


def _remove(identifier: UUID | str) -> Call[None]:
    return Call("DELETE", f"/schedules/{calls.part(identifier)}", lambda _response: None, repeatable=False)


class Schedules:
    """Recurring tasks of a :class:`~tessera_hub.client.TesseraClient`, as its ``schedules``."""

    def __init__(self, client: TesseraClient) -> None:
        self._client = client

    def add(
        self, path: str | os.PathLike[str], cron: str, time_zone: str = "UTC", **options: Unpack[SubmitOptions]
    ) -> RecurringTask:
        """Submit a notebook or script whenever *cron* fires, always with the files as they are now.

        Args:
            cron: five fields: ``"0 3 * * *"`` is every day at three.
            time_zone: IANA name of the zone in which *cron* is read.
            options: as of :meth:`~tessera_hub.client.TesseraClient.submit`; an idempotency key has no meaning here.

        Raises:
            TesseraError: as a submit, or ``schedule.cron``, ``schedule.too_many``.
        """
        with language(self._client.speak):
            submission = recurring(prepare(path, options, self._client.snapshot_limit_bytes), cron, time_zone)
        return self._client.run(send_recurring(submission))

    def all(self) -> list[RecurringTask]:
        """Yours, newest first, with the next time and the last task."""
        return self._client.call(_all())

    def pause(self, identifier: UUID | str) -> RecurringTask:
        """Stop one for a while."""
        return self._client.call(_enable(identifier, enabled=False))

    def resume(self, identifier: UUID | str) -> RecurringTask:
        """Let one go on from now; what it missed is not made up for."""
        return self._client.call(_enable(identifier, enabled=True))

    def remove(self, identifier: UUID | str) -> None:
        """Remove one; the tasks it submitted stay."""
        self._client.call(_remove(identifier))


class AsyncSchedules:
    """Recurring tasks of an :class:`~tessera_hub.client.AsyncTesseraClient`: :class:`Schedules` as coroutines."""

    def __init__(self, client: AsyncTesseraClient) -> None:
        self._client = client

    async def add(
        self, path: str | os.PathLike[str], cron: str, time_zone: str = "UTC", **options: Unpack[SubmitOptions]
    ) -> RecurringTask:
        """Submit a notebook or script whenever *cron* fires, always with the files as they are now."""
        with language(self._client.speak):
            prepared = await asyncio.to_thread(prepare, path, options, self._client.snapshot_limit_bytes)
            submission = recurring(prepared, cron, time_zone)
        return await self._client.run(send_recurring(submission))

    async def all(self) -> list[RecurringTask]:
        """Yours, newest first, with the next time and the last task."""
        return await self._client.call(_all())

    async def pause(self, identifier: UUID | str) -> RecurringTask:
        """Stop one for a while."""
        return await self._client.call(_enable(identifier, enabled=False))

    async def resume(self, identifier: UUID | str) -> RecurringTask:
        """Let one go on from now; what it missed is not made up for."""
        return await self._client.call(_enable(identifier, enabled=True))

    async def remove(self, identifier: UUID | str) -> None:
        """Remove one; the tasks it submitted stay."""
        await self._client.call(_remove(identifier))
