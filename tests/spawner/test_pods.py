"""Workspaces as pods of a real cluster, by a real hub and service: journey, refusals, cancels, restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx
import pytest

from tessera_hub.client import TesseraClient
from tessera_hub.demo import token_of
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE
from tests.browser.running import until
from tests.cluster.machine import Machine
from tests.spawner.jupyter import Jupyter
from tests.spawner.podcentre import PATIENCE_SECONDS, PodCentre, pod_centre
from tests.spawner.test_failures import answers, spawns
from tests.spawner.workspaces import call, ended, nothing_is_held, started

pytestmark = [pytest.mark.timeout(280), pytest.mark.root]


@pytest.fixture(scope="module")
def pods(cluster: Machine) -> Iterator[PodCentre]:
    with pod_centre(cluster) as centre:
        yield centre


@pytest.fixture
def ben(pods: PodCentre) -> Iterator[TesseraClient]:
    """Ben, whose workspaces end with the test."""
    with pods.hub.client("ben") as client:
        yield client
        for handle in client.tasks(kind="workspace", mine=True):
            if not handle.task.phase.final:
                handle.cancel()
                ended(handle)
        until(lambda: not pods.pods(), 30)


READER = """
import os, pathlib
top = pathlib.Path(os.environ["TESSERA_DATASETS"])
print("read", sorted(os.listdir(top)), (top / "birds" / "data.txt").read_text())
(top / "birds" / "mine.txt").write_text("x")
"""


def ask(
    client: TesseraClient, server: str = "", environment: str = "default", cards: Any = None, datasets: Sequence[str] = ()
) -> httpx.Response:
    resources = {"cpu_millicores": 200, "memory_mib": 512} | ({"cards": cards} if cards else {})
    spec = {"name": server or "workspace", "kind": "workspace", "environment": environment, "roles": [{"resources": resources}]}
    spec["datasets"] = list(datasets)
    return call(client, "POST", "workspaces", {"server_name": server, "spec": spec})


def start_directly(pods: PodCentre, options: Any = None) -> httpx.Response:
    """Start ben's server past the form."""
    headers = {"Authorization": f"token {token_of(pods.hub.here, 'ben', ['servers!user'])}"}
    body = {"user_options": options} if options else None
    return httpx.post(f"{pods.hub.url}/hub/api/users/ben/server", json=body, headers=headers, timeout=30)


def lab(pods: PodCentre, method: str, path: str, server: str = "", **values: Any) -> httpx.Response:
    """Call ben's JupyterLab through the front door."""
    headers = {"Authorization": f"token {token_of(pods.hub.here, 'ben', ['access:servers!user'])}"}
    base = f"{pods.hub.url}/user/ben/{server + '/' if server else ''}"
    return httpx.request(method, base + path, headers=headers, timeout=30, **values)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_from_the_reservation_to_lab_and_back_with_one_bill(pods: PodCentre, ben: TesseraClient) -> None:
    handle = started(ben, ask(ben))
    [pod] = pods.pods()
    run = str(handle.task.runs[-1].id)
    assert pod["metadata"]["name"] == f"tessera-{run}"
    assert {key: pod["metadata"]["labels"][key] for key in (RUN, SITE)} == {RUN: run, SITE: pods.site}
    page = lab(pods, "GET", "lab")
    assert (page.status_code, "jupyter-config-data" in page.text) == (200, True)
    assert "@tessera/lab" in page.text, "the Lab extension is in the image"
    # The extension's server part reaches the service from inside the pod, with the server's own token.
    mine = lab(pods, "GET", "tessera/api/v1/tasks")
    assert (mine.status_code, str(handle.id) in mine.text) == (200, True), mine.text
    assert {item["name"] for item in lab(pods, "GET", "api/contents").json()["content"]} >= {"examples"}
    time.sleep(3)
    handle.cancel()
    done = ended(handle)
    assert [reason.code for reason in done.reasons] == ["workspace.stopped"]
    until(lambda: not pods.pods(), 20)
    began = moment(
        next(s for s in pod["status"]["containerStatuses"] if s["name"] == "notebook")["state"]["running"]["startedAt"]
    )
    assert done.started_at is not None
    assert abs(done.started_at.timestamp() - began) <= 1, "paid from the container's start, not from the fetching of its image"
    bill = handle.bill()
    assert {line.dimension: line.unit_seconds for line in bill.lines} == {"cpu": 200 * bill.seconds, "memory": 512 * bill.seconds}
    assert nothing_is_held(ben)


def test_the_pod_is_closed_and_only_the_notebook_has_limits_to_speak_of(pods: PodCentre, ben: TesseraClient) -> None:
    started(ben, ask(ben, datasets=["birds"]))
    spec = pods.pods()[0]["spec"]
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for container in (*spec["containers"], *spec["initContainers"]):
        context = {**spec["securityContext"], **container["securityContext"]}
        assert (context["runAsNonRoot"], context["allowPrivilegeEscalation"]) == (True, False)
        assert context["capabilities"] == {"drop": ["ALL"]}
    [notebook] = spec["containers"]
    assert notebook["resources"] == {
        "requests": {"cpu": "200m", "memory": str(512 << 20)},
        "limits": {"memory": str((512 + 51 + 256) << 20)},
    }
    token = token_of(pods.hub.here, "ben", ["access:servers!user"])
    said = Jupyter(f"{pods.hub.url}/user/ben/", token).printed(READER)
    assert "read ['birds'] 21" in said, said
    assert "Read-only file system" in said, "although the rights of its files would let it write"


