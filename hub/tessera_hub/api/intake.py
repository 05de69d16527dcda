"""The way in: check, price and store what is submitted; every refusal is a problem in the person's terms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.estimate import estimate as price_it
from tessera_hub.api.auth import Caller
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem
from tessera_hub.api.notebooks import check_notebook
from tessera_hub.catalogue import prices
from tessera_hub.environments import opener
from tessera_hub.i18n import gettext as _
from tessera_hub.quota.tree import load_tree
from tessera_hub.scheduling.admission import Admission
from tessera_hub.schemas.capacity import Estimate, QuotaLine
from tessera_hub.schemas.reasons import Tier
from tessera_hub.schemas.tasks import QueuePosition, Submitted, TaskDraft, TaskKind, TaskSpec
from tessera_hub.store.tables import RunRow, TaskRow
from tessera_hub.store.types import UNLIMITED
from tessera_hub.tasks.reasons import localised
from tessera_hub.tasks.storing import Submission, store_tasks
from tessera_hub.tasks.submission import (
    Destination,
    SubmissionError,
    blob_sizes,
    check_inputs,
    check_repeat,
    destination,
    made_by_keys,
    requested,
    specification_hash,
)
from tessera_hub.tasks.views import TaskRecord, fetch, records, task_view

DEFAULT_SECONDS = 3600
"""How long an estimate assumes when neither the person nor the task's time limit says."""


def problem_of(error: SubmissionError, contact: str = "") -> Problem:
    """Return the problem document of a refused submission."""
    d = error.detail
    ask = _("Ask {contact}.", contact=contact) if contact else _("Ask your administrator.")
    texts: dict[str, tuple[int, str, str]] = {
        "tenant.none": (403, _("You do not belong to a tenant."), ask),
        "tenant.choose": (422, _("You belong to several tenants."), _("Name one of: {names}.", names=_names(d.get("tenants")))),
        "tenant.unknown": (
            403,
            _("You do not belong to tenant {tenant}.", tenant=d.get("tenant")),
            _("Name one of: {names}.", names=_names(d.get("tenants"))),
        ),
        "queue.unknown": (
            422,
            _("There is no queue {queue}.", queue=d.get("queue")),
            _("Name one of: {names}.", names=_names(d.get("queues"))),
        ),
        "policy.queue_closed": (409, _("Queue {queue} takes no new tasks.", queue=d.get("queue")), ask),
        "environment.unknown": (
            422,
            _("There is no environment {name}.", name=d.get("environment")),
            _("Name one of: {names}.", names=_names(d.get("environments"))),
        ),
        "environment.not_allowed": (
            403,
            _("Environment {name} is not open to your groups.", name=d.get("environment")),
            _("Name one of: {names}.", names=_names(d.get("environments"))) if d.get("environments") else ask,
        ),
        "dataset.unknown": (
            422,
            _("There is no data set {name} that tenant {tenant} may read.", name=d.get("dataset"), tenant=d.get("tenant")),
            _("Name one of: {names}.", names=_names(d.get("datasets"))) if d.get("datasets") else ask,
        ),
        "kernel.unknown": (
            422,
            _("Environment {environment} has no kernel {kernel}.", environment=d.get("environment"), kernel=d.get("kernel")),
            _("Name one of: {names}.", names=_names(d.get("kernels"))),
        ),
        "cluster.unknown": (
            422,
            _("There is no cluster {name}.", name=d.get("cluster")),
            _("Name one of: {names}.", names=_names(d.get("clusters"))),
        ),
        "inputs.too_large": (
            413,
            _(
                "The files are {mib} MiB together; at most {limit} MiB can go with a task.",
                mib=_mib(d, "bytes"),
                limit=_mib(d, "limit"),
            ),
            _("Leave out what the task does not need, or work on the live folder."),
        ),
        "inputs.not_uploaded": (
            409,
            _("{count} files of the snapshot have not been uploaded.", count=d.get("count")),
            _("Upload them again; the first is {name}.", name=next(iter(d.get("files", [])), "")),
        ),
        "idempotency.mismatch": (
            409,
            _("This idempotency key was already used for another task."),
            _("Use a new key for a new task."),
        ),
        "notebook.invalid": (
            422,
            _("The notebook cannot be read: it is not valid JSON of the notebook format."),
            _("Look at line {line}, column {column}: {problem}.", line=d["line"], column=d["column"], problem=d["problem"])
            if "line" in d
            else _("Open and save it in JupyterLab, or repair it: {problem}.", problem=d.get("problem", "")),
        ),
        "parameter.type": (
            422,
            _(
                "Parameter {name} must be of type {expected}; {value} is not.",
                name=d.get("name"),
                expected=d.get("expected"),
                value=d.get("value"),
            ),
            _("The type is that of the default in the notebook's cell with the tag parameters."),
        ),
        "parameter.unknown": (
            422,
            _("The notebook declares no parameter {name}.", name=d.get("name")),
            _("Name one of: {names}.", names=_names(d.get("known"))),
        ),
        "schedule.cron": (
            422,
            _("The schedule cannot be read, or never comes."),
            _("Write five fields as cron does, such as 0 7 * * 1-5."),
        ),
        "schedule.zone": (
            422,
            _("There is no time zone {name}.", name=d.get("time_zone")),
            _("Give a name such as Asia/Shanghai or Europe/Berlin."),
        ),
    }
    status, title, hint = texts.get(error.code, (422, error.code, ""))
    return Problem(status, error.code, title, hint=hint, detail=d)


