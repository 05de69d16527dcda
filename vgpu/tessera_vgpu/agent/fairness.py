"""Which containers take more of a card's time than is theirs while others wait for it: the driver's word beside the rules.

What a container is due at a moment follows from its request, limit, weight and class, and from who else is active, as in
``vgpu/interposer/turns.c``. Who is active and who waits is the tenants' own word, from their turns pages; what each *uses* is the
driver's. So a container cannot say that it takes less than it does, only that it wants more than it does. Since that is a
neighbour's word, what is taken from others is told and never punished by itself. That somebody is over its limit all the time,
or again before it has paid for the last time, is the driver's word alone.

A kernel that runs for seconds is found as well: nobody can interrupt it, and it does keep the others waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tessera_vgpu.agent.debts import Debts
from tessera_vgpu.agent.evidence import Evidence
from tessera_vgpu.agent.pace import BEFORE_NS
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.agent.view import Bypass, Finding
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.pages import CardLimits

WINDOW_NS: Final = 2_500_000_000
TOLERANCE: Final = 0.15
"""Of the card's time: whole percents that come late, and turns that end late."""
MOSTLY: Final = 0.5
"""Of the looks of a window and the time before, in which who is kept waiting wanted the card."""
LEAST: Final = 0.25
"""Of its part, that who is kept waiting has all the same, since a card shares its time: who has less does not want it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A container on a card in one look: ``used``, ``due`` and ``limit`` are shares of its time, 1 is all of it."""

    nonce: str
    priority: int
    used: float
    due: float
    limit: float
    wants: bool


def dues(limits: Sequence[tuple[CardLimits, int]], active: Sequence[bool], used: Sequence[float]) -> list[float]:
    """Return what each container of a card is due at one moment, as a share of it.

    Classes above take what they need, up to their limits; what they leave is divided among those of a class: what each requested,
    and what is over by weight among the active ones.

    Args:
        limits: of each container on this card, with its class.
        active: whether it has work there, or wants some.
        used: share of the card that it uses.
    """
    found: list[float] = []
    for (mine, priority), _active in zip(limits, active, strict=True):
        others = [card for (card, its), on in zip(limits, active, strict=True) if on and its == priority and card is not mine]
        above = sum(share for (_card, its), share in zip(limits, used, strict=True) if its > priority)
        requests = mine.compute_request_centi + sum(card.compute_request_centi for card in others)
        idle = max(CENTI_CARDS_PER_CARD - requests, 0) * mine.weight / (mine.weight + sum(card.weight for card in others))
        due = (mine.compute_request_centi + idle) / CENTI_CARDS_PER_CARD * max(1 - above, 0)
        found.append(min(due, mine.compute_limit_centi / CENTI_CARDS_PER_CARD))
    return found


class Fairness:
    """Remembers the looks of the last seconds, for each card."""

    def __init__(self) -> None:
        self._looks: dict[str, deque[tuple[int, Sequence[Part]]]] = {}
        self._debts: dict[str, Debts] = {}

    def owes(self, finding: Finding) -> bool:
        """Whether whoever was found has not paid yet for what it had beyond its limit, as of the last look."""
        return finding.card in self._debts and finding.nonce in self._debts[finding.card].owing()

    def judge(self, evidence: Evidence, now_ns: int) -> Mapping[Finding, tuple[Process, ...]]:
        """Take a look in, and return who has taken time of others of late, with its processes on that card.

        Args:
            now_ns: of a clock that never goes back.
        """
        found: dict[Finding, tuple[Process, ...]] = {}
        living: dict[str, deque[tuple[int, Sequence[Part]]]] = {}
        debts: dict[str, Debts] = {}
        for card, parts in parts_of(evidence).items():
            looks = living[card] = self._looks.get(card, deque())
            looks.append((now_ns, parts))
            debts[card] = self._debts.get(card, Debts())
            owing = debts[card].look([(part.nonce, part.used, part.limit + TOLERANCE) for part in parts], now_ns)
            while len(looks) > 1 and looks[1][0] <= now_ns - WINDOW_NS - BEFORE_NS:
                looks.popleft()
            if looks[0][0] > now_ns - WINDOW_NS - BEFORE_NS:
                continue
            window = [parts for at, parts in looks if at > now_ns - WINDOW_NS]
            found_now = (Bypass.TAKEN_TIME, takers(looks, now_ns)), (Bypass.OVER_TIME_LIMIT, never_below(window) | owing)
            for kind, nonces in found_now:
                for nonce in nonces:
                    found[Finding(kind, nonce, card)] = evidence.processes(nonce, card)
        self._looks, self._debts = living, debts
        return found


def parts_of(evidence: Evidence) -> dict[str, list[Part]]:
    """Return for each card the containers that have a part of it, as this look sees them."""
    cards: dict[str, list[tuple[str, CardLimits, int, bool, bool]]] = {}
    for holding in evidence.holdings:
        for card, claim in zip(holding.limits.cards, holding.claims, strict=True):
            mine = holding.nonce, card, holding.limits.priority_class, claim.active, claim.wants
            cards.setdefault(card.uuid, []).append(mine)
    found: dict[str, list[Part]] = {}
    for uuid, every in cards.items():
        used = [evidence.used(nonce, uuid) for nonce, *_rest in every]
        due = dues([(card, its) for _nonce, card, its, *_claims in every], [active for *_rest, active, _wants in every], used)
        found[uuid] = [
            Part(nonce, priority, share, mine, card.compute_limit_centi / CENTI_CARDS_PER_CARD, wants)
            for (nonce, card, priority, _active, wants), share, mine in zip(every, used, due, strict=True)
        ]
    return found


def never_below(looks: Sequence[Sequence[Part]]) -> set[str]:
    """Return who was over its limit in each of these looks: who is in debt for a long kernel pays in between."""
    over = [{part.nonce for part in parts if part.used > part.limit + TOLERANCE} for parts in looks]
    return set.intersection(*over)


def takers(looks: Sequence[tuple[int, Sequence[Part]]], now_ns: int) -> set[str]:
    """Return who had more than it was due of late while another of its class or above wanted the card and had less.

    Args:
        looks: times and what was seen then, of a window and the time before it.
    """
    every = [(at, {part.nonce: part for part in parts}) for at, parts in looks]
    stayed = [nonce for nonce in every[-1][1] if all(nonce in parts for _at, parts in every)]
    window = [at for at, _parts in every if at > now_ns - WINDOW_NS]

    def mean(nonce: str, of: Callable[[Part], float]) -> float:
        return sum(of(parts[nonce]) for at, parts in every if at in window) / len(window)

    def due_of_late(nonce: str) -> float:
        """The mean of the most that it was due in the time that each look may tell of: so long it may be seen with more."""
        most = (max(parts[nonce].due for at, parts in every if end - BEFORE_NS <= at <= end) for end in window)
        return sum(most) / len(window)

    def is_short(nonce: str) -> bool:
        used, due = mean(nonce, lambda part: part.used), mean(nonce, lambda part: part.due)
        wanted = sum(parts[nonce].wants for _at, parts in every) / len(every)
        return LEAST * due <= used < due - TOLERANCE and wanted >= MOSTLY

    priority = {nonce: every[-1][1][nonce].priority for nonce in stayed}
    short = [priority[nonce] for nonce in stayed if is_short(nonce)]
    most = [nonce for nonce in stayed if mean(nonce, lambda part: part.used) > due_of_late(nonce) + TOLERANCE]
    return {nonce for nonce in most if any(other >= priority[nonce] for other in short)}
