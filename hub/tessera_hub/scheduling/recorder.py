"""Stores what a cycle decided: placements with their quota, and one explanation per lane that waits.

The order inside a transaction is the same everywhere (lease, tasks, runs, quota), so that it never dead-locks with the state
machine. Each transaction begins with the fence: a leader that was deposed meanwhile stores nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import delete, exists, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.quota.usage import Deltas, take_all
from tessera_hub.scheduling.decision import Action, Decision
from tessera_hub.scheduling.loader import SnapshotLoader
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store.tables import Decision as DecisionRow
from tessera_hub.store.tables import RunRow
from tessera_hub.tasks.machine import Placement, TransitionError, reserve_many, transition

REFRESH_AFTER: Final = timedelta(seconds=30)
"""A stored verdict whose codes are the same is brought up to date in its numbers after this long."""

KEEP_AFTER: Final = timedelta(hours=1)
"""An explanation that no run refers to is deleted this long after it was last true."""

MOST_LINKS: Final = 1500
"""Waiting runs that get their lane's explanation in one cycle; the others get it in the next ones."""

MOST_NEWS: Final = 400
"""Explanations written in one cycle, so that many that grow old together do not make one long cycle."""

MOST_REJECTIONS: Final = 100

_LINK = text(
    "UPDATE run SET decision_id = w.decision FROM unnest(CAST(:runs AS uuid[]), CAST(:decisions AS bigint[])) AS w(id, decision)"
    " WHERE run.id = w.id AND run.phase = 'QUEUED'"
)


