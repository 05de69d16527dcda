"""An AWS account for tests: moto's server as a process of its own, on loopback, with a queue whose jobs really run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx

REGION = "eu-central-1"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
"""Credentials that mean nothing anywhere."""
BUCKET = "tessera-runs"
QUEUE = "tessera"
SPOT_QUEUE = "tessera-spot"
DEFINITION = "science"
TRUST = '{"Version": "2012-10-17", "Statement": []}'


class Account:
    """The account, and rough hands.

    Attributes:
        url: of all its services.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and make bucket, environments, queues and a job definition."""
        environment = {**os.environ, **KEYS, "TZ": "UTC", "AWS_DEFAULT_REGION": REGION}
        environment.pop("INITIAL_NO_AUTH_ACTION_COUNT", None)
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.aws.server", str(self.port), str(self.folder)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[2],
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.url}/moto-api/data.json")
                break
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        self.set_up()

    def stop(self) -> None:
        """End the server and with it all jobs."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)

    def client(self, service: str) -> Any:
        """Return a client of an administrator."""
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing"
        )

    def ask(self, what: str, **asked: Any) -> Any:
        """Ask the double for something (tests/aws/server.py)."""
        answer = httpx.post(f"{self.url}/double/{what}", json=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def set_up(self) -> None:
        """Make what an operator makes."""
        self.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        iam = self.client("iam")
        service = iam.create_role(RoleName="batch", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        iam.create_role(RoleName="node", AssumeRolePolicyDocument=TRUST)
        instance = iam.create_instance_profile(InstanceProfileName="node")["InstanceProfile"]["Arn"]
        iam.add_role_to_instance_profile(InstanceProfileName="node", RoleName="node")
        ec2 = self.client("ec2")
        network = ec2.describe_subnets()["Subnets"][0]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        made = {}
        for name, kind, types in (
            ("plain", "EC2", ["c5.xlarge", "c5.4xlarge"]),
            ("cards", "EC2", ["g4dn.12xlarge", "g5.12xlarge"]),
            ("cheap", "SPOT", ["m5.2xlarge"]),
        ):
            resources = {
                "type": kind,
                "minvCpus": 0,
                "maxvCpus": 96,
                "instanceTypes": types,
                "subnets": [network["SubnetId"]],
                "securityGroupIds": [group],
                "instanceRole": instance,
            }
            if kind == "SPOT":
                resources |= {"bidPercentage": 100, "spotIamFleetRole": service}
            made[name] = self.client("batch").create_compute_environment(
                computeEnvironmentName=name, type="MANAGED", state="ENABLED", serviceRole=service, computeResources=resources
            )["computeEnvironmentArn"]
        for queue, names in ((QUEUE, ["plain", "cards"]), (SPOT_QUEUE, ["cheap"])):
            order = [{"order": index, "computeEnvironment": made[name]} for index, name in enumerate(names)]
            self.client("batch").create_job_queue(jobQueueName=queue, state="ENABLED", priority=1, computeEnvironmentOrder=order)
        self.define(DEFINITION)

    def define(self, name: str, **properties: Any) -> None:
        """Register a job definition."""
        sizes = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "1024"}]
        container = {"image": "tessera.test/science:1", "command": ["true"], "resourceRequirements": sizes, **properties}
        self.client("batch").register_job_definition(jobDefinitionName=name, type="container", containerProperties=container)

    def output(self, job_id: str) -> str:
        """Return what a job's container printed."""
        return (self.folder / f"{job_id}.log").read_text(errors="replace")


@contextlib.contextmanager
def credentials(keys: Mapping[str, str] = KEYS) -> Iterator[None]:
    """Give this process (and Proxies that it starts) credentials, and none of this machine's own."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update({**keys, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(before)
