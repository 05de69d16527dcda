"""Looks at the node again and again: finds who goes around the library, counts what is used, and gives back what was shrunk.

A suspicion counts when it is there in three looks one after the other: a process may allocate and free while it is looked at.
Who is over its limit in time is not cleared by a pause, but once it has paid.
With looks every half second a bypass of memory is known within two seconds, one of time within five.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tessera_vgpu.agent import processes
from tessera_vgpu.agent.evidence import Evidence, Holding, Sources, collect
from tessera_vgpu.agent.fairness import Fairness
from tessera_vgpu.agent.judging import judge
from tessera_vgpu.agent.meters import Meter
from tessera_vgpu.agent.pace import Pace
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.agent.view import Bypass, CardUse, ContainerUse, Finding, View
from tessera_vgpu.bindings import Contexts, Owner, Share, held
from tessera_vgpu.cards import Card

LOG: Final = logging.getLogger(__name__)
LOOKS: Final = 3
QUIET_S: Final = 60.0
"""The same of one container on one card is told once in this time; the counters count all."""
_LOOKS_TO_END: Final = {Bypass.TAKEN_TIME: math.inf, Bypass.OVER_TIME_LIMIT: 60}
"""The one rests on another tenant's word; the other may be a kernel of some seconds, which nobody can interrupt."""
HOLD_BACK_S: Final = 60.0
"""So long who has taken others' time is held to its request, where the operator wants what goes around to be ended."""
_BYTES_PER_MIB: Final = 1 << 20

Report = Callable[[Finding, Owner], None]
"""Told of findings."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is a bypass, and what follows.

    Attributes:
        contexts: what a context costs on each card.
        tolerance_mib: what the driver may take for a process beside its context, without a call that could be counted (modules,
            stacks).
        end: whether processes that go around are killed.
    """

    contexts: Contexts
    tolerance_mib: int = 256
    end: bool = False


