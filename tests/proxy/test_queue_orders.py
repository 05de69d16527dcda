"""The queue tree goes to a Proxy whose engine has queues: once, and again when it has changed."""

from __future__ import annotations

import httpx

from tests.proxy.by_hand import ProxyByHand
from tests.service import script_spec, upload


def queue_of(api: httpx.Client, path: str) -> dict[str, object]:
    found: dict[str, object] = next(queue for queue in api.get("/queues").json() if queue["path"] == path)
    return found


def test_a_proxy_without_queues_is_told_none(proxy: ProxyByHand) -> None:
    proxy.begin()
    assert proxy.sync()["queues"] is None


def test_the_tree_is_told_until_it_is_known(proxy: ProxyByHand, ada: httpx.Client, operator: httpx.Client) -> None:
    red = queue_of(ada, "red")
    proxy.begin("queues")
    told = proxy.sync()["queues"]
    assert told["hash"] == proxy.sync()["queues"]["hash"], "an answer may be lost"
    assert proxy.sync(queues_hash=told["hash"])["queues"] is None
    by_path = {queue["path"]: queue for queue in told["queues"]}
    assert by_path["red"]["parent"] is None
    assert by_path["red/default"]["parent"] == "red"
    quota = {"cpu": {"limit": 4000, "deserved": 1000}, "memory": {"limit": None, "guarantee": 512}}
    assert operator.put(f"/queues/{red['id']}", json={"quota": quota, "state": "draining"}).status_code == 200
    again = proxy.sync(queues_hash=told["hash"])["queues"]
    changed = next(queue for queue in again["queues"] if queue["path"] == "red")
    assert changed["limit"] == {"cpu": 4000}
    assert changed["deserved"] == {"cpu": 1000}
    assert changed["guarantee"] == {"memory": 512}
    assert changed["state"] == "draining"
    assert proxy.sync(queues_hash=again["hash"])["queues"] is None
    operator.put(f"/queues/{red['id']}", json={"quota": {"cpu": {}, "memory": {}}, "state": "open"})


def test_only_tenants_that_may_use_the_cluster(proxy: ProxyByHand, ada: httpx.Client, operator: httpx.Client) -> None:
    queue_of(ada, "red")
    proxy.begin("queues")
    assert operator.patch("/clusters/local", json={"tenants": ["nobody"]}).status_code == 200
    assert proxy.sync()["queues"]["queues"] == []
    assert operator.patch("/clusters/local", json={"tenants": ["red"]}).status_code == 200
    assert {queue["path"].partition("/")[0] for queue in proxy.sync()["queues"]["queues"]} == {"red"}


def test_a_lease_names_its_queue(proxy: ProxyByHand, ada: httpx.Client) -> None:
    proxy.begin()
    task = ada.post("/tasks", json=script_spec(*upload(ada, b"print('hello')\n"))).json()
    assert proxy.lease(task["id"])["queue"] == "red/default"
