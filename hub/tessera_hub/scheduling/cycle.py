"""The scheduling cycle: a pure function from a snapshot to decisions.

The order, the rule that nobody waits for ever and the cost of a cycle are explained in docs/explanation/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heapify, heappop, heapreplace

from tessera_hub.scheduling.capacity import Demand, PoolRoom
from tessera_hub.scheduling.decision import Action, Decision
from tessera_hub.scheduling.estimates import ahead_of, eta_seconds
from tessera_hub.scheduling.feasibility import malformed
from tessera_hub.scheduling.pending import Lane, OrderKey
from tessera_hub.scheduling.places import ShapeView, Yard
from tessera_hub.scheduling.policies import BUILTIN, Policy
from tessera_hub.scheduling.reasons import Code, Reason, because, ranked
from tessera_hub.scheduling.reservations import Placed, Waiting, grant
from tessera_hub.scheduling.snapshot import Dequeue, PendingRun, Reservation, Snapshot
from tessera_hub.scheduling.tree import QueueNode, QueueTree


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a cycle.

    Attributes:
        max_placements: runs placed in one cycle; the next cycle goes on from there.
        reservation_after: how long a run waits before smaller ones that overtake it earn it a reservation.
        reservation_lapses: how long a reservation is held at most.
        max_reservations: at once, over all queues.
        top_scores: places listed with their scores in an explanation.
        policies: by name.
    """

    max_placements: int = 1000
    reservation_after: timedelta = timedelta(minutes=10)
    reservation_lapses: timedelta = timedelta(hours=2)
    max_reservations: int = 64
    top_scores: int = 5
    policies: Mapping[str, Policy] = field(default_factory=lambda: BUILTIN)


DEFAULT_LIMITS = Limits()


def schedule(snapshot: Snapshot, now: datetime, limits: Limits = DEFAULT_LIMITS) -> list[Decision]:
    """Decide what becomes of the waiting runs.

    Guarantees: no limit of any queue on a run's path and no room of a pool is passed by the decisions together; a run is
    placed whole or not at all; of two runs of one shape in one queue the one with the higher priority, then the older, is
    placed first; the same snapshot gives the same decisions, whatever the order of its parts and wherever it runs.

    Args:
        snapshot: not changed.
        now: aware; decides only which runs have waited long enough for a reservation.
        limits: bounds of the work of one cycle.

    Returns:
        Placements (one per run) in the order made, then one verdict per lane that was looked at and still has runs. A
        lane that the cycle did not come to, because ``max_placements`` was reached, has none.
    """
    return _Cycle(snapshot, now, limits).run()


