"""What a run is at AWS and how it is read back, as pure functions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import botocore.exceptions
import pytest

from tessera_hub.proxy.drivers.aws_batch.cloud import Cloud, cloud_error
from tessera_hub.proxy.drivers.aws_batch.instances import Environment, Use, instance_type_of, pools_of
from tessera_hub.proxy.drivers.aws_batch.jobs import FARGATE, Job, fault_of, requirements, submission
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.prices import hourly_of_product, prices_of, spot_hourly
from tessera_hub.proxy.drivers.aws_batch.reasons import start_failure
from tessera_hub.proxy.drivers.aws_batch.record import Record, parsed
from tessera_hub.proxy.drivers.aws_batch.standing import Seen, ended, living
from tessera_hub.proxy.drivers.aws_batch.store import Store
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.couriers import stored_lease
from tessera_hub.proxy.drivers.runrecords import Order
from tessera_hub.schemas.reasons import MAY_HAVE_BEGUN
from tests.aws.account import credentials
from tests.proxy.conftest import LeaseMaker

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
OPTIONS = AwsBatchOptions(queue="q", bucket="b", environments={"default": "science"})


def ms(seconds: int) -> int:
    return (int(AT.timestamp()) + seconds) * 1000


def job(status: str, **more: Any) -> Job:
    return Job.of({"jobId": "j-1", "status": status, "createdAt": ms(0), **more})


@pytest.fixture
def record(make_lease: LeaseMaker) -> Record:
    lease, _source = make_lease()
    return Record(lease, "q", AT, job_id="j-1")


# --- requests ---------------------------------------------------------------------------------------------------------


def test_nothing_that_a_person_writes_reaches_batch(make_lease: LeaseMaker) -> None:
    nasty = "$(hostile); Ref::inputfile `id`"
    lease, _source = make_lease(
        "print(1)",
        entry="Ref::a b.py",
        name=nasty[:60],
        variables={"MINE": nasty},
        labels={"l": nasty},
        parameters={"p": nasty},
    )
    request = submission(Record(lease, "q", AT), OPTIONS, "https://signed", fargate=False)
    text = json.dumps(request)
    for foreign in ("hostile", "Ref::", "MINE", "b.py", lease.owner, lease.lease_token, lease.run_token):
        assert foreign not in text
    assert request["containerOverrides"]["environment"] == [{"name": "TESSERA_COURIER", "value": "https://signed"}]
    assert request["retryStrategy"] == {"attempts": 1}


@pytest.mark.parametrize(("limit", "timeout"), [(None, None), (1, 606), (7200, 7805)])
def test_batch_s_own_timeout_stands_behind_the_runner_s(make_lease: LeaseMaker, limit: int | None, timeout: int | None) -> None:
    lease, _source = make_lease(lifecycle={"max_run_seconds": limit, "grace_seconds": 5})
    request = submission(Record(lease, "q", AT), OPTIONS, "u", fargate=False)
    assert request.get("timeout") == (None if timeout is None else {"attemptDurationSeconds": timeout})


def test_instances_give_whole_processors_and_whole_cards(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease(resources={"cpu_millicores": 1500, "memory_mib": 1000, "cards": {"centi_cards": 200}})
    assert requirements(lease, fargate=False) == [
        {"type": "VCPU", "value": "2"},
        {"type": "MEMORY", "value": "1868"},
        {"type": "GPU", "value": "2"},
    ]
    lease, _source = make_lease(resources={"cards": {"mode": "vcuda", "centi_cards": 25}})
    with pytest.raises(DriverError) as refused:
        requirements(lease, fargate=False)
    assert refused.value.code == "never.no_card_mode"


@pytest.mark.parametrize(
    ("cpu", "memory", "found"),
    [(100, 100, ("0.25", "1024")), (300, 256, ("0.5", "2048")), (250, 3000, ("0.5", "4096")), (4000, 9000, ("4", "11264"))],
)
def test_fargate_gets_one_of_its_sizes(make_lease: LeaseMaker, cpu: int, memory: int, found: tuple[str, str]) -> None:
    lease, _source = make_lease(resources={"cpu_millicores": cpu, "memory_mib": memory})
    vcpu, size = (entry["value"] for entry in requirements(lease, fargate=True))
    assert (vcpu, size) == found
    assert int(size) in dict(FARGATE)[round(float(vcpu) * 1000)]


def test_what_fargate_cannot_give_is_refused(make_lease: LeaseMaker) -> None:
    for resources, code in (
        ({"cpu_millicores": 17_000}, "never.too_large"),
        ({"memory_mib": 200_000}, "never.too_large"),
        ({"cards": {"centi_cards": 100}}, "never.no_card_class"),
    ):
        lease, _source = make_lease(resources=resources)
        with pytest.raises(DriverError) as refused:
            requirements(lease, fargate=True)
        assert refused.value.code == code


@pytest.mark.parametrize(
    "container",
    [
        {"privileged": True},
        {"jobRoleArn": "arn:aws:iam::1:role/x"},
        {"user": "1000"},
        {"volumes": [{"name": "v", "host": {"sourcePath": "/"}}]},
    ],
)
def test_a_job_definition_that_would_give_user_code_more_is_not_used(container: dict[str, Any]) -> None:
    sound = {"type": "container", "containerProperties": {"image": "x", "user": "root", "volumes": [{"name": "v", "host": {}}]}}
    assert fault_of(sound) is None
    assert fault_of({"type": "container", "containerProperties": {"image": "x", **container}}) is not None
    assert fault_of({"type": "multinode"}) is not None


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(record: Record, make_lease: LeaseMaker) -> None:
    seen = Seen(
        job("SUCCEEDED", startedAt=ms(5), stoppedAt=ms(9)),
        {"phase": "ended", "report": {"exit": {"state": "succeeded", "exit_code": 0}}},
    )
    full = replace(
        record,
        lease=stored_lease(record.lease),
        asked_at=AT,
        started_at=AT,
        order=Order("cancel", 3, AT),
        suspends=(("suspended", AT),),
        end=ended(record, seen, AT),
    )
    assert parsed(json.loads(json.dumps(full.document()))) == full
    for broken in ({}, {"schema": 1}, full.document() | {"lease": {}}, full.document() | {"order": {"why": "x"}}):
        with pytest.raises(ValueError):
            parsed(broken)


# --- standing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "why", "phase", "code"),
    [
        ("SUBMITTED", "", "PENDING", "cluster.waiting"),
        ("RUNNABLE", "", "PENDING", "cluster.queued"),
        ("RUNNABLE", "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill", "PENDING", "capacity.no_free_node"),
        ("RUNNABLE", "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - CE(s)", "PENDING", "quota.native"),
        ("RUNNABLE", "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job", "PENDING", "never.too_large"),
        ("RUNNABLE", "MISCONFIGURATION:EC2_INSTANCE_CONFIGURATION_UNSUPPORTED", "PENDING", "cluster.held"),
        ("STARTING", "", "STARTING", "cluster.starting"),
        ("RUNNING", "", "STARTING", "cluster.starting"),
    ],
)
def test_a_job_that_has_not_begun_says_why(record: Record, status: str, why: str, phase: str, code: str) -> None:
    run = living(record, Seen(job(status, statusReason=why)))
    assert run.reason is not None
    assert (run.phase, run.reason.code, run.meter) == (phase, code, ())


@pytest.mark.parametrize(
    ("container", "code"),
    [
        ("CannotPullContainerError: pull access denied", "cluster.image"),
        ("ResourceInitializationError: failed to mount", "cluster.volume"),
        ("", "cluster.start_failed"),
    ],
)
def test_a_container_that_never_ran_says_why(container: str, code: str) -> None:
    assert start_failure(job("FAILED", container={"reason": container})).code == code


def end_of(record: Record, told: dict[str, Any], **more: Any) -> Any:
    return ended(record, Seen(job("FAILED", startedAt=ms(5), stoppedAt=ms(9), **more), told), AT).run


def test_only_a_host_that_is_gone_may_have_begun_a_program_unseen(record: Record) -> None:
    gone = end_of(record, {}, statusReason="Host EC2 (instance i-1) terminated.")
    nothing = end_of(record, {}, container={"exitCode": 79}, statusReason="Essential container in task exited")
    assert (gone.reason.detail, nothing.reason.detail) == ({MAY_HAVE_BEGUN: True}, {})


BEGAN: dict[str, Any] = {"phase": "began", "began_at": "2026-11-01T12:00:06+00:00"}


@pytest.mark.parametrize(
    ("told", "more", "phase", "code"),
    [
        ({}, {"statusReason": "Host EC2 (instance i-1) terminated."}, "QUEUED", "cluster.gave_back"),
        (
            {},
            {"container": {"exitCode": 79}, "statusReason": "Essential container in task exited"},
            "QUEUED",
            "cluster.gave_back",
        ),
        ({}, {"statusReason": "somebody wanted it so"}, "FAILED", "cluster.cancelled"),
        (BEGAN, {"statusReason": "Host EC2 (instance i-1) terminated."}, "PREEMPTED", "cluster.evicted"),
        (BEGAN, {"container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed"}}, "FAILED", "limit.memory"),
        (BEGAN, {"statusReason": "Job attempt duration exceeded timeout"}, "FAILED", "limit.time"),
        (BEGAN, {"statusReason": "somebody wanted it so", "container": {"exitCode": 143}}, "FAILED", "cluster.cancelled"),
        (BEGAN, {"statusReason": "Essential container in task exited", "container": {"exitCode": 1}}, "FAILED", "cluster.lost"),
    ],
)
def test_an_end_without_last_words_is_read_from_batch(
    record: Record, told: dict[str, Any], more: dict[str, Any], phase: str, code: str
) -> None:
    run = end_of(record, told, **more)
    assert (run.phase, run.reason.code) == (phase, code)
    assert [(fact.action, fact.effective_at) for fact in run.meter] == (
        [("START", ms(5) // 1000), ("STOP", ms(9) // 1000)] if told else []
    )


def test_a_job_that_batch_has_forgotten_is_billed_by_the_courier_s_clock(record: Record) -> None:
    report = {"exit": {"state": "succeeded", "exit_code": 0}, "finished_at": "2026-11-01T12:00:16+00:00"}
    run = ended(record, Seen(None, BEGAN | {"phase": "ended", "report": report}), AT).run
    assert (run.phase, run.exit_code) == ("SUCCEEDED", 0)
    assert [(fact.action, fact.evidence) for fact in run.meter] == [("START", "observed"), ("STOP", "observed")]
    assert run.meter[1].effective_at - run.meter[0].effective_at == 10


@pytest.mark.parametrize(
    "report", [[], "x", {"exit": 7}, {"exit": {"state": "rich"}}, {"notes": {"a": 1}, "checkpoint": -1, "finished_at": 9}]
)
def test_last_words_of_any_form_end_the_run(record: Record, report: Any) -> None:
    run = end_of(record, BEGAN | {"phase": "ended", "report": report, "progress": "?"}, container={"exitCode": 3})
    assert run.phase == "FAILED"


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [(None, "https://bucket.s3.eu-central-1.amazonaws.com/"), ("http://10.0.0.1:9", "http://10.0.0.1:9/bucket/")],
)
def test_signed_addresses_are_of_the_region_and_show_no_key(endpoint: str | None, host: str) -> None:
    options = AwsBatchOptions(queue="q", bucket="bucket", region="eu-central-1", endpoint_url=endpoint)
    with credentials({"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_EC2_METADATA_DISABLED": "true"}):
        store = Store(Cloud(options), options)
        run_id = uuid4()
        for kind, method in (("orders", "get"), ("told", "put")):
            address = store.signed(kind, run_id, method)
            assert address.startswith(f"{host}tessera/{kind}/{run_id}.json?")
            assert "X-Amz-SignedHeaders=host&" in address, "a plain client can use it"
            assert "hidden" not in address


# --- errors -----------------------------------------------------------------------------------------------------------


def client_error(code: str, status: int) -> Exception:
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "SubmitJob")


@pytest.mark.parametrize(
    ("error", "trouble", "code", "give_back"),
    [
        (client_error("TooManyRequestsException", 429), "throttled", "cluster.back_pressure", True),
        (client_error("SlowDown", 503), "throttled", "cluster.back_pressure", True),
        (client_error("UnrecognizedClientException", 403), "refused", "cluster.refused", True),
        (client_error("ExpiredTokenException", 400), "refused", "cluster.refused", True),
        (client_error("ServerException", 500), "unreachable", "cluster.unreachable", True),
        (client_error("ClientException", 400), "invalid", "cluster.start_failed", False),
        (botocore.exceptions.NoCredentialsError(), "refused", "cluster.refused", True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), "unreachable", "cluster.unreachable", True),
        (botocore.exceptions.NoRegionError(), "invalid", "cluster.start_failed", False),
    ],
)
def test_an_error_of_aws_says_whose_it_is(error: Exception, trouble: str, code: str, give_back: bool) -> None:
    found = cloud_error(error)
    assert (found.trouble, found.of_driver.code, found.of_driver.give_back) == (trouble, code, give_back)
    assert found.reason.code == (code if give_back else "cluster.unreachable"), "runs that are there already only wait"


# --- capacity and prices ----------------------------------------------------------------------------------------------


def described(name: str, vcpus: int, memory: int, gpu: tuple[str, int, int] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"InstanceType": name, "VCpuInfo": {"DefaultVCpus": vcpus}, "MemoryInfo": {"SizeInMiB": memory}}
    if gpu is not None:
        card = {"Name": gpu[0], "Manufacturer": "NVIDIA", "Count": gpu[1], "MemoryInfo": {"SizeInMiB": gpu[2]}}
        found["GpuInfo"] = {"Gpus": [card]}
    return found


TYPES = {
    kind.name: kind
    for kind in map(
        instance_type_of,
        (
            described("c5.xlarge", 4, 8192),
            described("c5.4xlarge", 16, 32768),
            described("p4d.24xlarge", 96, 1_179_648, ("A100", 8, 40960)),
            described("p3.2xlarge", 8, 62464, ("V100", 1, 16384)),
        ),
    )
}


def test_cards_are_known_by_model_and_memory() -> None:
    assert {kind.card.name for kind in TYPES.values() if kind.card} == {"A100-40G", "V100-16G"}


def pools(most: int, names: tuple[str, ...], use: Use) -> Any:
    environment = Environment("arn", "env", "EC2", most, names)
    return pools_of({"q": ["arn"]}, {"arn": environment}, TYPES, {"q": use})


def test_an_environment_is_as_large_as_it_may_become() -> None:
    (pool,) = pools(40, ("c5",), Use(3, 0, 1, 0))
    assert (pool.name, pool.card_class, pool.total) == ("env", None, {"cpu": 40_000, "memory": 81_920})
    assert pool.foreign == {"cpu": 1000}
    assert [(shape.count, shape.free_cpu) for shape in pool.shapes] == [(1, 5000), (2, 16_000)]
    assert pool.free["cpu"] == 37_000


def test_each_class_of_card_is_a_pool_and_processors_are_there_once() -> None:
    found = {pool.card_class: pool for pool in pools(192, ("p4d", "p3.2xlarge"), Use(4, 1, 4, 1))}
    assert set(found) == {"A100-40G", "V100-16G"}
    assert {pool.node_group for pool in found.values()} == {"env"}
    whole = found["A100-40G"]
    assert (whole.total["cards/A100-40G"], whole.free["cards/A100-40G"], whole.foreign["cards/A100-40G"]) == (1600, 1500, 100)
    assert whole.free["cpu"] == sum(shape.count * shape.free_cpu for shape in whole.shapes) == 188_000
    assert found["V100-16G"].total["cards/V100-16G"] == 2400


def test_a_type_that_is_larger_than_the_environment_is_no_room() -> None:
    assert pools(64, ("p4d",), Use(0, 0, 0, 0)) == []


def test_the_price_list_s_hourly_price_is_found() -> None:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": "0.1920000000"}}
    free = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0000000000"}}
    assert hourly_of_product({"terms": {"OnDemand": {"a": {"priceDimensions": {"x": free, "b": dimension}}}}}) == Decimal("0.192")
    assert hourly_of_product({"terms": {"Reserved": {}}}) is None


def test_the_spot_price_is_the_median_of_the_zones_newest() -> None:
    def entry(zone: str, hour: int, price: str, product: str = "Linux/UNIX") -> dict[str, Any]:
        at = AT.replace(hour=hour)
        return {
            "InstanceType": "c5.xlarge",
            "AvailabilityZone": zone,
            "Timestamp": at,
            "SpotPrice": price,
            "ProductDescription": product,
        }

    entries = [
        entry("a", 1, "9"),
        entry("a", 2, "0.3"),
        entry("b", 1, "0.1"),
        entry("c", 1, "0.2"),
        entry("c", 3, "7", "Windows"),
    ]
    assert spot_hourly(entries) == {"c5.xlarge": Decimal("0.2")}


def test_prices_are_whole_nano_units_rounded_up() -> None:
    hourly = {"c5.xlarge": Decimal("0.17"), "p4d.24xlarge": Decimal("32.77"), "unknown": Decimal(1)}
    found = prices_of(hourly, TYPES, Decimal("7.1"))
    # 0.17 $ / 4 vCPU * 7.1 = 0.30175 a core-hour; the cards get what 96 vCPU leave of the instance, (32.77 - 4.08) * 7.1 / 800.
    assert found == {"cpu": 301_750, "memory": 0, "cards/A100-40G": 254_623_750, "card_memory/A100-40G": 0}
    assert prices_of({"c5.xlarge": Decimal("0.0000001")}, TYPES, Decimal(1))["cpu"] == 1
    assert prices_of({}, TYPES, Decimal(1)) == {}
