"""What the queues may use: compute environments and their instance types as pools, less what jobs hold now.

A compute environment is elastic: it has room for ``maxvCpus`` whether instances are there or not. What others use is asked from
Batch, what ours use is known. The first look fills everything; later ones only what changes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from tessera_hub.proxy.drivers.aws_batch.cloud import Cloud, CloudError, calling
from tessera_hub.proxy.drivers.aws_batch.instances import (
    FARGATE_SIZE,
    Environment,
    InstanceType,
    Use,
    families,
    instance_type_of,
    pools_of,
    use_of_job,
    use_of_lease,
)
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.prices import Hourly, hourly_of_product, prices_of, spot_hourly
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.protocol import Lease, Pool

log = structlog.get_logger(__name__)

HOLDING: Final = ("STARTING", "RUNNING")
DESCRIBED_AT_ONCE: Final = 100
PRICED_LOOKS: Final = 60
"""Prices are asked for first, and again after so many looks."""


class Capacity:
    """The pools of the queues, as they were at the last look.

    Attributes:
        fargate: queues whose jobs run on Fargate.
        prices: as the inventory has them; empty where no rate of exchange is set.
    """

    def __init__(self, cloud: Cloud, options: AwsBatchOptions) -> None:
        self._cloud = cloud
        self._options = options
        self._types: dict[str, InstanceType] = {}
        self._asked: set[str] = set()
        self._known: dict[str, Environment] = {}
        self._looks = 0
        self.pools: list[Pool] = []
        self.prices: dict[str, int] = {}
        self.fargate: frozenset[str] = frozenset()

    def look(self, held: Iterable[Lease] = ()) -> None:
        """Look at queues, environments and jobs.

        Args:
            held: leases whose runs hold something now.

        Raises:
            CloudError: AWS does not answer, or refuses.
            DriverError: ``cluster.refused``: there is no such queue, or it takes no jobs.
        """
        calling(lambda: self._look(list(held)))

    def _look(self, held: Sequence[Lease]) -> None:
        queues = self._queues()
        environments = self._environments(queues)
        fargate = frozenset(
            name
            for name, names in queues.items()
            if names and all(environments[each].is_fargate for each in names if each in environments)
        )
        self._learn_types(environments.values())
        ours = Counter[str]()
        for lease in held:
            queue = self._options.spot_queue if lease.spec.preemptible and self._options.spot_queue else self._options.queue
            ours.update(use_of_lease(lease, queue in fargate, queue))
        uses = {name: Use.of(ours, name, self._foreign(name)) for name in queues}
        self.pools = pools_of(queues, environments, self._types, uses)
        self.fargate = fargate
        self._known = environments

    def _queues(self) -> dict[str, list[str]]:
        """Return queue → ARNs of its environments, in order."""
        answer = self._cloud.batch.describe_job_queues(jobQueues=list(self._options.queues))["jobQueues"]
        found = {}
        for name in self._options.queues:
            queue = next((each for each in answer if name in (each["jobQueueName"], each["jobQueueArn"])), None)
            if queue is None:
                raise DriverError("cluster.refused", f"there is no job queue {name} in {self._cloud.region}")
            order = sorted(queue["computeEnvironmentOrder"], key=lambda each: int(each["order"]))
            usable = queue["state"] == "ENABLED" and queue["status"] in ("VALID", "UPDATING")
            found[name] = [str(each["computeEnvironment"]) for each in order] if usable else []
        return found

    def _environments(self, queues: Mapping[str, Sequence[str]]) -> dict[str, Environment]:
        names = sorted({name for order in queues.values() for name in order})
        if not names:
            return {}
        answer = self._cloud.batch.describe_compute_environments(computeEnvironments=names)["computeEnvironments"]
        found = [Environment.of(each) for each in answer]
        return {each.arn: each for each in found if each is not None}

    def _learn_types(self, environments: Iterable[Environment]) -> None:
        wanted = {pattern for each in environments for pattern in families(each.instance_types)} - self._asked
        if not wanted:
            return
        pages = self._cloud.ec2.get_paginator("describe_instance_types").paginate(
            Filters=[{"Name": "instance-type", "Values": sorted(wanted)}]
        )
        for page in pages:
            for found in page["InstanceTypes"]:
                kind = instance_type_of(found)
                self._types[kind.name] = kind
        self._types.setdefault(FARGATE_SIZE.name, FARGATE_SIZE)
        self._asked |= wanted

    def _foreign(self, queue: str) -> Counter[str]:
        """Return what jobs hold that are not ours."""
        ours, ids = re.compile(rf"{re.escape(self._options.prefix)}-[0-9a-f-]{{36}}-[0-9a-f]{{16}}"), list[str]()
        for status in HOLDING:
            for page in self._cloud.batch.get_paginator("list_jobs").paginate(jobQueue=queue, jobStatus=status):
                ids += [job["jobId"] for job in page["jobSummaryList"] if not ours.fullmatch(job["jobName"])]
        found: Counter[str] = Counter()
        for first in range(0, len(ids), DESCRIBED_AT_ONCE):
            for job in self._cloud.batch.describe_jobs(jobs=ids[first : first + DESCRIBED_AT_ONCE])["jobs"]:
                found.update(use_of_job(job))
        return found

    # --- prices ---------------------------------------------------------------------------------------------------

    def look_at_prices(self) -> None:
        """Ask what the instances cost, now and then, where a rate of exchange is set; what is not told stays unknown."""
        if self._options.currency_per_usd is not None and self._looks % PRICED_LOOKS == 0:
            self.prices = prices_of(self._hourly(self._known.values()), self._types, self._options.currency_per_usd)
        self._looks += 1

    def _hourly(self, environments: Iterable[Environment]) -> Hourly:
        """Return instance type → dollars an hour: the spot market's where an environment uses it, else the list's."""
        found: Hourly = {}
        for environment in environments:
            names = [kind.name for kind in environment.members(self._types) if kind is not FARGATE_SIZE]
            if not names:
                continue
            try:
                if environment.is_spot:
                    found |= self._spot(names)
                else:
                    for name in names:
                        found |= self._listed(name)
            except CloudError as error:
                log.warning("prices_unknown", environment=environment.name, error=str(error))
        return found

    def _spot(self, names: Sequence[str]) -> Hourly:
        pages = self._cloud.ec2.get_paginator("describe_spot_price_history").paginate
        entries = calling(
            lambda: [entry for page in pages(InstanceTypes=list(names), MaxResults=1000) for entry in page["SpotPriceHistory"]]
        )
        return spot_hourly(entry for entry in entries if entry["InstanceType"] in names)

    def _listed(self, name: str) -> Hourly:
        wanted = {
            "instanceType": name,
            "regionCode": self._cloud.region,
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
        }
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        answer = calling(lambda: self._cloud.pricing.get_products(ServiceCode="AmazonEC2", Filters=filters))
        found = [hourly_of_product(json.loads(text)) for text in answer["PriceList"]]
        known = [price for price in found if price is not None]
        return {name: min(known)} if known else {}
