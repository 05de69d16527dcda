"""Calls to AWS: which of its errors mean what, and how often they are repeated.

Everything but the submit is repeated by botocore, in its adaptive mode, which slows down for an account that is throttled. A
submit has no token that would make a repeat harmless, so it is sent once; whoever gets no answer looks the job up by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar

import botocore.exceptions
from boto3.session import Session
from botocore.config import Config

from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.reasons import Reason

Trouble = Literal["unreachable", "throttled", "refused", "invalid"]
DESCRIBED_AT_ONCE: Final = 100
CALL_SECONDS: Final = 20
LOG_GROUP: Final = "/aws/batch/job"
"""Where Batch's ``awslogs`` driver writes unless a job definition says otherwise."""
THROTTLED: Final = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
)
_EXTENDED: Final = frozenset({"RequestThrottled", "RequestThrottledException", "RequestTimeTooSkewed"})
CODES: Final[dict[Trouble, str]] = {
    "unreachable": "cluster.unreachable",
    "throttled": "cluster.back_pressure",
    "refused": "cluster.refused",
    "invalid": "cluster.start_failed",
}
"""What went wrong → reason code."""

T = TypeVar("T")


class CloudError(Exception):
    """A call did not do what it should.

    Attributes:
        trouble: ``throttled`` and ``refused`` (credentials or rights) and ``invalid`` certainly changed nothing; of
            ``unreachable`` nobody knows.
    """

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble: Trouble = trouble

    @property
    def reason(self) -> Reason:
        """Why runs wait, for a person: what AWS does not understand now ends no run that is there already."""
        return reason_of("cluster.unreachable" if self.trouble == "invalid" else CODES[self.trouble], str(self)[:1000])

    @property
    def of_driver(self) -> DriverError:
        """What a caller of the driver is told: only an invalid request is the run's own fault."""
        return DriverError(CODES[self.trouble], str(self)[:1000], give_back=self.trouble != "invalid")


def cloud_error(error: Exception) -> CloudError:
    """Return what an exception of botocore means. No text of it has a secret: botocore names codes, operations and addresses."""
    if isinstance(error, botocore.exceptions.ClientError):
        told, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(told.get("Code", ""))
        if code in THROTTLED | _EXTENDED or status == 429:
            return CloudError("throttled", f"AWS asks for fewer calls: {error}")
        if status in (401, 403) or code in ("InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException", "AuthFailure"):
            return CloudError("refused", f"AWS does not let these credentials do it: {error}")
        return CloudError("unreachable" if status >= 500 else "invalid", f"AWS: {error}")
    missing = (
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.CredentialRetrievalError,
        botocore.exceptions.ProfileNotFound,
        botocore.exceptions.TokenRetrievalError,
        botocore.exceptions.SSOError,
    )
    if isinstance(error, missing):
        return CloudError("refused", f"no usable credentials for AWS: {error}")
    if isinstance(error, botocore.exceptions.ParamValidationError | botocore.exceptions.NoRegionError):
        return CloudError("invalid", str(error))
    return CloudError("unreachable", f"AWS cannot be reached: {error}")


def calling(call: Callable[[], T]) -> T:
    """Call AWS.

    Raises:
        CloudError: it did not do it.
    """
    try:
        return call()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise cloud_error(error) from error


async def in_thread(call: Callable[[], T]) -> T:
    """Call AWS without stopping the loop.

    Raises:
        CloudError: it did not do it.
    """
    return await asyncio.to_thread(calling, call)


class Cloud:
    """The clients of one account and region.

    Raises:
        CloudError: there is no such profile, or no region is known.
    """

    def __init__(self, options: AwsBatchOptions) -> None:
        session = calling(lambda: Session(profile_name=options.profile, region_name=options.region))
        patient = Config(
            retries={"mode": "adaptive", "max_attempts": 5},
            connect_timeout=CALL_SECONDS,
            read_timeout=CALL_SECONDS,
            max_pool_connections=16,
        )
        once = Config(
            retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=CALL_SECONDS, read_timeout=CALL_SECONDS
        )

        def client(service: str, config: Config = patient, **more: Any) -> Any:
            return calling(lambda: session.client(service, endpoint_url=options.endpoint_url, config=config, **more))

        self.batch = client("batch")
        self._submitting = client("batch", once)
        self.ec2 = client("ec2")
        # AWS's own addresses by region: the one without, by which a new bucket is not found everywhere yet, would redirect, and a
        # signature is good for one host only.
        style = {"addressing_style": "path" if options.endpoint_url else "virtual"}
        self.s3 = client("s3", patient.merge(Config(signature_version="s3v4", s3=style)))
        self.logs = client("logs")
        # The price list is served from a few regions only; its prices say of which region they are.
        self.pricing = client("pricing", once, region_name="us-east-1")
        self.region = str(session.region_name)

    def submit(self, request: dict[str, Any]) -> str:
        """Submit a job, once, and return its id.

        Raises:
            CloudError: it was not submitted; ``unreachable``: or perhaps it was.
        """
        return str(calling(lambda: self._submitting.submit_job(**request))["jobId"])

    def find(self, queue: str, name: str) -> list[str]:
        """Return the ids of the jobs with a name, the oldest first."""
        pages = self.batch.get_paginator("list_jobs").paginate(jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [name]}])
        found = [job for page in pages for job in page["jobSummaryList"] if job["jobName"] == name]
        return [str(job["jobId"]) for job in sorted(found, key=lambda job: job["createdAt"])]

    def describe(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the jobs that AWS still knows, by id."""
        wanted, found = list(ids), dict[str, dict[str, Any]]()
        for first in range(0, len(wanted), DESCRIBED_AT_ONCE):
            answer = self.batch.describe_jobs(jobs=wanted[first : first + DESCRIBED_AT_ONCE])
            found |= {str(job["jobId"]): dict(job) for job in answer["jobs"]}
        return found

    def output(self, stream: str, most: int) -> bytes:
        """Return the beginning of what a container printed, as CloudWatch keeps it."""
        found, token, size = list[bytes](), None, 0
        while size < most:
            more: dict[str, str] = {} if token is None else {"nextToken": token}
            page = self.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **more)
            lines = [event["message"].encode(errors="replace") + b"\n" for event in page["events"]]
            if not lines or page["nextForwardToken"] == token:
                break
            found += lines
            size, token = size + sum(map(len, lines)), page["nextForwardToken"]
        return b"".join(found)[:most]

    def terminate(self, job_id: str, why: str) -> None:
        """End a job; one that has not begun is cancelled."""
        self.batch.terminate_job(jobId=job_id, reason=why)
