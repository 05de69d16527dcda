"""The watch on a real API server: nothing is missed, nothing is told twice, whatever happens to its stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.machine import Machine
from volcano_client import ClusterApiError, Collection, Kind, Mirror, Transport
from volcano_client.watching import Change

MAPS = Kind("v1", "ConfigMap", "configmaps")


def settings(name: str, namespace: str, value: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"value": value}}


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Followed:
    """A mirror of a namespace's config maps on a connection of its own, with what it was told."""

    def __init__(self, cluster: Machine, namespace: str, watch_seconds: int = 290) -> None:
        self.transport = Transport.from_kubeconfig(cluster.kubeconfig)
        self.told: list[tuple[str, str]] = []
        self.lists = 0
        self.mirror = Mirror(
            self.transport,
            MAPS,
            namespace=namespace,
            fields="metadata.name!=kube-root-ca.crt",
            changed=self._take,
            watch_seconds=watch_seconds,
        )
        self.mirror.start()
        assert self.mirror.wait_synced(20)

    def _take(self, change: Change) -> None:
        if change.what == "SYNCED":
            self.lists += 1
        else:
            self.told.append((change.what, change.document["metadata"]["name"]))

    def values(self) -> dict[str, str]:
        return {found["metadata"]["name"]: found["data"]["value"] for found in self.mirror.all()}

    def close(self) -> None:
        self.mirror.stop()
        self.transport.close()
        self.mirror.join(10)


def test_the_mirror_shows_what_is_made_changed_and_deleted(cluster: Machine, transport: Transport, namespace: str) -> None:
    maps = Collection(transport, MAPS)
    maps.create_or_get(settings("before", namespace, "1"))
    followed = Followed(cluster, namespace)
    try:
        assert followed.values() == {"before": "1"}
        maps.create_or_get(settings("new", namespace, "1"))
        maps.patch("before", {"data": {"value": "2"}}, namespace)
        until(lambda: followed.values() == {"before": "2", "new": "1"})
        maps.delete("before", namespace)
        until(lambda: followed.values() == {"new": "1"})
        assert followed.told == [("SET", "before"), ("SET", "new"), ("SET", "before"), ("GONE", "before")]
    finally:
        followed.close()
    assert not any(thread.name == "mirror-configmaps" for thread in threading.enumerate()), "closing ends the thread"


def test_a_stream_that_ends_loses_and_repeats_nothing(cluster: Machine, transport: Transport, namespace: str) -> None:
    maps = Collection(transport, MAPS)
    followed = Followed(cluster, namespace, watch_seconds=1)
    try:
        for number in range(20):  # over several streams, some of them without any event
            maps.create_or_get(settings(f"m{number}", namespace, "1"))
            time.sleep(0.15)
        time.sleep(2.5)
        maps.create_or_get(settings("last", namespace, "1"))
        until(lambda: "last" in followed.values())
        assert followed.told == [("SET", f"m{number}") for number in range(20)] + [("SET", "last")]
    finally:
        followed.close()


def test_after_a_restart_of_the_api_server_the_picture_is_true(cluster: Machine, transport: Transport, namespace: str) -> None:
    maps = Collection(transport, MAPS)
    for name in ("stays", "goes"):
        maps.create_or_get(settings(name, namespace, "1"))
    followed = Followed(cluster, namespace)
    try:
        for part in ("scheduler", "controllers", "apiserver"):
            cluster.stop_part(part)
        until(lambda: followed.mirror.trouble is not None)
        cluster.start_apiserver()
        maps.delete("goes", namespace)
        maps.create_or_get(settings("comes", namespace, "1"))
        until(lambda: followed.values() == {"stays": "1", "comes": "1"}, 40)
        assert followed.mirror.trouble is None
        assert followed.told.count(("SET", "stays")) == 1, "what did not change is not told again"
        assert ("GONE", "goes") in followed.told
    finally:
        followed.close()


def test_after_a_cut_that_missed_nothing_the_picture_is_known_to_be_true(cluster: Machine, namespace: str) -> None:
    """Nothing changes here, so no event says it."""
    transport = Transport.from_kubeconfig(cluster.kubeconfig)
    real, cut = transport.lines, threading.Event()

    def refused_once(path: str, query: Any, silence: float) -> Any:
        if not cut.is_set():
            cut.set()
            raise ClusterApiError(429, "TooManyRequests", "later")
        return real(path, query, silence)

    transport.lines = refused_once  # type: ignore[method-assign]
    mirror = Mirror(transport, MAPS, namespace=namespace)
    mirror.start()
    try:
        until(lambda: mirror.trouble is not None)
        until(lambda: mirror.trouble is None, 20)
    finally:
        mirror.stop()
        transport.close()
        mirror.join(10)


def test_a_version_that_is_too_old_leads_to_a_new_list(cluster: Machine, transport: Transport, namespace: str) -> None:
    """The server answers 410 to a version it does not have any more; only the difference is told."""
    maps = Collection(transport, MAPS)
    maps.create_or_get(settings("kept", namespace, "1"))
    followed = Followed(cluster, namespace, watch_seconds=1)
    try:
        real, refused = followed.transport.lines, threading.Event()

        def expired(path: str, query: Any, silence: float) -> Any:
            if not refused.is_set():
                refused.set()
                return real(path, {**query, "resourceVersion": "1"}, silence)
            return real(path, query, silence)

        followed.transport.lines = expired  # type: ignore[method-assign]
        until(refused.is_set)
        maps.create_or_get(settings("more", namespace, "1"))
        until(lambda: "more" in followed.values())
        assert followed.lists == 2
        assert sorted(set(followed.told)) == [("SET", "kept"), ("SET", "more")]
    finally:
        followed.close()


def test_whoever_may_not_is_told_so(cluster: Machine, namespace: str) -> None:
    """A refusal is an error with the server's reason, and the mirror shows it instead of an empty picture."""
    nobody = cluster.home / "nobody.kubeconfig"
    nobody.write_text(str(cluster.kubeconfig_for("not-a-token")).replace("'", '"'))
    other = Transport.from_kubeconfig(nobody)
    mirror = Mirror(other, MAPS, namespace=namespace)
    mirror.start()
    try:
        until(lambda: mirror.trouble is not None)
        assert isinstance(mirror.trouble, ClusterApiError)
        assert mirror.trouble.status == 401
        assert not mirror.wait_synced(0.1)
    finally:
        mirror.stop()
        other.close()
        mirror.join(10)
