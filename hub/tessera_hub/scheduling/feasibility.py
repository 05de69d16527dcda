"""What can never fit is said at submit time, not by waiting for ever."""

from __future__ import annotations

from collections.abc import Mapping

from tessera_hub.scheduling.places import ShapeView, Yard
from tessera_hub.scheduling.policies import BUILTIN, Policy
from tessera_hub.scheduling.reasons import Code, Reason, because, ranked
from tessera_hub.scheduling.snapshot import CardMode, PendingRun, Shape, Snapshot
from tessera_hub.scheduling.tree import QueueNode, QueueTree


def malformed(shape: Shape) -> Reason | None:
    """Return why a shape asks for nothing sensible, None if it does: amounts are not negative and something is asked."""
    asked = 0
    for role in shape.roles:
        amounts = [role.cpu, role.memory]
        if role.cards is not None:
            amounts += [role.cards.count * role.cards.centi_cards, role.cards.memory_mib, role.cards.count]
            if role.cards.count and role.cards.centi_cards < 1 and role.cards.mode is not CardMode.WHOLE:
                return because(Code.EMPTY_REQUEST, role=role.name)
        if role.replicas < 1 or min(amounts) < 0:
            return because(Code.EMPTY_REQUEST, role=role.name)
        asked += sum(amounts)
    return None if asked else because(Code.EMPTY_REQUEST, role=None)


def never_fits(run: PendingRun, snapshot: Snapshot, policies: Mapping[str, Policy] = BUILTIN) -> tuple[Reason, ...]:
    """Return why a run can never be placed as queues and clusters are set up, ranked; empty if it can.

    What is used or free at the moment does not matter, and a cluster that cannot be reached, or has not reported yet what
    it has, counts as one that may take the run.
    """
    wrong = malformed(run.shape)
    if wrong is not None:
        return (wrong,)
    tree = QueueTree(snapshot.queues, {})
    node = tree.nodes.get(run.queue_id)
    if node is None:
        return (because(Code.NO_SUCH_QUEUE, queue=run.queue_id),)
    name = run.policy or node.state.policy
    policy = policies.get(name)
    if policy is None:
        return (because(Code.UNKNOWN_POLICY, policy=name),)
    if not snapshot.clusters:
        return ()
    view = ShapeView(run.shape, run.tenant_id, policy, Yard(snapshot.clusters))
    if not view.options:
        return view.reasons() if all(why.code.permanent for why in view.excluded.values()) else ()
    return _exceeds_everywhere(node, view)


def _exceeds_everywhere(node: QueueNode, view: ShapeView) -> tuple[Reason, ...]:
    found: list[Reason] = []
    for _room, demand, _cost in view.options.values():
        too_much = _exceeds(node, demand.charge)
        if too_much is None:
            return ()
        found.append(too_much)
    return ranked(found)


def _exceeds(node: QueueNode, charge: Mapping[str, int]) -> Reason | None:
    for above in node.path:
        for dimension, asked in charge.items():
            most = above.state.limit.get(dimension)
            if most is not None and asked > most:
                return because(Code.EXCEEDS_LIMIT, queue=above.state.id, dimension=dimension, limit=most, asked=asked)
    return None
