"""Runs whose bytes a courier takes (:mod:`tessera_hub.proxy.courier`): what it is told, and what it tells."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tessera_hub.cards import CATALOGUE
from tessera_hub.proxy.courier.settings import SCHEMA
from tessera_hub.proxy.drivers.base import Evidence, MeterAction, MeterFact
from tessera_hub.proxy.drivers.foreign import count_of
from tessera_hub.proxy.drivers.launching import run_document
from tessera_hub.proxy.drivers.outcome import EXIT_CODE_LIMIT, ORDERED, STATES, reason_of
from tessera_hub.proxy.drivers.runrecords import Order
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, ResourceVector
from tessera_hub.schemas.tasks import Phase, Progress, TaskKind

Suspends = tuple[tuple[str, datetime], ...]
"""When a run was ``suspended`` and ``resumed``, in turn."""


def stored_lease(lease: Lease) -> Lease:
    """Return the lease without its long lists of files, which the courier asks the service for."""
    spec = lease.spec
    inputs = spec.inputs.model_copy(update={"files": [file for file in spec.inputs.files if file.path == spec.entry]})
    return lease.model_copy(update={"spec": spec.model_copy(update={"inputs": inputs}), "checkpoint": []})


def courier_document(
    lease: Lease, service_url: str, output_bytes: int, datasets: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return ``courier.json``.

    Args:
        service_url: address of the service as the run reaches it.
        output_bytes: of what the run prints.
        datasets: name → folder, as the run sees it.
    """
    url = service_url.rstrip("/")
    spec = lease.spec
    return {
        "schema": SCHEMA,
        "url": url if url.endswith("/api/v1") else f"{url}/api/v1",
        "run_id": str(lease.run_id),
        "run_token": lease.run_token,
        "lease_token": lease.lease_token,
        "entry": spec.entry or "",
        "notebook": spec.kind is TaskKind.NOTEBOOK,
        "checkpoint_directory": spec.lifecycle.checkpoint_directory,
        "checkpoint": [file.model_dump(mode="json") for file in lease.checkpoint],
        "run": run_document(lease, output_bytes, datasets),
        "parts": spec.roles[0].replicas,
        "service": spec.kind is TaskKind.SERVICE,
    }


def runner_bytes(build: Callable[[str], Any]) -> bytes:
    """Return the runner as a zip file, by ``tessera_lab.runner.build_zipapp``."""
    with tempfile.TemporaryDirectory() as folder:
        build(f"{folder}/runner.pyz")
        return Path(folder, "runner.pyz").read_bytes()


def vector_of(lease: Lease) -> ResourceVector:
    """Return what a run holds while it runs, with all its parts."""
    role = lease.spec.roles[0]
    resources = role.resources
    found: ResourceVector = {"cpu": resources.cpu_millicores, "memory": resources.memory_mib}
    if (cards := resources.cards) is not None:
        name = lease.card_class or cards.model or "unknown"
        known = CATALOGUE.get(name)
        memory = cards.memory_mib or (known.memory_mib * cards.centi_cards // CENTI_CARDS_PER_CARD if known else 0)
        found |= {f"cards/{name}": cards.centi_cards, f"card_memory/{name}": memory}
    return {dimension: amount * role.replicas for dimension, amount in found.items()}


def meter_since(lease: Lease, suspends: Suspends, started: datetime) -> tuple[MeterFact, ...]:
    """Return what is billed of a run that began then, without its end: a stopped run holds memory and cards."""
    held = vector_of(lease)
    resting = {dimension: amount for dimension, amount in held.items() if dimension != "cpu"}
    facts = [fact("START", started, held)]
    for state, at in suspends:
        paused = state == "suspended"
        facts.append(fact("PAUSE" if paused else "RESUME", at, resting if paused else held, "observed"))
    return tuple(facts)


def fact(action: MeterAction, at: datetime, spec: ResourceVector, evidence: Evidence = "engine") -> MeterFact:
    """Return a fact of metering that is told as it happened."""
    second = int(at.timestamp())
    return MeterFact(action, second, second, spec, evidence)


def told_outcome(
    told: Mapping[str, Any], order: Order | None, status: int | None, taken: tuple[Phase, Reason]
) -> tuple[Phase, Reason | None, int | None]:
    """Return phase, reason and exit code by the runner's record, which user code can write.

    Args:
        status: of the process, as the engine tells it.
        taken: what became of a run that was stopped, and not by us.
    """
    given, reason = told.get("reason"), None
    if isinstance(given, dict):
        detail = given.get("detail")
        try:
            reason = reason_of(str(given.get("code")), str(given.get("message", "")), detail if isinstance(detail, dict) else {})
        except ValueError:
            reason = reason_of("script.exit", "the runner's record has no proper reason code")
    code = told.get("exit_code")
    exit_code = code if type(code) is int and 0 <= code <= EXIT_CODE_LIMIT else status
    state = str(told["state"])
    if state in ("cancelled", "preempted"):
        # The runner knows only that it was stopped; why is what we ordered, or what was done to it from outside.
        if order is not None:
            state, ordered = ORDERED[order.why]
            return STATES[state], reason_of(ordered), exit_code
        return *taken, exit_code
    return STATES[state], reason, exit_code


def progress_of(document: Mapping[str, Any]) -> Progress | None:
    """Return how far a run is, from what the courier told; None if it is not usable."""
    done, total, current = (count_of(document.get(name)) for name in ("cells_done", "cells_total", "current_cell"))
    return None if done is None else Progress(cells_done=done, cells_total=total, current_cell=current)
