"""What is known at one moment of containers with a slice: their pages, and their processes as driver and kernel see them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tessera_vgpu.agent import processes
from tessera_vgpu.agent.driver import Driver
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.bindings import Binding, Slot
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import Limits, Usage, read_usage
from tessera_vgpu.slots import SlotStore
from tessera_vgpu.turns import Claim, read_claims


@dataclass(frozen=True, slots=True)
class Holding:
    """A container with a slice, and what its page said before and after the driver was asked.

    Attributes:
        claims: what it says of its turns, a claim for each of its cards.
        limits: those in force.
    """

    nonce: str
    binding: Binding
    before: Usage
    after: Usage
    claims: tuple[Claim, ...]
    limits: Limits

    def booked(self, process: Process, index: int) -> tuple[int | None, int | None]:
        """Return the bytes that a process had booked on the card at *index* before and after; None: not in the page."""
        return _booked(self.before, process, index), _booked(self.after, process, index)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A process of a container with a slice. ``library`` says whether what enforces the slice is mapped, None where unknown."""

    process: Process
    holding: Holding
    library: bool | None


@dataclass(frozen=True, slots=True)
class Context:
    """A tenant's context on a card, and the bytes that the driver says it has there; None where the driver does not say."""

    tenant: Tenant
    card: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One look at the node.

    Attributes:
        opened: tenants without a context, as far as the driver says, that have a card's node open.
        busy: card and process → percent of the card's time that the driver says it used of late; who used none is not there.
        other_bytes: card → what processes that are no tenants have there; the cards that the driver has told about.
        failure: why it did not tell about the others.
    """

    holdings: tuple[Holding, ...]
    contexts: tuple[Context, ...] = ()
    opened: tuple[Tenant, ...] = ()
    busy: Mapping[tuple[str, int], int] = field(default_factory=dict)
    other_bytes: Mapping[str, int] = field(default_factory=dict)
    failure: VgpuError | None = None

    def processes(self, nonce: str, card: str) -> tuple[Process, ...]:
        """Return a container's processes with a context on a card."""
        return tuple(c.tenant.process for c in self.contexts if (c.tenant.holding.nonce, c.card) == (nonce, card))

    def used(self, nonce: str, card: str) -> float:
        """Return the share of a card's time that the driver says a container used of late; 1 is all of it."""
        return min(sum(self.busy.get((card, process.pid), 0) for process in self.processes(nonce, card)) / 100, 1.0)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where evidence comes from."""

    store: SlotStore
    driver: Driver


def collect(
    sources: Sources, cards: Iterable[str], library: frozenset[int], names: Mapping[str, str], others: Collection[int] | None
) -> Evidence:
    """Look at the node.

    Args:
        cards: those to ask the driver for, by UUID.
        library: inodes of the library's files.
        names: container id → name.
        others: processes to look at besides those that the driver knows; None: all of pods.
    """
    bound = [(slot, slot.binding) for slot in sources.store.slots() if slot.binding is not None]
    before = {slot.nonce: _usage(sources.store, slot, binding) for slot, binding in bound}
    on_cards, failure = _ask(sources.driver, cards)
    holdings = tuple(
        Holding(
            slot.nonce,
            binding,
            before[slot.nonce],
            _usage(sources.store, slot, binding),
            read_claims(sources.store.folder(slot.nonce) / "turns", len(binding.shares), time.monotonic_ns()),
            sources.store.limits(slot.nonce, binding),
        )
        for slot, binding in bound
    )
    by_pod: dict[str, list[Holding]] = {}
    for holding in holdings:
        by_pod.setdefault(holding.binding.owner.pod_uid, []).append(holding)

    def tenant(pid: int) -> Tenant | None:
        process = processes.look(pid)
        mine = by_pod.get(process.pod_uid) if process is not None else None
        if process is None or not mine:
            return None
        return Tenant(process, _whose(process, mine, names), processes.has_library(pid, library))

    with_context = {pid: tenant(pid) for of_card in on_cards.values() for pid in of_card}
    contexts: list[Context] = []
    rest = dict.fromkeys(on_cards, 0)
    for card, of_card in on_cards.items():
        for pid, amount in of_card.items():
            who = with_context[pid]
            if who is None:
                rest[card] += amount or 0
            else:
                contexts.append(Context(who, card, amount))
    looked = processes.of_pods(by_pod) if others is None else others
    opened = [tenant(pid) for pid in looked if pid not in with_context and processes.holds_card(pid)]
    return Evidence(
        holdings,
        tuple(contexts),
        tuple(one for one in opened if one is not None),
        {(card, pid): percent for card in on_cards for pid, percent in sources.driver.utilisation(card).items()},
        rest,
        failure,
    )


def _ask(driver: Driver, cards: Iterable[str]) -> tuple[dict[str, dict[int, int | None]], VgpuError | None]:
    found: dict[str, dict[int, int | None]] = {}
    failure: VgpuError | None = None
    for card in cards:
        try:
            found[card] = driver.processes(card)
        except VgpuError as error:
            failure = error
    return found, failure


def _usage(store: SlotStore, slot: Slot, binding: Binding) -> Usage:
    return read_usage(store.folder(slot.nonce) / "usage", len(binding.shares))


def _booked(usage: Usage, process: Process, index: int) -> int | None:
    found = [
        entry.ledgers[index].bytes
        for entry in usage.processes
        if (entry.pid, entry.pid_start_ticks) == (process.pid_inside, process.start_ticks)
    ]
    return max(found, default=None)


def _whose(process: Process, holdings: Sequence[Holding], names: Mapping[str, str]) -> Holding:
    """Return the container of a pod that a process is in: by its id, else by the page that names it, else the pod's first."""
    name = names.get(process.container_id)
    for holding in holdings:
        if holding.binding.owner.container == name:
            return holding
    for holding in holdings:
        if holding.booked(process, 0) != (None, None):
            return holding
    return holdings[0]