_NUMBERS = text("SELECT nextval(pg_get_serial_sequence('decision', 'id')) FROM generate_series(1, :count)")
_EXPLAIN = text(
    "INSERT INTO decision (id, at, epoch, body) SELECT CAST(w.row[0] AS bigint), :at, :epoch, w.row[1]"
    " FROM jsonb_array_elements(CAST(:rows AS jsonb)) AS w(row)"
)
_EXPLAIN_AGAIN = text(
    "UPDATE decision SET at = :at, epoch = :epoch, body = w.row[1]"
    " FROM jsonb_array_elements(CAST(:rows AS jsonb)) AS w(row) WHERE decision.id = CAST(w.row[0] AS bigint)"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The stored explanation of a lane: its row, what it said, and when."""

    row: int
    said: tuple[object, ...]
    at: datetime


def body_of(decision: Decision, names: Mapping[str, str]) -> dict[str, Any]:
    """Return a decision as it is stored and as the API shows it; clusters by name."""
    ahead = decision.ahead
    return {
        "action": decision.action.value,
        "lane": decision.group,
        "runs": decision.covers,
        "cluster": None if decision.cluster_id is None else names.get(decision.cluster_id, decision.cluster_id),
        "pool": decision.pool,
        "card_class": decision.card_class,
        "charge": dict(decision.charge),
        "reasons": [reason.as_json() for reason in decision.reasons],
        "position": decision.position,
        "ahead_runs": None if ahead is None else ahead.runs,
        "ahead_centi_cards": None if ahead is None else ahead.centi_cards,
        "eta_seconds": decision.eta_seconds,
        **decision.explanation,
    }


class Recorder:
    """Writes decisions; remembers which explanation each lane has, so that only news is written."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.verdicts: dict[str, Verdict] = {}

    async def recall(self, session: AsyncSession, rows: Iterable[int | None]) -> None:
        """Find the explanations that an earlier leader stored, by the rows that waiting runs point to."""
        wanted = sorted({row for row in rows if row is not None})
        for start in range(0, len(wanted), 5000):
            query = select(DecisionRow.id, DecisionRow.at, DecisionRow.body).where(
                DecisionRow.id.in_(wanted[start : start + 5000])
            )
            for row_id, at, body in (await session.execute(query)).all():
                if body.get("action") == Action.WAIT.value:
                    self.verdicts[str(body.get("lane"))] = Verdict(row_id, (), at)

    async def place(
        self,
        session: AsyncSession,
        decisions: Sequence[Decision],
        paths: Mapping[str, tuple[int, ...]],
        names: Mapping[str, str],
        now: datetime,
    ) -> set[str]:
        """Store placements and return the ids of the runs that are reserved by them.

        A run that was cancelled between snapshot and now is left out, and takes nothing.

        Args:
            paths: queue id → ids from that queue up to its root.

        Raises:
            QuotaExceeded: a limit was lowered meanwhile; nothing of the transaction may be kept.
        """
        if not decisions:
            return set()
        rows = await self._insert(session, [body_of(decision, names) for decision in decisions], now)
        placements = [
            Placement(
                run_id=UUID(decision.run_id),
                cluster_id=int(decision.cluster_id or 0),
                card_class=decision.card_class,
                charge=dict(decision.charge),
                decision_id=row,
                lease_token=secrets.token_urlsafe(24),
            )
            for decision, row in zip(decisions, rows, strict=True)
        ]
        reserved = {str(run_id) for run_id in await reserve_many(session, placements, now=now)}
        deltas: Deltas = {}
        unused: list[int] = []
        for decision, row in zip(decisions, rows, strict=True):
            if decision.run_id not in reserved:
                unused.append(row)
                continue
            for queue in paths[decision.queue_id]:
                for dimension, amount in decision.charge.items():
                    if amount:
                        deltas[queue, dimension] = deltas.get((queue, dimension), 0) + amount
        if deltas:
            await take_all(session, deltas)
        if unused:
            await session.execute(delete(DecisionRow).where(DecisionRow.id.in_(unused)))
        return reserved

    def news(self, decisions: Sequence[Decision], now: datetime) -> list[Decision]:
        """Return the waits whose stored explanation is missing, says something else, or is old."""
        found = []
        for decision in decisions:
            known = self.verdicts.get(decision.group)
            if known is None or known.said != _said(decision) or now - known.at >= REFRESH_AFTER:
                found.append(decision)
        found.sort(key=lambda decision: decision.group in self.verdicts)  # what has none yet comes first
        return found[:MOST_NEWS]

    async def explain(
        self, session: AsyncSession, decisions: Sequence[Decision], names: Mapping[str, str], now: datetime
    ) -> dict[str, Verdict]:
        """Store explanations, one row per lane, and return them; the caller hands them to :meth:`remember` after the commit."""
        new = [d for d in decisions if d.group not in self.verdicts]
        old = [d for d in decisions if d.group in self.verdicts]
        found: dict[str, Verdict] = {}
        if new:
            rows = await self._insert(session, [body_of(d, names) for d in new], now)
            found |= {d.group: Verdict(row, _said(d), now) for d, row in zip(new, rows, strict=True)}
        if old:
            await self._replace(session, {self.verdicts[d.group].row: body_of(d, names) for d in old}, now)
            found |= {d.group: Verdict(self.verdicts[d.group].row, _said(d), now) for d in old}
        return found

    async def _insert(self, session: AsyncSession, bodies: Sequence[dict[str, Any]], now: datetime) -> list[int]:
        """Insert explanations and return their rows in the same order."""
        if session.get_bind().dialect.name == "sqlite":
            stored = insert(DecisionRow).returning(DecisionRow.id, sort_by_parameter_order=True)
            values = [{"at": now, "epoch": self.epoch, "body": body} for body in bodies]
            return list((await session.execute(stored, values)).scalars().all())
        rows = list((await session.execute(_NUMBERS, {"count": len(bodies)})).scalars().all())
        given = orjson.dumps(list(zip(rows, bodies, strict=True))).decode()
        await session.execute(_EXPLAIN, {"rows": given, "at": now, "epoch": self.epoch})
        return rows

    async def _replace(self, session: AsyncSession, bodies: Mapping[int, dict[str, Any]], now: datetime) -> None:
        """Bring stored explanations up to date."""
        if session.get_bind().dialect.name == "sqlite":
            changes = [{"id": row, "at": now, "epoch": self.epoch, "body": body} for row, body in bodies.items()]
            await session.execute(update(DecisionRow), changes)
            return
        given = orjson.dumps(list(bodies.items())).decode()
        await session.execute(_EXPLAIN_AGAIN, {"rows": given, "at": now, "epoch": self.epoch})

    def remember(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep what is stored for certain."""
        self.verdicts.update(verdicts)

    def outlived(self, loader: SnapshotLoader, now: datetime) -> list[int]:
        """Return the explanations of lanes that have no waiting run any more, some time after they were last true."""
        waiting = {lane.group for lane in loader.pending.lanes.values()}
        old = [group for group, known in self.verdicts.items() if group not in waiting and now - known.at >= KEEP_AFTER]
        return [self.verdicts[group].row for group in old]

    async def prune(self, session: AsyncSession, rows: Sequence[int] | None, now: datetime) -> list[int]:
        """Delete old explanations that no run refers to, of *rows* (of all when None), and return those deleted.

        The caller holds the leader's lease, so nobody refers to one of them meanwhile, and calls :meth:`forget` after the
        commit.
        """
        unused = DecisionRow.at < now - KEEP_AFTER, ~exists().where(RunRow.decision_id == DecisionRow.id)
        statement = delete(DecisionRow).where(*unused)
        if rows is not None:
            statement = statement.where(DecisionRow.id.in_(rows))
        gone = statement.returning(DecisionRow.id).execution_options(synchronize_session=False)
        return list((await session.execute(gone)).scalars().all())

    def forget(self, rows: Iterable[int]) -> None:
        """Forget explanations that were deleted or have outlived their lane; a lane that waits again gets a new one."""
        gone = set(rows)
        self.verdicts = {group: known for group, known in self.verdicts.items() if known.row not in gone}

    def unlinked(self, loader: SnapshotLoader, decisions: Sequence[Decision], verdicts: Mapping[str, Verdict]) -> dict[str, int]:
        """Return run id → explanation of waiting runs that do not point to the one of their lane yet, up to the bound."""
        found: dict[str, int] = {}
        lanes = {lane.group: lane for lane in loader.pending.lanes.values()}
        for decision in decisions:
            verdict = verdicts.get(decision.group) or self.verdicts.get(decision.group)
            lane = lanes.get(decision.group)
            if verdict is None or lane is None or decision.group in loader.settled:
                continue
            for run_id in lane.runs:
                if loader.linked.get(run_id) != verdict.row:
                    found[run_id] = verdict.row
                    if len(found) >= MOST_LINKS:
                        return found
            loader.settled.add(decision.group)
        return found

    async def link(self, session: AsyncSession, links: Mapping[str, int]) -> None:
        """Point waiting runs to the explanation of their lane."""
        if not links:
            return
        if session.get_bind().dialect.name != "sqlite":
            await session.execute(_LINK, {"runs": [UUID(run) for run in links], "decisions": list(links.values())})
            return
        by_row: dict[int, list[UUID]] = {}
        for run, row in links.items():
            by_row.setdefault(row, []).append(UUID(run))
        for row, runs in by_row.items():
            for start in range(0, len(runs), 500):
                await session.execute(
                    update(RunRow)
                    .where(RunRow.id.in_(runs[start : start + 500]), RunRow.phase == Phase.QUEUED.value)
                    .values(decision_id=row)
                    .execution_options(synchronize_session=False)
                )

    async def reject(self, session: AsyncSession, loader: SnapshotLoader, decisions: Sequence[Decision]) -> list[str]:
        """End runs that can never be placed, and return their ids (a bounded number; the others follow)."""
        lanes = {lane.group: lane for lane in loader.pending.lanes.values()}
        ended: list[str] = []
        for decision in decisions:
            lane = lanes.get(decision.group)
            reasons = [Reason.model_validate(reason.as_json()) for reason in decision.reasons]
            for run_id in list(lane.runs) if lane is not None else []:
                if len(ended) >= MOST_REJECTIONS:
                    return ended
                try:
                    await transition(session, UUID(run_id), Phase.FAILED, actor="scheduler", reasons=reasons)
                except TransitionError:
                    continue  # cancelled meanwhile; the outbox says so
                ended.append(run_id)
        return ended


def _said(decision: Decision) -> tuple[object, ...]:
    """What makes an explanation another one for its reader: its reasons and who was rejected why, not each number."""
    rejected = decision.explanation.get("rejected")
    groups = tuple((entry["code"], len(entry["places"])) for entry in rejected) if isinstance(rejected, list) else ()
    return (tuple(reason.code for reason in decision.reasons), groups)
