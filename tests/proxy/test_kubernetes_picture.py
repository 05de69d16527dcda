"""What the driver knows of a large cluster without looking at all of it again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes import picture as module
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.picture import Picture
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tests.proxy.conftest import LeaseMaker
from volcano_client import Transport
from volcano_client.watching import Change


@pytest.fixture
def picture() -> Picture:
    from kubernetes import client

    return Picture(Transport(client.Configuration()), KubernetesOptions(prefix="t"), lambda: None)


def document(run: str, site: str = "t", **more: Any) -> dict[str, Any]:
    labels = {SITE: site, RUN: run}
    return {"metadata": {"name": f"p-{run}", "namespace": "n", "uid": run, "labels": labels}, "spec": {}, "status": {}, **more}


def test_the_runs_whose_pods_or_jobs_changed_are_told_once(picture: Picture) -> None:
    picture._take_pod(Change("SET", document("one")))
    picture._take_pod(Change("GONE", document("two")))
    picture._take_pod(Change("SET", document("others", site="another")))
    picture._wake(Change("SET", document("three")))
    picture._wake(Change("SYNCED", {}))
    assert picture.changed_runs() == {"one", "two", "three"}
    assert picture.changed_runs() == set()


def test_what_nodes_have_is_not_computed_for_every_question(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 105.0, 105.4, 106.0, 106.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    first = picture.pools()
    assert picture.pools() is first, "it took half a second and is kept for five"
    assert picture.pools() is first
    assert picture.pools() is not first


def test_a_pod_of_an_earlier_lease_is_not_taken_for_one_of_the_new(picture: Picture, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("x")
    record = Record(lease, "n", "tessera-x", "secret", datetime(2026, 11, 28, 12, 0, 5, tzinfo=UTC))

    def pod(name: str, job: str, at: str) -> dict[str, Any]:
        found = document(str(lease.run_id))
        found["metadata"] |= {"name": name, "uid": name, "creationTimestamp": at, "ownerReferences": [{"uid": job}]}
        return found

    picture._take_pod(Change("SET", pod("before", "job-1", "2026-11-28T12:00:00Z")))
    assert picture.pods(record) == []
    picture._take_pod(Change("SET", pod("now", "job-2", "2026-11-28T12:00:05Z")))
    for known in (None, "job-2", "tessera-x-job-2"):
        assert [found["metadata"]["name"] for found in picture.pods(replace(record, job_uid=known))] == ["now"]
