"""Tasks through the real service and the real Proxy to pods of the real cluster, and what a person gets back."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes.objects import PLAIN_JOBS, PODS, SECRETS
from tessera_hub.proxy.drivers.kubernetes.options import RUN
from tests.cluster.centre import ClusterProxy
from tests.cluster.test_ranks import MEETING
from tests.proxy.conformance import notebook
from tests.proxy.test_preemption import TRAINING, order
from tests.service import script_spec, upload
from volcano_client import Collection

SLEEPER = "import time\nprint('began', flush=True)\ntime.sleep({seconds})\nprint('done', flush=True)\n"
SIZE = {"cpu_millicores": 200, "memory_mib": 256}


def spec_of(proxy: ClusterProxy, text: str, **fields: Any) -> dict[str, Any]:
    fields = {"roles": [{"resources": SIZE}], **fields}
    return script_spec(*upload(proxy.api, text.encode()), **fields)


def submit(proxy: ClusterProxy, text: str, **fields: Any) -> str:
    answer = proxy.api.post("/tasks", json=spec_of(proxy, text, **fields))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def bill(proxy: ClusterProxy, task_id: str) -> dict[str, Any]:
    answer = proxy.api.get(f"/tasks/{task_id}/bill")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def objects_of(proxy: ClusterProxy) -> list[str]:
    """What is left of runs."""
    namespace = proxy.tenant_namespace()
    return [
        f"{kind.kind}/{found['metadata']['name']}"
        for kind in (SECRETS, PLAIN_JOBS, PODS)
        for found in Collection(proxy.admin, kind).list(namespace, labels=RUN)
    ]


def test_a_notebook_comes_back_executed_with_log_files_and_bill(centre_proxy: ClusterProxy) -> None:
    source = "import time, pathlib\nprint('six', 6 * 7)\npathlib.Path('made.txt').write_text('from a pod')\ntime.sleep(1)"
    sha, size = upload(centre_proxy.api, notebook(source).encode())
    fields = {"name": "nb", "kind": "notebook", "entry": "work/train.ipynb"}
    spec = script_spec(sha, size, **fields, roles=[{"resources": {"cpu_millicores": 500, "memory_mib": 1024}}])
    answer = centre_proxy.api.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    task_id = answer.json()["id"]
    task = centre_proxy.wait(task_id, seconds=120)
    assert (task["phase"], task["reasons"]) == ("SUCCEEDED", [])
    assert task["progress"]["cells_done"] == task["progress"]["cells_total"] == 1
    executed = centre_proxy.api.get(f"/tasks/{task_id}/notebook").json()
    assert executed["cells"][0]["outputs"][0]["text"] == ["six 42\n"]
    outputs = {file["path"]: file for file in centre_proxy.api.get(f"/tasks/{task_id}/outputs").json()}
    assert set(outputs) == {"train.ipynb", "work/made.txt"}
    lines = {line["dimension"]: line for line in bill(centre_proxy, task_id)["lines"]}
    assert lines["cpu"]["unit_seconds"] == 500 * lines["memory"]["unit_seconds"] // 1024
    assert lines["cpu"]["unit_seconds"] >= 500


def test_a_script_runs_once_and_leaves_nothing_behind(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, "import os\nprint('as', os.getuid(), os.environ['MINE'])", variables={"MINE": "$(HOME) $HOME"})
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert "as 1000 $(HOME) $HOME\n" in centre_proxy.output(task_id)
    deadline = time.monotonic() + 30
    while left := objects_of(centre_proxy):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_two_ranks_are_one_task_with_a_log_each_and_one_bill(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, MEETING, roles=[{"replicas": 2, "resources": SIZE}])
    task = centre_proxy.wait(task_id, seconds=120)
    assert (task["phase"], task["reasons"]) == ("SUCCEEDED", [])
    assert "sum 10 of 2\n" in centre_proxy.output(task_id)
    outputs = {file["path"] for file in centre_proxy.api.get(f"/tasks/{task_id}/outputs").json()}
    assert outputs == {"sum.txt", "logs/part-1.log", "parts/1/from.txt"}
    lines = {line["dimension"]: line["unit_seconds"] for line in bill(centre_proxy, task_id)["lines"]}
    assert lines["memory"] % (2 * SIZE["memory_mib"]) == 0
    assert lines["cpu"] * 256 == lines["memory"] * 200


def test_the_log_comes_while_it_runs_and_a_cancel_is_obeyed(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=120), lifecycle={"grace_seconds": 3})
    centre_proxy.wait_for_output(task_id, "began\n")
    assert centre_proxy.wait(task_id, "RUNNING")["phase"] == "RUNNING"
    assert centre_proxy.api.post(f"/tasks/{task_id}/cancel").is_success
    task = centre_proxy.wait(task_id)
    assert task["phase"] == "CANCELLED"
    assert [line["dimension"] for line in bill(centre_proxy, task_id)["lines"]] == ["cpu", "memory"]


def test_a_killed_proxy_finds_its_runs_again(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=6))
    centre_proxy.wait_for_output(task_id, "began\n")
    centre_proxy.kill()
    time.sleep(1)
    centre_proxy.start()
    centre_proxy.wait_for_session()
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert centre_proxy.output(task_id).count("began") == 1
    assert "done" in centre_proxy.output(task_id)


def test_an_end_while_no_proxy_looked_is_told_later(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=3))
    centre_proxy.wait_for_output(task_id, "began\n")
    centre_proxy.kill()
    time.sleep(8)
    namespace = centre_proxy.tenant_namespace()
    for job in Collection(centre_proxy.admin, PLAIN_JOBS).list(namespace, labels=RUN):
        Collection(centre_proxy.admin, PLAIN_JOBS).delete(job["metadata"]["name"], namespace)
    centre_proxy.start()
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    seconds = {line["dimension"]: line["unit_seconds"] for line in bill(centre_proxy, task_id)["lines"]}["cpu"] // 200
    assert 3 <= seconds <= 6, "billed by the engine's times, not until it was seen"


def test_a_pod_deleted_behind_our_back_is_told_and_billed_to_its_end(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=120), lifecycle={"grace_seconds": 2})
    centre_proxy.wait_for_output(task_id, "began\n")
    namespace = centre_proxy.tenant_namespace()
    for pod in Collection(centre_proxy.admin, PODS).list(namespace, labels=RUN):
        Collection(centre_proxy.admin, PODS).delete(pod["metadata"]["name"], namespace)
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "cluster.cancelled")
    assert bill(centre_proxy, task_id)["lines"]


def test_a_job_deleted_behind_our_back_is_told(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=120), lifecycle={"grace_seconds": 2})
    centre_proxy.wait_for_output(task_id, "began\n")
    namespace = centre_proxy.tenant_namespace()
    for job in Collection(centre_proxy.admin, PLAIN_JOBS).list(namespace, labels=RUN):
        Collection(centre_proxy.admin, PLAIN_JOBS).delete(job["metadata"]["name"], namespace)
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "cluster.cancelled")


def test_the_network_between_pod_and_service_may_go_for_a_while(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=3))
    centre_proxy.wait_for_output(task_id, "began\n")
    centre_proxy.relay.cut()
    time.sleep(6)
    assert "done" not in centre_proxy.output(task_id)
    centre_proxy.relay.mend()
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert "done" in centre_proxy.output(task_id)
    seconds = {line["dimension"]: line["unit_seconds"] for line in bill(centre_proxy, task_id)["lines"]}["cpu"] // 200
    assert 3 <= seconds <= 6, "waiting to deliver is not billed"


def test_a_restart_of_kubelet_and_api_server_ends_nothing(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, SLEEPER.format(seconds=12))
    centre_proxy.wait_for_output(task_id, "began\n")
    machine = centre_proxy.cluster
    machine.stop_part("kubelet")
    for part in ("scheduler", "controllers", "apiserver"):
        machine.stop_part(part)
    time.sleep(2)
    machine.start_apiserver()
    machine.start_kubelet()
    task = centre_proxy.wait(task_id, seconds=90)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert centre_proxy.output(task_id).count("began") == 1


def test_the_token_of_a_run_is_not_to_be_had_by_its_code(centre_proxy: ClusterProxy) -> None:
    text = (
        "import os, pathlib\n"
        "found = []\n"
        "for top in ('/tessera-lease', '/var/run/secrets', '/run/secrets'):\n"
        "    found += [str(p) for p in pathlib.Path(top).rglob('*')]\n"
        "for pid in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try: found += [w for w in (pid/'cmdline').read_text().split('\\0') if 'deliver' in w]\n"
        "    except OSError: pass\n"
        "print('found', found, [k for k in os.environ if 'TOKEN' in k])\n"
        "os.symlink('/tessera-lease/courier.json', '../output/stolen')\n"
    )
    task_id = submit(centre_proxy, text)
    assert centre_proxy.wait(task_id)["phase"] == "SUCCEEDED"
    assert "found [] []" in centre_proxy.output(task_id)
    assert centre_proxy.api.get(f"/tasks/{task_id}/outputs").json() == []


@pytest.mark.parametrize("reference", ["../tessera-x", "tessera-0", "UPPER", ""])
def test_a_secret_that_is_none_is_refused_or_told(centre_proxy: ClusterProxy, reference: str) -> None:
    answer = centre_proxy.api.post("/tasks", json=spec_of(centre_proxy, "print(1)", secrets={"PASS": reference}))
    if answer.status_code != 201:
        assert answer.status_code == 422
        return
    task_id = answer.json()["id"]
    deadline = time.monotonic() + 60
    while (task := centre_proxy.task(task_id))["phase"] != "FAILED":
        if task["reasons"] and task["reasons"][0]["code"] == "secret.unknown":
            assert centre_proxy.api.post(f"/tasks/{task_id}/cancel").is_success
            centre_proxy.wait(task_id)
            return
        assert time.monotonic() < deadline, json.dumps(task)
        time.sleep(0.2)
    assert task["reasons"][0]["code"] == "secret.unknown"


def test_a_preempted_training_goes_on_in_another_pod_where_it_saved(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, TRAINING, lifecycle={"grace_seconds": 10})
    centre_proxy.wait_for_output(task_id, "epoch 3\n")
    order(centre_proxy.service, task_id, "preempt")
    centre_proxy.wait_for_output(task_id, "attempt 2", seconds=60)
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 2)
    first = centre_proxy.output(task_id).split("begin at ", 1)[1].split(" ", 1)[0]
    assert int(first) >= 3


def test_a_suspended_run_holds_still_and_goes_on(centre_proxy: ClusterProxy) -> None:
    text = "import time\nfor i in range(60):\n    print(i, flush=True)\n    time.sleep(0.1)"
    task_id = submit(centre_proxy, text)
    centre_proxy.wait_for_output(task_id, "3\n")
    centre_proxy.wait(task_id, "RUNNING")
    assert centre_proxy.api.post(f"/tasks/{task_id}/suspend").is_success
    centre_proxy.wait(task_id, "SUSPENDED")
    before = centre_proxy.output(task_id)
    time.sleep(2)
    assert centre_proxy.output(task_id) == before
    assert centre_proxy.api.post(f"/tasks/{task_id}/resume").is_success
    task = centre_proxy.wait(task_id)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert "59\n" in centre_proxy.output(task_id)