class _Cycle:
    def __init__(self, snapshot: Snapshot, now: datetime, limits: Limits) -> None:
        self.snapshot = snapshot
        self.now = now
        self.limits = limits
        self.yard = Yard(snapshot.clusters)
        self.tree = QueueTree(snapshot.queues, self.yard.whole())
        self.cursor: dict[str, int] = {}
        self.placed: list[Placed] = []
        self.placements: list[Decision] = []
        self.waiting: dict[str, Waiting] = {}
        self.rejected: list[Decision] = []

    def run(self) -> list[Decision]:
        lanes = self._sort_out()
        self._honour(lanes)
        self._serve(lanes)
        taken = sum(1 for waiting in self.waiting.values() if waiting.reservation is not None)
        grant(
            list(self.waiting.values()),
            self.placed,
            now=self.now,
            after=self.limits.reservation_after,
            most=self.limits.max_reservations - taken,
        )
        return [*self.placements, *self.rejected, *self._verdicts()]

    def _sort_out(self) -> dict[str, list[Lane]]:
        """Return the lanes by queue that may place, and give the others their verdict."""
        lanes: dict[str, list[Lane]] = {}
        for lane in sorted(self.snapshot.pending.lanes.values(), key=lambda lane: lane.order[0]):
            node = self.tree.nodes.get(lane.queue_id)
            if node is None:
                self._reject(lane, because(Code.NO_SUCH_QUEUE, queue=lane.queue_id))
            elif (wrong := malformed(lane.shape)) is not None:
                self._reject(lane, wrong)
            elif (closed := self.tree.closed(node)) is not None:
                self._wait(lane, (because(Code.QUEUE_CLOSED, queue=closed.state.id),))
            elif self._policy(lane, node) is None:
                self._wait(lane, (because(Code.UNKNOWN_POLICY, policy=lane.policy or node.state.policy),))
            else:
                lanes.setdefault(lane.queue_id, []).append(lane)
        return lanes

    def _policy(self, lane: Lane, node: QueueNode) -> Policy | None:
        return self.limits.policies.get(lane.policy or node.state.policy)

    def _reject(self, lane: Lane, why: Reason) -> None:
        self.rejected.append(
            Decision(lane.order[0][2], Action.REJECT, lane.queue_id, lane.group, covers=len(lane), reasons=(why,))
        )

    def _wait(
        self,
        lane: Lane,
        reasons: tuple[Reason, ...],
        view: ShapeView | None = None,
        quota: QueueNode | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        at = self.cursor.get(lane.group, 0)
        self.waiting[lane.group] = Waiting(lane, at, lane.at(at), reasons, view, quota, reservation)

    def _honour(self, lanes: dict[str, list[Lane]]) -> None:
        """Offer the room to those it is kept for, the oldest reservation first, and keep it if it does not suffice yet."""
        open_lanes = {lane.group for of_queue in lanes.values() for lane in of_queue}
        for reservation in sorted(self.snapshot.reservations, key=lambda r: (r.since, r.run_id)):
            lane = self.snapshot.pending.lane_of(reservation.run_id)
            if lane is None or lane.group not in open_lanes or lane.group in self.waiting or self.cursor.get(lane.group):
                continue
            node = self.tree.nodes[lane.queue_id]
            if self._try(lane, node) or self.now - reservation.since >= self.limits.reservation_lapses:
                self.waiting.pop(lane.group, None)
                continue
            waiting = self.waiting[lane.group]
            if waiting.view is None:
                continue
            room = self.yard.room(reservation.cluster_id, reservation.pool)
            if room is not None and room.index in waiting.view.blocked and room.held_for is None:
                self.yard.hold(room, waiting.view.options[room.index][1], reservation.run_id)
            elif reservation.queue_node is not None and waiting.quota is not None:
                for _room, demand, _cost in waiting.view.options.values():
                    waiting.quota.hold(demand.charge)
                    break
            else:
                self.waiting.pop(lane.group)
                continue
            place = reservation.queue_node if room is None else room.label
            waiting.reasons = ranked((*waiting.reasons, because(Code.HOLDS_RESERVATION, place=place)))
            waiting.reservation = reservation

    def _serve(self, lanes: dict[str, list[Lane]]) -> None:
        heaps: dict[str, list[tuple[OrderKey, Lane]]] = {}
        for queue_id, of_queue in lanes.items():
            heap = [
                (lane.order[at], lane)
                for lane in of_queue
                if lane.group not in self.waiting and (at := self.cursor.get(lane.group, 0)) < len(lane)
            ]
            if heap:
                heapify(heap)
                heaps[queue_id] = heap
        self.tree.activate(heaps)
        while len(self.placements) < self.limits.max_placements and (node := self.tree.next()) is not None:
            heap = heaps[node.state.id]
            lane = heap[0][1]
            if self._try(lane, node):
                at = self.cursor[lane.group]
                if at < len(lane):
                    heapreplace(heap, (lane.order[at], lane))
                else:
                    heappop(heap)
            else:
                heappop(heap)
                if node.state.dequeue is Dequeue.STRICT:
                    self._wait_behind(heap)
            self.tree.served(node, more=bool(heap))

    def _wait_behind(self, heap: list[tuple[OrderKey, Lane]]) -> None:
        for _order, lane in heap:
            self._wait(lane, (because(Code.BEHIND),))
        heap.clear()

    def _try(self, lane: Lane, node: QueueNode) -> bool:
        """Place the lane's first run, or note why it waits."""
        policy = self._policy(lane, node)
        assert policy is not None
        view = self.yard.view(lane.shape, lane.tenant_id, policy)
        refused: tuple[QueueNode, Reason] | None = None
        asked: set[str | None] = set()
        for room, demand in view.candidates():
            if room.state.card_class in asked:
                continue
            short = self.tree.shortage(node, demand.charge)
            if short is None:
                self._place(lane, node, view, room, demand)
                return True
            asked.add(room.state.card_class)
            refused = refused or short
        if refused is None:
            # Nothing is free; whether quota would do, too, is part of the answer.
            refused = self._quota_of_any(node, view)
        reasons = view.reasons() if refused is None else (refused[1], *view.reasons())
        self._wait(lane, ranked(reasons), view, None if refused is None else refused[0])
        return False

    def _quota_of_any(self, node: QueueNode, view: ShapeView) -> tuple[QueueNode, Reason] | None:
        first: tuple[QueueNode, Reason] | None = None
        for _room, demand, _cost in view.options.values():
            short = self.tree.shortage(node, demand.charge)
            if short is None:
                return None
            first = first or short
        return first

    def _place(self, lane: Lane, node: QueueNode, view: ShapeView, room: PoolRoom, demand: Demand) -> None:
        at = self.cursor.get(lane.group, 0)
        run: PendingRun = lane.at(at)
        explanation: dict[str, object] = {
            "policy": view.policy.name,
            "scores": view.scores(self.limits.top_scores),
            "rejected": view.rejected(),
        }
        self.placements.append(
            Decision(
                run.run_id,
                Action.PLACE,
                lane.queue_id,
                lane.group,
                cluster_id=room.cluster.state.id,
                pool=room.state.name,
                card_class=room.state.card_class if lane.shape.centi_cards else None,
                charge=demand.charge,
                explanation=explanation,
            )
        )
        self.placed.append(Placed(run.submitted_at, room.index, demand.charge, node))
        self.yard.take(room, demand)
        self.tree.take(node, demand.charge)
        self.cursor[lane.group] = at + 1

    def _verdicts(self) -> list[Decision]:
        by_queue: dict[str, list[Waiting]] = {}
        for waiting in self.waiting.values():
            by_queue.setdefault(waiting.lane.queue_id, []).append(waiting)
        found: list[Decision] = []
        for queue_id, of_queue in sorted(by_queue.items()):
            of_queue.sort(key=lambda waiting: waiting.head.order)
            for waiting in of_queue:
                ahead = ahead_of(waiting.head.order, of_queue)
                lane, view = waiting.lane, waiting.view
                explanation: dict[str, object] = {}
                if view is not None:
                    view.refresh()
                    explanation = {
                        "policy": view.policy.name,
                        "scores": view.scores(self.limits.top_scores),
                        "rejected": view.rejected(),
                    }
                reasons = waiting.reasons
                if ahead is not None and ahead.runs:
                    reasons = ranked((*reasons, because(Code.BEHIND, runs=ahead.runs, centi_cards=ahead.centi_cards)))
                found.append(
                    Decision(
                        waiting.head.run_id,
                        Action.WAIT,
                        queue_id,
                        lane.group,
                        covers=len(lane) - waiting.at,
                        reasons=reasons,
                        explanation=explanation,
                        position=None if ahead is None else ahead.runs + 1,
                        ahead=ahead,
                        eta_seconds=eta_seconds(lane.shape, queue_id, ahead, self.snapshot.drain_per_hour),
                        reservation=waiting.reservation,
                    )
                )
        return found