def _names(values: Any) -> str:
    return ", ".join(str(v) for v in values or ())


def _mib(detail: dict[str, Any], key: str) -> int:
    return -(-int(detail.get(key, 0)) // (1 << 20))


class _Checks:
    """The checks of one call: what several of its specifications share is read once.

    Args:
        specs: all that will be checked.
    """

    def __init__(self, context: Context, session: AsyncSession, caller: Caller, specs: Sequence[TaskSpec]) -> None:
        self._context = context
        self._session = session
        self._caller = caller
        self._hashes = {file.sha256 for spec in specs for file in spec.inputs.files}
        self._sizes: dict[int, dict[str, int]] = {}
        self._places: dict[tuple[str | None, str | None], Destination] = {}

    async def check(self, spec: TaskSpec) -> Destination:
        """Return where *spec* goes.

        Raises:
            SubmissionError: a name or file is not known.
            Problem: it can never start.
        """
        refuse_recurring(spec)
        where = self._places.get((spec.tenant, spec.queue))
        if where is None:
            where = await destination(self._session, spec, self._caller.tenants)
            self._places[spec.tenant, spec.queue] = where
        sizes = self._sizes.get(where.tenant_id)
        if sizes is None:
            sizes = self._sizes[where.tenant_id] = await blob_sizes(self._session, where.tenant_id, self._hashes)
        check_inputs(spec, sizes, self._context.settings.snapshot_limit_bytes)
        admission = await Admission.current(self._context.store, self._session, where)
        admission.check_names(spec, opener(self._context.settings.environment_rules, self._caller.groups), where.tenant)
        never = admission.never(spec, where)
        if never:
            reasons = [localised(r) for r in never]
            title = _("This can never start as it is asked for.")
            raise Problem(422, reasons[0].code, title, hint=reasons[0].message, reasons=reasons)
        return where


def refuse_recurring(spec: TaskSpec) -> None:
    """Refuse a specification with a cron schedule as a single task.

    Raises:
        Problem: 422 ``schedule.recurring``.
    """
    if spec.schedule is not None and spec.schedule.cron is not None:
        title = _("A task with a cron schedule comes again and again; this submits one task.")
        raise Problem(422, "schedule.recurring", title, hint=_("Send it to POST /schedules, or leave out cron."))


async def check(context: Context, caller: Caller, spec: TaskSpec) -> Destination:
    """Return where *spec* would go if *caller* submitted it now.

    Raises:
        SubmissionError: a name or file is not known, or the notebook cannot be run.
        Problem: it can never start.
    """
    async with context.store.read() as session:
        where = await _Checks(context, session, caller, [spec]).check(spec)
    await check_notebook(context, spec, where)
    return where


async def accept(
    context: Context, caller: Caller, spec: TaskSpec, key: str | None, *, server_name: str | None = None
) -> tuple[TaskRecord, bool]:
    """Check and store one task; return it and whether it is new.

    Raises:
        Problem: it is refused; nothing was stored.
    """
    if spec.kind is TaskKind.WORKSPACE and server_name is None:
        raise Problem(422, "kind.workspace", _("Workspaces are started by POST /workspaces."))
    body = spec.model_dump(mode="json")
    digest = specification_hash(body)
    try:
        async with context.store.read() as session:
            try:
                where = await _Checks(context, session, caller, [spec]).check(spec)
            except (SubmissionError, Problem):
                # What a key has made stays its answer, whatever a first submit would be told by now.
                earlier = (await made_by_keys(session, caller.principal_id, [key])).get(key or "")
                if earlier is None:
                    raise
                check_repeat(earlier, digest)
                return (await fetch(session, records().where(TaskRow.id == earlier.id)))[0], False
        await check_notebook(context, spec, where)
        item = Submission(spec, where, key, body, digest, server_name)
        async with context.store.write() as session:
            (answer,) = await store_tasks(session, [item], principal_id=caller.principal_id, actor=caller.actor)
        if isinstance(answer, SubmissionError):
            raise answer
    except SubmissionError as error:
        raise problem_of(error, context.settings.contact) from error
    if answer.run is not None:
        return _record(caller, item, answer.task, answer.run), True
    async with context.store.read() as session:
        return (await fetch(session, records().where(TaskRow.id == answer.task.id)))[0], False


def _record(caller: Caller, item: Submission, task: TaskRow, run: RunRow) -> TaskRecord:
    """A task just stored, as it is shown; where it waits nobody knows before the next cycle."""
    return TaskRecord(task, run, caller.name, item.where.tenant, item.where.queue, None)


async def accept_batch(
    context: Context, caller: Caller, specs: Sequence[TaskSpec], keys: Sequence[str] | None
) -> list[Submitted]:
    """Check each and store all that pass in one transaction."""
    contact = context.settings.contact
    outcome: dict[int, Submitted] = {}
    repeats: dict[int, UUID] = {}
    items: dict[int, Submission] = {}
    refused: dict[int, SubmissionError | Problem] = {}
    digests: dict[int, str] = {}
    async with context.store.read() as session:
        checks = _Checks(context, session, caller, specs)
        for index, spec in enumerate(specs):
            body = spec.model_dump(mode="json")
            digests[index] = specification_hash(body)
            try:
                if spec.kind is TaskKind.WORKSPACE:
                    raise Problem(422, "kind.workspace", _("Workspaces are started by POST /workspaces."))
                where = await checks.check(spec)
                items[index] = Submission(spec, where, keys[index] if keys else None, body, digests[index])
            except (SubmissionError, Problem) as error:
                refused[index] = error
        # What a key has made stays its answer, whatever a first submit would be told by now.
        earlier = await made_by_keys(session, caller.principal_id, [keys[i] for i in refused] if keys else ())
    for index, item in list(items.items()):
        try:
            await check_notebook(context, item.spec, item.where)
        except SubmissionError as error:
            del items[index]
            outcome[index] = Submitted(problem=problem_of(error, contact).body())
    for index, refusal in refused.items():
        task = earlier.get(keys[index]) if keys else None
        try:
            if task is None:
                raise refusal
            check_repeat(task, digests[index])
            repeats[index] = task.id
        except SubmissionError as why:
            outcome[index] = Submitted(problem=problem_of(why, contact).body())
        except Problem as problem:
            outcome[index] = Submitted(problem=problem.body())
    if items:
        async with context.store.write() as session:
            stored = await store_tasks(session, list(items.values()), principal_id=caller.principal_id, actor=caller.actor)
        for (index, item), answer in zip(items.items(), stored, strict=True):
            if isinstance(answer, SubmissionError):
                outcome[index] = Submitted(problem=problem_of(answer, contact).body())
            elif answer.run is None:
                repeats[index] = answer.task.id
            else:
                outcome[index] = Submitted(task=task_view(_record(caller, item, answer.task, answer.run)))
    if repeats:
        async with context.store.read() as session:
            found = await fetch(session, records().where(TaskRow.id.in_(set(repeats.values()))))
        by_id = {record.task.id: record for record in found}
        outcome |= {index: Submitted(task=task_view(by_id[task_id])) for index, task_id in repeats.items()}
    return [outcome[index] for index in range(len(specs))]


async def examine(context: Context, caller: Caller, spec: TaskDraft, seconds: int | None) -> Estimate:
    """Return cost, quota afterwards and verdict of a task that is not submitted; files are not looked at.

    Raises:
        Problem: tenant, queue, environment or cluster do not exist.
    """
    try:
        async with context.store.read() as session:
            where = await destination(session, spec, caller.tenants)
            admission = await Admission.current(context.store, session, where)
            admission.check_names(spec, opener(context.settings.environment_rules, caller.groups), where.tenant)
            verdict = admission.judge(spec, where)
            tree = await load_tree(session)
            book = await prices(session)
    except SubmissionError as error:
        raise problem_of(error, context.settings.contact) from error
    charge = verdict.charge or {d: a for d, a in requested(spec).items() if "/any" not in d}
    limit = spec.lifecycle.max_run_seconds
    high = seconds or limit or DEFAULT_SECONDS
    priced = price_it(book, charge, 0, high, start=int(time.time()), tenant=where.tenant, cluster=verdict.cluster or "")
    after = []
    node = tree.nodes[where.queue_id]
    for dimension, amount in sorted(charge.items()):
        tight = min((tree.nodes[n] for n in tree.path_to_root(node.id)), key=lambda n: _free(n.dimensions.get(dimension)))
        state = tight.dimensions.get(dimension)
        used = state.used if state else 0
        most = state.limit if state and state.limit < UNLIMITED else None
        after.append(QuotaLine(dimension=dimension, used=used + amount, limit=most))
    waiting = verdict.ahead
    return Estimate(
        currency=book.currency,
        nano_per_hour=priced.per_hour_nano,
        low_micro=priced.low_micro,
        high_micro=priced.high_micro,
        seconds_low=0,
        seconds_high=high,
        quota_after=after,
        verdict="never" if verdict.never else "now" if verdict.now else "wait",
        reasons=sorted((localised(r) for r in verdict.reasons), key=lambda r: Tier(r.tier)),
        position=QueuePosition(position=waiting + 1, ahead_tasks=waiting) if not verdict.now and not verdict.never else None,
        clusters=list(verdict.clusters),
    )


def _free(state: Any) -> int:
    return UNLIMITED if state is None else state.limit - state.used