def test_a_data_set_that_the_hub_does_not_have_refuses_the_start_with_its_name(pods: PodCentre, ben: TesseraClient) -> None:
    done = ended(ben.task(ask(ben, datasets=["birds", "elsewhere"]).json()["id"]))
    assert (done.phase, [reason.code for reason in done.reasons]) == ("FAILED", ["dataset.unknown"])
    assert done.reasons[0].detail["dataset"] == "elsewhere"
    assert pods.pods() == []
    assert nothing_is_held(ben)


def test_what_is_in_the_home_is_there_at_the_next_start_and_in_a_named_server(pods: PodCentre, ben: TesseraClient) -> None:
    handle = started(ben, ask(ben))
    note = {"type": "file", "format": "text", "content": "kept"}
    assert lab(pods, "PUT", "api/contents/note.txt", json=note).status_code == 201
    handle.cancel()
    ended(handle)
    started(ben, ask(ben))
    second = started(ben, ask(ben, "second"))
    for server in ("", "second"):
        assert lab(pods, "GET", "api/contents/note.txt", server).json()["content"] == "kept"
    assert len(pods.pods()) == 2
    assert len(pods.claims()) == 1
    second.cancel()
    ended(second)
    assert lab(pods, "GET", "api/status").status_code == 200


def test_a_server_outlives_the_hub_and_is_stopped_by_the_next_one(pods: PodCentre, ben: TesseraClient) -> None:
    handle = started(ben, ask(ben))
    uid = pods.pods()[0]["metadata"]["uid"]
    killed = pods.hub.child("jupyterhub")
    killed.kill()
    until(lambda: answers(pods.hub) and pods.hub.child("jupyterhub").pid != killed.pid, 60)
    until(lambda: lab(pods, "GET", "api/status").status_code == 200, 30)
    assert [pod["metadata"]["uid"] for pod in pods.pods()] == [uid]
    assert handle.refresh().phase == "RUNNING"
    handle.cancel()
    assert [reason.code for reason in ended(handle).reasons] == ["workspace.stopped"]
    until(lambda: not pods.pods(), 20)


def test_a_hub_that_dies_while_a_pod_starts_leaves_none_that_nobody_accounts_for(pods: PodCentre, ben: TesseraClient) -> None:
    handle = ben.task(ask(ben).json()["id"])
    until(pods.pods, 30)
    killed = pods.hub.child("jupyterhub")
    killed.kill()
    until(lambda: answers(pods.hub) and pods.hub.child("jupyterhub").pid != killed.pid, 60)
    settled = until(lambda: (t := handle.refresh()).phase not in ("STARTING", "RESERVED", "DISPATCHED") and t, 120)
    if settled.phase.final:
        until(lambda: not pods.pods(), 30)
        assert nothing_is_held(ben)
    else:
        assert settled.phase == "RUNNING"
        assert len(pods.pods()) == 1
        assert lab(pods, "GET", "api/status").status_code == 200


def test_an_image_that_is_not_there_ends_the_start_with_its_reason_and_gives_back_what_was_held(
    pods: PodCentre, ben: TesseraClient
) -> None:
    before = spawns(pods.hub)
    handle = ben.task(ask(ben, environment="absent").json()["id"])
    waits = until(lambda: (t := handle.refresh()).phase == "STARTING" and t.reasons and t, 40)
    assert [reason.code for reason in waits.reasons] == ["cluster.image"], "it is said while one waits, too"
    done = ended(handle, PATIENCE_SECONDS + 40)
    assert (done.phase, [reason.code for reason in done.reasons]) == ("FAILED", ["cluster.image"])
    headers = {"Authorization": f"token {ben.connection.token}", "Accept-Language": "zh-CN"}
    told = httpx.get(f"{ben.connection.api}/tasks/{handle.id}", headers=headers, timeout=20).json()["reasons"][0]["message"]
    assert told == "集群无法取得该环境的镜像。"
    until(lambda: not pods.pods(), 20)
    assert nothing_is_held(ben)
    assert handle.bill().amount_micro == 0
    after = spawns(pods.hub)
    assert after.get(("failure", "cluster.image"), 0) == before.get(("failure", "cluster.image"), 0) + 1
    assert {k: v for k, v in after.items() if k[0] == "error"} == {k: v for k, v in before.items() if k[0] == "error"}


