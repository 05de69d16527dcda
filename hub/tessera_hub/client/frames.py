"""Lists of the API as pandas frames; every column with an amount has its unit in the name.

pandas is imported when a frame is asked for, so that the SDK itself stays light.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bills import BillLine, CostTable
from tessera_hub.schemas.capacity import ClusterCapacity, Queue
from tessera_hub.schemas.tasks import Task, TaskEvent

from .errors import TesseraError

if TYPE_CHECKING:
    import pandas as pd


def _frame(rows: list[dict[str, Any]], columns: list[str], times: tuple[str, ...] = ()) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise TesseraError(
            "client.pandas", _("Frames need pandas."), _("Install it with `pip install 'tessera-hub[widgets]'`.")
        ) from error
    extra = [name for row in rows for name in row if name not in columns]
    frame = pd.DataFrame(rows, columns=[*columns, *dict.fromkeys(extra)])
    for name in times:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _amounts(resources: dict[str, int]) -> dict[str, int]:
    """Name the dimensions with their units: ``cpu_millicores``, ``memory_mib``, ``cards_A100-80G_centi_cards``, …"""
    named: dict[str, int] = {}
    for dimension, amount in resources.items():
        what, _slash, card_class = dimension.partition("/")
        match what:
            case "cpu":
                named["cpu_millicores"] = amount
            case "memory":
                named["memory_mib"] = amount
            case "cards":
                named[f"cards_{card_class}_centi_cards"] = amount
            case "card_memory":
                named[f"card_memory_{card_class}_mib"] = amount
            case _:
                named[dimension] = amount
    return named


def tasks_frame(tasks: Iterable[Task]) -> pd.DataFrame:
    """One row per task: identity, state, resources, seconds, cost in micro-units of the currency."""
    rows = []
    for task in tasks:
        end = task.finished_at
        seconds = (end - task.started_at).total_seconds() if task.started_at and end else None
        rows.append(
            {
                "id": str(task.id),
                "name": task.name,
                "kind": task.kind.value,
                "phase": task.phase.value,
                "owner": task.owner,
                "tenant": task.tenant,
                "queue": task.queue,
                "cluster": task.cluster,
                "attempts": task.attempts,
                "reason": task.reasons[0].code if task.reasons else None,
                "cells_done": task.progress.cells_done,
                "cells_total": task.progress.cells_total,
                "created_at": task.created_at,
                "started_at": task.started_at,
                "finished_at": end,
                "run_seconds": seconds,
                "cost_micro": task.cost.micro if task.cost else None,
                "rate_nano_per_hour": task.cost.nano_per_hour if task.cost else None,
                "currency": task.cost.currency if task.cost else None,
                **_amounts(task.resources),
            }
        )
    columns = [
        *("id", "name", "kind", "phase", "owner", "tenant", "queue", "cluster", "attempts", "reason"),
        *("cells_done", "cells_total", "created_at", "started_at", "finished_at", "run_seconds"),
        *("cost_micro", "rate_nano_per_hour", "currency"),
    ]
    return _frame(rows, columns, ("created_at", "started_at", "finished_at"))


def costs_frame(table: CostTable) -> pd.DataFrame:
    """One row per group; a used quantity is in unit-seconds of its dimension's unit."""
    rows = [
        {
            table.by: row.key,
            "title": row.title,
            "amount_micro": row.amount_micro,
            "currency": row.currency,
            **{f"{name}_seconds": amount for name, amount in _amounts(row.unit_seconds).items()},
        }
        for row in table.rows
    ]
    return _frame(rows, [table.by, "title", "amount_micro", "currency"])


def bill_frame(lines: Iterable[BillLine], currency: str) -> pd.DataFrame:
    """One row per line of a bill; ``unit`` says what ``unit_seconds`` counts, ``price_unit`` what the price is for."""
    rows = [
        {
            "sku": line.sku,
            "dimension": line.dimension,
            "unit": _unit(line.dimension),
            "unit_seconds": line.unit_seconds,
            "price_unit": line.unit,
            "nano_per_price_unit_hour": line.nano_per_unit_hour,
            "amount_micro": line.amount_micro,
            "provisional": line.provisional,
            "currency": currency,
        }
        for line in lines
    ]
    columns = [
        *("sku", "dimension", "unit", "unit_seconds", "price_unit", "nano_per_price_unit_hour"),
        *("amount_micro", "provisional", "currency"),
    ]
    return _frame(rows, columns)


def _unit(dimension: str) -> str:
    units = {"cpu": "millicores", "memory": "MiB", "cards": "centi-cards", "card_memory": "MiB"}
    return units.get(dimension.partition("/")[0], "")


def queues_frame(queues: Iterable[Queue]) -> pd.DataFrame:
    """One row per queue and dimension; ``unit`` says what ``used`` and ``limit`` count."""
    rows = [
        {
            "queue": queue.path,
            "tenant": queue.tenant,
            "state": queue.state,
            "dimension": line.dimension,
            "unit": _unit(line.dimension),
            "used": line.used,
            "limit": line.limit,
            "guarantee": line.guarantee,
            "running_tasks": queue.running_tasks,
            "waiting_tasks": queue.waiting_tasks,
        }
        for queue in queues
        for line in queue.quota
    ]
    return _frame(
        rows,
        ["queue", "tenant", "state", "dimension", "unit", "used", "limit", "guarantee", "running_tasks", "waiting_tasks"],
    )


def capacity_frame(clusters: Iterable[ClusterCapacity]) -> pd.DataFrame:
    """One row per cluster and card class; a cluster without cards has one row."""
    rows = []
    for cluster in clusters:
        base = {
            "cluster": cluster.name,
            "kind": cluster.kind,
            "state": cluster.state,
            "waiting_tasks": cluster.waiting_tasks,
            "wait_p50_seconds": cluster.eta_seconds_p50,
            **{f"free_{name}": amount for name, amount in _amounts(cluster.free).items() if "card" not in name},
        }
        cards = [
            {
                "card_class": card.card_class,
                "free_centi_cards": card.free_centi_cards,
                "total_centi_cards": card.total_centi_cards,
                "largest_share_centi_cards": card.largest_share_centi_cards,
                "card_memory_mib": card.memory_mib,
                "price_nano_per_card_hour": card.nano_per_card_hour,
            }
            for card in cluster.cards
        ]
        rows.extend([{**base, **card} for card in cards] or [base])
    return _frame(
        rows,
        ["cluster", "kind", "state", "waiting_tasks", "wait_p50_seconds", "free_cpu_millicores", "free_memory_mib", "card_class"],
    )


def events_frame(events: Iterable[TaskEvent]) -> pd.DataFrame:
    """One row per event of a task."""
    rows = [
        {
            "at": event.at,
            "kind": event.kind,
            "actor": event.actor,
            "phase_from": event.phase_from.value if event.phase_from else None,
            "phase_to": event.phase_to.value if event.phase_to else None,
            "reason": event.reason.code if event.reason else None,
            "run_id": str(event.run_id),
        }
        for event in events
    ]
    return _frame(rows, ["at", "kind", "actor", "phase_from", "phase_to", "reason", "run_id"], ("at",))
