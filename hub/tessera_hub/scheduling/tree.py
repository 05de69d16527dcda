"""The queue tree inside one cycle: quota taken along a path, and the fair order between queues."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from tessera_hub.scheduling.reasons import Code, Reason, because
from tessera_hub.scheduling.snapshot import Amounts, QueueState

FairKey: TypeAlias = tuple[int, int, bytes, str]
"""Priority (greater first), share in parts per billion (smaller first), a stable hash, the id."""

BILLION = 1_000_000_000


class QueueNode:
    """A queue with what this cycle has taken from it so far. ``path`` goes from the root down to it."""

    __slots__ = ("_tie", "heap", "held", "path", "share", "state", "used")

    def __init__(self, state: QueueState) -> None:
        self.state = state
        self.used: dict[str, int] = dict(state.used)
        self.held: dict[str, int] = {}
        self.path: tuple[QueueNode, ...] = ()
        self._tie = blake2b(state.id.encode(), digest_size=8).digest()
        self.share = 0
        self.heap: list[tuple[FairKey, QueueNode | None]] = []

    @property
    def fair_key(self) -> FairKey:
        """Where the queue stands among its siblings."""
        return (-self.state.priority, self.share, self._tie, self.state.id)

    def measure(self, whole: Amounts) -> None:
        """Set the share: the greatest used ÷ deserved over the dimensions.

        Where nothing is said to be deserved, the limit counts, and without a limit the whole of all clusters.
        """
        self.share = max((self._share_of(dimension, whole) for dimension in self.used), default=0)

    def take(self, charge: Amounts, whole: Amounts) -> None:
        """Take a charge; the share can only grow."""
        for dimension, amount in charge.items():
            self.used[dimension] = self.used.get(dimension, 0) + amount
            self.share = max(self.share, self._share_of(dimension, whole))

    def _share_of(self, dimension: str, whole: Amounts) -> int:
        used = self.used[dimension]
        if used <= 0:
            return 0
        deserved = self.state.deserved.get(dimension)
        if deserved is None:
            deserved = self.state.limit.get(dimension)
        if deserved is None:
            deserved = whole.get(dimension, 0)
        return used * BILLION // max(deserved, 1)

    def shortage(self, charge: Amounts) -> Reason | None:
        """Return which limit of this node a charge would pass, None if none."""
        limit = self.state.limit
        if not limit:
            return None
        for dimension, asked in charge.items():
            most = limit.get(dimension)
            if most is None:
                continue
            used = self.used.get(dimension, 0)
            if used + asked > most:
                code = Code.QUOTA_WAITING if asked <= most else Code.EXCEEDS_LIMIT
                return because(code, queue=self.state.id, dimension=dimension, used=used, limit=most, asked=asked)
            if used + asked + self.held.get(dimension, 0) > most:
                return because(Code.QUOTA_HELD, queue=self.state.id, dimension=dimension)
        return None

    def hold(self, charge: Amounts) -> None:
        """Keep what is left of this node's quota, up to ``charge``, for a run that waits for it."""
        for dimension, asked in charge.items():
            most = self.state.limit.get(dimension)
            if most is not None:
                self.held[dimension] = min(asked, max(most - self.used.get(dimension, 0), 0))


class QueueTree:
    """All queues of a snapshot, by id. Queues whose parents form a ring or are missing are left out (``broken``)."""

    def __init__(self, queues: Iterable[QueueState], whole: Amounts) -> None:
        self.whole = whole
        self.nodes = {queue.id: QueueNode(queue) for queue in queues}
        self._top: list[tuple[FairKey, QueueNode | None]] = []
        broken = [queue_id for queue_id, node in self.nodes.items() if not self._find_path(node)]
        for queue_id in broken:
            del self.nodes[queue_id]
        for node in self.nodes.values():
            node.measure(whole)

    def _find_path(self, node: QueueNode) -> bool:
        path = [node]
        while (parent := path[-1].state.parent) is not None:
            above = self.nodes.get(parent)
            if above is None or above in path:
                return False
            path.append(above)
        node.path = tuple(reversed(path))
        return True

    def closed(self, node: QueueNode) -> QueueNode | None:
        """Return the closed queue on the path, None if all may place."""
        return next((above for above in node.path if above.state.state == "closed"), None)

    def shortage(self, node: QueueNode, charge: Amounts) -> tuple[QueueNode, Reason] | None:
        """Return the first node of the path that a charge does not fit in, and why."""
        for above in node.path:
            reason = above.shortage(charge)
            if reason is not None:
                return above, reason
        return None

    def take(self, node: QueueNode, charge: Amounts) -> None:
        """Take a charge from a queue and each of its ancestors."""
        for above in node.path:
            above.take(charge, self.whole)

    def activate(self, queue_ids: Iterable[str]) -> None:
        """Open the fair order over the queues that have runs to offer."""
        children: dict[str | None, dict[str, QueueNode]] = {}
        own: set[str] = set()
        for queue_id in queue_ids:
            own.add(queue_id)
            for node in self.nodes[queue_id].path:
                children.setdefault(node.state.parent, {})[node.state.id] = node
        for queue_id in own:
            node = self.nodes[queue_id]
            node.heap.append((node.fair_key, None))
        for parent, below in children.items():
            entries: list[tuple[FairKey, QueueNode | None]] = [(node.fair_key, node) for node in below.values()]
            if parent is None:
                self._top = entries
            else:
                self.nodes[parent].heap.extend(entries)
        heapify(self._top)
        for below in children.values():
            for node in below.values():
                heapify(node.heap)

    def next(self) -> QueueNode | None:
        """Return the queue to serve next: from the root down, each time the child with the least share."""
        if not self._top:
            return None
        node = self._top[0][1]
        assert node is not None
        while True:
            below = node.heap[0][1]
            if below is None:
                return node
            node = below

    def served(self, node: QueueNode, *, more: bool) -> None:
        """Put the queue that :meth:`next` returned back in its new place, or out of the order if it has no more to offer."""
        if more:
            heapreplace(node.heap, (node.fair_key, None))
        else:
            heappop(node.heap)
        for depth in range(len(node.path) - 1, -1, -1):
            below = node.path[depth]
            heap = node.path[depth - 1].heap if depth else self._top
            if below.heap:
                heapreplace(heap, (below.fair_key, below))
            else:
                heappop(heap)