def test_a_cancel_while_the_pod_is_pending_leaves_no_pod_and_no_reservation(pods: PodCentre, ben: TesseraClient) -> None:
    handle = ben.task(ask(ben, environment="absent").json()["id"])
    until(pods.pods, 30)
    handle.cancel()
    assert ended(handle, 30).phase == "CANCELLED"
    until(lambda: not pods.pods(), 20)
    assert nothing_is_held(ben)
    time.sleep(3)
    assert pods.pods() == []


def test_who_waits_sees_what_the_cluster_does_in_his_language(pods: PodCentre, ben: TesseraClient) -> None:
    ask(ben)
    token = token_of(pods.hub.here, "ben", ["read:servers!user"])
    headers = {"Authorization": f"token {token}", "Accept-Language": "zh-CN", "Accept": "text/event-stream"}
    url = f"{pods.hub.url}/hub/api/users/ben/server/progress"
    until(lambda: httpx.get(f"{pods.hub.url}/hub/api/users/ben", headers=headers, timeout=20).json()["servers"], 30)
    with httpx.stream("GET", url, headers=headers, timeout=60) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    messages = [event["message"] for event in events]
    assert events[-1]["ready"]
    assert "已找到节点。" in messages, messages
    assert "镜像" in "".join(messages), messages


def test_a_start_without_a_reservation_or_with_wrong_options_is_refused(pods: PodCentre, ben: TesseraClient) -> None:
    answer = start_directly(pods)
    assert answer.status_code == 409, answer.text
    assert "/services/tessera/workspaces/new" in answer.json()["message"]
    wrong = start_directly(pods, {"share": 33, "compute": "share"})
    assert (wrong.status_code, "share" in wrong.json()["message"]) == (400, True), wrong.text
    assert start_directly(pods, {"profile": "root", "extra_pod_config": {"hostPID": True}}).status_code in (400, 409)
    assert pods.pods() == []


def test_more_than_the_quota_is_refused(pods: PodCentre, ben: TesseraClient) -> None:
    [root] = [q for q in pods.operator.get("/queues").json() if q["path"] == "vision"]
    url = f"/queues/{root['id']}"
    assert pods.operator.put(url, json={"quota": {"memory": {"limit": 256}}}).status_code == 200
    try:
        refused = until(lambda: (a := ask(ben)).status_code != 201 and a, 10)
        assert (refused.status_code, refused.json()["code"]) == (422, "never.exceeds_limit"), refused.text
    finally:
        pods.operator.put(url, json={"quota": {"memory": {"limit": None}}})
    assert pods.pods() == []
    until(lambda: ask(ben).status_code == 201, 10)  # limits are believed for a moment


def test_an_environment_of_another_group_is_refused(pods: PodCentre, ben: TesseraClient) -> None:
    asked = ask(ben, environment="closed")
    assert (asked.status_code, asked.json()["code"]) == (403, "environment.not_allowed"), asked.text
    with pods.hub.client("eve") as eve:
        handle = started(eve, ask(eve, environment="closed"))
        handle.cancel()
        ended(handle)


def test_cards_are_the_notebooks_alone_and_not_those_of_the_next_start(pods: PodCentre, ben: TesseraClient) -> None:
    with pods.cards(2):
        handle = started(ben, ask(ben, cards={"mode": "whole", "centi_cards": 200, "max_cards": 2, "model": "A100-80G"}))
        [pod] = pods.pods()
        [notebook] = pod["spec"]["containers"]
        assert notebook["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert all("nvidia.com/gpu" not in c["resources"]["limits"] for c in pod["spec"]["initContainers"])
        handle.cancel()
        ended(handle)
        started(ben, ask(ben))
        [notebook] = pods.pods()[0]["spec"]["containers"]
        assert "nvidia.com/gpu" not in notebook["resources"]["limits"]
        assert "affinity" not in pods.pods()[0]["spec"]


def test_a_pod_that_is_deleted_behind_the_hubs_back_ends_the_workspace(pods: PodCentre, ben: TesseraClient) -> None:
    handle = started(ben, ask(ben))
    pods.delete_pod(pods.pods()[0]["metadata"]["name"])
    done = ended(handle)
    assert (done.phase, [reason.code for reason in done.reasons]) == ("FAILED", ["cluster.cancelled"])
    assert nothing_is_held(ben)


def test_a_server_that_ends_itself_is_stopped_and_its_pod_removed(pods: PodCentre, ben: TesseraClient) -> None:
    handle = started(ben, ask(ben))
    assert lab(pods, "POST", "api/shutdown").status_code == 200
    done = ended(handle)
    assert (done.phase, [reason.code for reason in done.reasons]) == ("SUCCEEDED", ["workspace.stopped"])
    until(lambda: not pods.pods(), 20)


def test_no_log_holds_a_token_of_a_server(pods: PodCentre, ben: TesseraClient) -> None:
    started(ben, ask(ben))
    [notebook] = pods.pods()[0]["spec"]["containers"]
    token = next(variable["value"] for variable in notebook["env"] if variable["name"] == "JUPYTERHUB_API_TOKEN")
    for path in (pods.folder / "logs").glob("*.log"):
        assert token not in path.read_text(errors="replace"), path