class Watch:
    """Keeps what was seen before.

    Args:
        cards: all cards of the node that there were at the start, idle.
        healthy: UUIDs of those that answer; the driver is asked for these only.
        library: inodes of the library's files.
        names: container id → name, as the API server has it.
    """

    def __init__(
        self,
        sources: Sources,
        cards: Sequence[Card],
        healthy: Callable[[], frozenset[str]],
        library: Callable[[], frozenset[int]],
        names: Callable[[], Mapping[str, str]],
        rules: Rules,
        report: Report,
    ) -> None:
        self._sources, self._cards, self._healthy = sources, cards, healthy
        self._library, self._names, self._rules, self._report = library, names, rules, report
        self._suspected: dict[Finding, int] = {}
        self._told: dict[tuple[Bypass, str, str], float] = {}
        self._meters: dict[tuple[str, str], Meter] = {}
        self._pace, self._fairness = Pace(), Fairness()
        self._held_back: dict[tuple[str, str], float] = {}
        self._counts = dict.fromkeys(Bypass, 0)
        self._looked_s = time.monotonic()
        self.view = View()

    def look(self, thorough: bool) -> View:
        """Look once; tell and do what follows.

        Args:
            thorough: look at all processes of pods, not only at those that the driver knows and those under suspicion.

        Raises:
            VgpuError: ``driver.unavailable``; the rest was done all the same.
        """
        others = None if thorough else {finding.pid for finding in self._suspected if finding.kind is Bypass.NO_LIBRARY}
        evidence = collect(self._sources, self._healthy(), self._library(), self._names(), others)
        tolerance = self._rules.tolerance_mib * _BYTES_PER_MIB
        now = time.monotonic_ns()
        judged = judge(evidence, self._rules.contexts, tolerance)
        judged |= dict(self._pace.judge(evidence, now)) | dict(self._fairness.judge(evidence, now))
        confirmed = self._confirm(evidence, judged)
        self._hold_back(confirmed)
        self._settle(evidence, tolerance)
        self.view = self._see(evidence, confirmed)
        self._looked_s = time.monotonic()
        if evidence.failure is not None:
            raise evidence.failure
        return self.view

    def fresh(self, most_age_s: float) -> bool:
        """Whether the last look is not long ago."""
        return time.monotonic() - self._looked_s <= most_age_s

    def _confirm(self, evidence: Evidence, judged: Mapping[Finding, tuple[Process, ...]]) -> list[Finding]:
        owners = {holding.nonce: holding.binding.owner for holding in evidence.holdings}
        before = self._suspected
        seen = {finding: before.get(finding, 0) + 1 for finding in judged}
        # A pause is no payment: who goes on with a debt goes on where it was.
        paused = {finding: looks for finding, looks in before.items() if self._goes_on(finding)}
        self._suspected = paused | seen
        for finding, looks in seen.items():
            if looks == LOOKS:
                self._counts[finding.kind] += 1
                self._tell(finding, owners[finding.nonce])
            if self._rules.end and looks >= _LOOKS_TO_END.get(finding.kind, LOOKS):
                for process in judged[finding]:
                    if processes.end(process):
                        LOG.warning("ended process %d for %s", process.pid, finding.kind)
        return [finding for finding, looks in seen.items() if looks >= LOOKS]

    def _goes_on(self, finding: Finding) -> bool:
        return finding.kind is Bypass.OVER_TIME_LIMIT and self._fairness.owes(finding)

    def _hold_back(self, confirmed: Sequence[Finding]) -> None:
        """Hold who has taken others' time to what it requested, for a while. Who goes on as before is over its limit."""
        now = time.monotonic()
        if self._rules.end:
            for finding in confirmed:
                if finding.kind is Bypass.TAKEN_TIME:
                    self._held_back[finding.nonce, finding.card] = now + HOLD_BACK_S
        self._held_back = {who: until for who, until in self._held_back.items() if until > now}
        self._sources.store.hold_back(self._held_back.keys())

    def _tell(self, finding: Finding, owner: Owner) -> None:
        """Report a finding, but not for every one of a thousand processes that a container may start."""
        now, key = time.monotonic(), (finding.kind, finding.nonce, finding.card)
        self._told = {known: at for known, at in self._told.items() if now - at < QUIET_S}
        if key not in self._told:
            self._told[key] = now
            LOG.warning("%s of %s/%s goes around its limits: %s", owner.container, owner.namespace, owner.pod, finding)
            self._report(finding, owner)

    def _settle(self, evidence: Evidence, tolerance: int) -> None:
        """Free what a slice may still have had from before it was made less, once driver and page agree that it has not."""
        for holding in evidence.holdings:
            for index, share in enumerate(holding.binding.shares):
                if share.still_held_mib and share.uuid in evidence.other_bytes:
                    each = self._rules.contexts.bytes_of.get(share.uuid, 0) + tolerance
                    used = [c.bytes or 0 for c in evidence.contexts if c.tenant.holding is holding and c.card == share.uuid]
                    limit = share.memory_mib * _BYTES_PER_MIB
                    page = max(usage.reserved_bytes[index] for usage in (holding.before, holding.after))
                    if sum(used) <= limit + len(used) * each and page <= limit:
                        self._sources.store.settle(holding.nonce, share.uuid)

    def _see(self, evidence: Evidence, confirmed: Sequence[Finding]) -> View:
        now = time.monotonic_ns()
        used: dict[tuple[str, str], int] = {}
        on_card: dict[str, int] = {}
        for context in evidence.contexts:
            key = context.tenant.holding.nonce, context.card
            used[key] = used.get(key, 0) + (context.bytes or 0)
            on_card[context.card] = on_card.get(context.card, 0) + (context.bytes or 0)
        containers: list[ContainerUse] = []
        for holding in evidence.holdings:
            for index, share in enumerate(holding.binding.shares):
                found = tuple(dict.fromkeys(f.kind.value for f in confirmed if (f.nonce, f.card) == (holding.nonce, share.uuid)))
                containers.append(self._container(holding, index, share, used.get((holding.nonce, share.uuid), 0), found, now))
        living = {(use.nonce, use.card) for use in containers}
        self._meters = {key: meter for key, meter in self._meters.items() if key in living}
        taken = held(holding.binding for holding in evidence.holdings)
        healthy = self._healthy()
        cards = [
            CardUse(
                card.uuid,
                card.model,
                card.memory_mib,
                taken[card.uuid].centi_cards if card.uuid in taken else 0,
                taken[card.uuid].memory_mib if card.uuid in taken else 0,
                on_card.get(card.uuid, 0),
                evidence.other_bytes.get(card.uuid, 0),
                card.uuid in healthy,
            )
            for card in self._cards
        ]
        return View(time.time(), cards, containers, tuple(confirmed), dict(self._counts))

    def _container(
        self, holding: Holding, index: int, share: Share, driver_bytes: int, found: tuple[str, ...], now: int
    ) -> ContainerUse:
        usage, key = holding.after, (holding.nonce, share.uuid)
        meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = Meter(self._age_ns(holding.nonce), now)
        return ContainerUse(
            holding.nonce,
            holding.binding.owner,
            share.uuid,
            len(share.device_ids),
            holding.limits.cards[index].compute_limit_centi,
            share.memory_mib,
            usage.reserved_bytes[index],
            driver_bytes,
            len(usage.processes),
            meter.read(usage.totals[index], len(usage.processes), now),
            (*usage.anomalies, *found),
        )

    def _age_ns(self, nonce: str) -> int:
        """Return how long a slice has been there; its folder of nodes is made once, and is not the container's to change."""
        try:
            made = (self._sources.store.folder(nonce) / "dev").stat().st_mtime_ns
        except OSError:
            return 0
        return time.time_ns() - made
