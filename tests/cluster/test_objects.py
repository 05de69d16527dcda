"""Our objects of Volcano, checked by a real API server against schemas of the fields that we use."""

from __future__ import annotations

import base64
import json

import pytest

from tessera_hub.proxy.drivers.kubernetes import KubernetesOptions, objects
from tests.proxy.conftest import LeaseMaker, make_lease
from volcano_client import (
    COMMANDS,
    JOBS,
    POD_GROUPS,
    QUEUES,
    ClusterApiError,
    Collection,
    Features,
    Task,
    Transport,
    command,
    detect,
    job,
    pod_group,
    queue,
)
from volcano_client.objects import Named, Owner

__all__ = ["make_lease"]
TEMPLATE = {"spec": {"containers": [{"name": "main", "image": "x"}], "restartPolicy": "Never"}}


def test_a_cluster_without_volcano_has_none_of_its_features(transport: Transport) -> None:
    assert detect(transport) == Features()


def test_the_features_are_those_of_the_schemas(defined: Transport) -> None:
    found = detect(defined)
    assert found.jobs
    assert found.floor
    assert not found.network_topology


def test_the_api_server_takes_every_object_we_build(defined: Transport, namespace: str) -> None:
    owner = Owner("v1", "Secret", "tessera-1", "3f0c1c39-64f5-4c3c-9d0d-8f3f4fb1b0a1")
    named = Named("gang", namespace, {"tessera.io/run": "1"}, {"note": "two"}, owner)
    tasks = [Task("master", 1, TEMPLATE, policies=[("TaskCompleted", "CompleteJob")]), Task("worker", 4, TEMPLATE, minimum=2)]
    gang = job(named, tasks, queue="q", plugins={"pytorch": ["--master=master"], "svc": []}, policies=[("PodFailed", "AbortJob")])
    assert gang["spec"]["minAvailable"] == 3
    Collection(defined, JOBS).check(gang)
    Collection(defined, POD_GROUPS).check(pod_group(Named("gang", namespace), minimum=3, resources={"cpu": "3"}))
    sizes = {"capability": {"nvidia.com/gpu": "8"}, "deserved": {"cpu": "4"}, "guarantee": {"memory": "1Gi"}}
    Collection(defined, QUEUES).check(queue(Named("research"), **sizes, parent="root", priority=3))
    target = Owner(JOBS.api_version, JOBS.kind, "gang", owner.uid)
    Collection(defined, COMMANDS).check(command(Named("stop", namespace), "AbortJob", target, reason="cancel"))


def test_a_field_that_nobody_has_is_refused(defined: Transport, namespace: str) -> None:
    wrong = job(Named("gang", namespace), [Task("main", 1, TEMPLATE)])
    wrong["spec"]["minAvailble"] = 1
    with pytest.raises(ClusterApiError) as told:
        Collection(defined, JOBS).check(wrong)
    assert told.value.status == 400
    assert "minAvailble" in told.value.message


def test_an_object_is_made_once_however_often_it_is_asked_for(defined: Transport, namespace: str) -> None:
    collection = Collection(defined, JOBS)
    wanted = job(Named("one", namespace), [Task("main", 1, TEMPLATE)])
    first, made = collection.create_or_get(wanted)
    again, made_again = collection.create_or_get(wanted)
    assert (made, made_again) == (True, False)
    assert again["metadata"]["uid"] == first["metadata"]["uid"]
    collection.delete("one", namespace, uid="00000000-0000-0000-0000-000000000000")
    assert collection.get("one", namespace) is not None, "another object of that name was meant"
    collection.delete("one", namespace, uid=first["metadata"]["uid"])
    assert collection.get("one", namespace) is None


def test_the_api_server_takes_a_run_in_both_forms(defined: Transport, namespace: str, make_lease: LeaseMaker) -> None:
    lease, _source = make_lease(
        "print(1)", lifecycle={"max_run_seconds": 60}, secrets={"PASS": "db"}, variables={"MINE": "$(HOME)"}
    )
    options = KubernetesOptions(cpu_limits=True, pull_secret="mine")
    secret = objects.lease_secret(lease, options, namespace)
    secret["metadata"]["uid"] = "3f0c1c39-64f5-4c3c-9d0d-8f3f4fb1b0a1"
    cards = {"nvidia.com/gpu": "1"}
    template = objects.pod_template(lease, options, "x:1", "code", cards, None)
    Collection(defined, objects.PLAIN_JOBS).check(objects.plain_job(lease, options, secret, template))
    Collection(defined, objects.VOLCANO_JOBS).check(objects.volcano_job(lease, options, secret, template))
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "x", "namespace": namespace}}
    checked = Collection(defined, objects.PODS).check(pod)
    main = checked["spec"]["containers"][0]
    assert main["resources"]["limits"] == {"cpu": "100m", "memory": "537Mi", "nvidia.com/gpu": "1"}
    assert {"name": "MINE", "value": "$$(HOME)"} in main["env"]
    assert {volume["name"] for volume in checked["spec"]["volumes"]} == {"run", "code", "lease", "order"}
    assert "lease" not in {mount["name"] for mount in main["volumeMounts"]}


def test_the_api_server_takes_a_run_of_several_pods_in_both_forms(
    defined: Transport, namespace: str, make_lease: LeaseMaker
) -> None:
    lease, _source = make_lease("print(1)", kind="training", framework="pytorch", roles=[{"replicas": 3}])
    options = KubernetesOptions()
    secret = objects.lease_secret(lease, options, namespace)
    secret["metadata"]["uid"] = "3f0c1c39-64f5-4c3c-9d0d-8f3f4fb1b0a1"
    plain = objects.plain_job(lease, options, secret, objects.pod_template(lease, options, "x:1", "code", {}, None))
    checked = Collection(defined, objects.PLAIN_JOBS).check(plain)["spec"]
    assert (checked["completionMode"], checked["completions"], checked["parallelism"]) == ("Indexed", 3, 3)
    names = Collection(defined, objects.SERVICES).check(objects.peers_service(lease, options, secret))
    assert checked["template"]["spec"]["subdomain"] == names["metadata"]["name"]
    assert names["spec"]["selector"].items() <= checked["template"]["metadata"]["labels"].items()
    template = objects.pod_template(lease, options, "x:1", "code", {}, None, scheduler="volcano")
    gang = objects.volcano_job(lease, options, secret, template)
    Collection(defined, objects.VOLCANO_JOBS).check(gang)
    assert (gang["spec"]["minAvailable"], list(gang["spec"]["plugins"])) == (3, ["svc"])
    assert template["metadata"]["annotations"]["volcano.sh/preemptable"] == "false", "Volcano takes it for true"
    [task] = gang["spec"]["tasks"]
    assert (task["replicas"], task["minAvailable"]) == (3, 3)
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "x", "namespace": namespace}}
    Collection(defined, objects.PODS).check(pod)


def test_a_lease_comes_out_of_its_record_as_it_went_in(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("print(1)", files={"data/more": b"x"}, name="模型 $(x)", labels={"a b": "c\nd"})
    secret = objects.lease_secret(lease, KubernetesOptions(service_url="http://hub/services/tessera"), "n")
    found = objects.lease_of(secret)
    assert found == objects.stored_lease(lease)
    assert found.spec.name == lease.spec.name
    assert [file.path for file in found.spec.inputs.files] == ["main.py"]
    told = json.loads(base64.b64decode(secret["data"]["courier.json"]))
    assert told["url"] == "http://hub/services/tessera/api/v1"
    assert not [value for value in secret["metadata"]["labels"].values() if "模型" in value]
