"""The queue tree as Volcano's queues at a real API server, with the rights of the Proxy's manifest and nothing more.

The kinds are those of ``definitions.py``: no Volcano looks at them, so what its controllers would write is written by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tessera_hub.cards import CATALOGUE
from tessera_hub.proxy.drivers.kubernetes.cards import NVIDIA, Device
from tessera_hub.proxy.drivers.kubernetes.mirror import QueueMirror
from tessera_hub.proxy.drivers.kubernetes.queues import queue_name
from tessera_hub.schemas.protocol import DesiredQueue
from tessera_hub.schemas.resources import CardMode
from tests.cluster.machine import Machine
from tests.cluster.rights import Rights, refused
from tests.proxy.test_kubernetes_queues import desired
from volcano_client import COMMANDS, QUEUES, Collection, Transport, command, queue
from volcano_client.objects import Named, Owner

CARDS = [Device(NVIDIA, CATALOGUE["A100-80G"], CardMode.WHOLE, 4, 100, 81920)]


class QueueRights(Rights):
    """The Proxy's account at a cluster with Volcano's kinds."""

    def spec(self, path: str) -> dict[str, object] | None:
        """Return the spec of a path's queue."""
        found = Collection(self.admin, QUEUES).get(queue_name(path, self.prefix))
        return None if found is None else found["spec"]

    def close(self) -> None:
        for found in Collection(self.admin, QUEUES).list():
            Collection(self.admin, QUEUES).delete(found["metadata"]["name"])
        super().close()


@pytest.fixture(scope="module")
def rights(cluster: Machine, defined: Transport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueRights]:
    found = QueueRights(cluster, defined, tmp_path_factory.mktemp("rights"))
    yield found
    found.close()


@pytest.fixture
async def mirror(rights: QueueRights) -> AsyncIterator[QueueMirror]:
    found = QueueMirror(rights.mine, rights.prefix, lambda: CARDS)
    found.start()
    yield found
    await found.stop()


TREE: list[DesiredQueue] = [
    desired("red", limit={"cpu": 8000, "cards/A100-80G": 400}, deserved={"cpu": 4000}),
    desired("red/a", limit={"cpu": 3000}, deserved={"cpu": 3000}),
    desired("red/b", priority=70),
]


async def test_the_tree_is_made_and_runs_find_their_queue(rights: QueueRights, mirror: QueueMirror) -> None:
    assert mirror.name_of("red/a") is None
    await mirror.apply(TREE)
    assert rights.spec("red") == {
        "weight": 1,
        "reclaimable": True,
        "priority": 50,
        "capability": {"cpu": "8000m", NVIDIA: "4"},
        "deserved": {"cpu": "4000m"},
    }
    assert (rights.spec("red/b") or {})["parent"] == queue_name("red", rights.prefix)
    assert mirror.name_of("red/a") == queue_name("red/a", rights.prefix)
    assert mirror.name_of("red") == queue_name("red/.", rights.prefix), "jobs run in leaves"
    assert mirror.name_of("blue") is None


async def test_sizes_follow_and_what_people_changed_is_put_right(rights: QueueRights, mirror: QueueMirror) -> None:
    by_hand = {"spec": {"capability": {"cpu": "1", "memory": "5Gi"}}}
    Collection(rights.admin, QUEUES).patch(queue_name("red/a", rights.prefix), by_hand)
    await mirror.apply([TREE[0].model_copy(update={"limit": {"cpu": 2000}, "deserved": {}}), desired("red/a"), TREE[2]])
    assert (rights.spec("red") or {})["capability"] == {"cpu": "2000m"}
    assert (rights.spec("red/a") or {}).get("capability") in (None, {})
    await mirror.apply(TREE)
    assert (rights.spec("red") or {})["capability"] == {"cpu": "8000m", NVIDIA: "4"}
    assert (rights.spec("red/a") or {})["capability"] == {"cpu": "3000m"}


async def test_a_queue_that_is_gone_is_closed_first_and_deleted_when_it_is_empty(
    rights: QueueRights, mirror: QueueMirror
) -> None:
    await mirror.apply(TREE)
    await mirror.apply(TREE[:2])
    name = queue_name("red/b", rights.prefix)
    order = Collection(rights.admin, COMMANDS).get(f"{name}-close", f"{rights.prefix}-system")
    assert order is not None
    assert (order["action"], order["target"]["name"]) == ("CloseQueue", name)
    assert rights.spec("red/b") is not None
    for state, there in (("Closing", True), ("Closed", False)):
        path = QUEUES.path(None, f"{name}/status")
        body = {"status": {"state": state}}
        await asyncio.to_thread(rights.admin.call, "PATCH", path, body=body, content_type="application/merge-patch+json")
        await mirror.apply(TREE[:2])
        assert (rights.spec("red/b") is not None) is there, state


async def test_queues_of_others_stay_as_they_are(rights: QueueRights, mirror: QueueMirror) -> None:
    others = Collection(rights.admin, QUEUES)
    foreign, _new = others.create_or_get(queue(Named("default"), weight=7))
    target = Owner(QUEUES.api_version, "Queue", "default", foreign["metadata"]["uid"])
    close = command(Named("x", f"{rights.prefix}-system"), "CloseQueue", target)
    assert refused(lambda: Collection(rights.mine, QUEUES).patch("default", {"spec": {"weight": 1}}))
    assert refused(lambda: Collection(rights.mine, QUEUES).delete("default"))
    assert refused(lambda: Collection(rights.mine, QUEUES).create_or_get(queue(Named("other"))))
    assert refused(lambda: Collection(rights.mine, COMMANDS).create_or_get(close))
    await mirror.apply([])
    assert others.get("default") == foreign
