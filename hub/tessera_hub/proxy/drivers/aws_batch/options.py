"""How the AWS Batch driver is set up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class AwsBatchOptions:
    """Options.

    Attributes:
        queue: job queue of the runs.
        spot_queue: job queue of preemptible tasks, usually with spot instances; None: the same.
        bucket: where records, words and programs lie.
        prefix: of all names, and the mark of what is ours: two Proxies of one account need two.
        environments: environment name → job definition (name, ``name:revision`` or ARN).
        service_url: address of the service as a job reaches it.
        region, profile: of the AWS configuration; None: as boto3 finds them.
        endpoint_url: of all services, where it is not AWS's own.
        python: program of the images that runs runner and courier.
        user: Unix id of user code in a container.
        look_seconds: between two looks at the jobs.
        poll_seconds: between two looks of a run at its orders.
        inventory_seconds: between two looks at queues and prices.
        settle_seconds: after which a job that a lost answer may have made would be seen.
        currency_per_usd: units of the hub's currency for a dollar; None: prices of AWS are not told.
        output_bytes: of what a run prints.
    """

    queue: str
    bucket: str
    spot_queue: str | None = None
    prefix: str = "tessera"
    environments: Mapping[str, str] = field(default_factory=dict)
    service_url: str = ""
    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    python: str = "python3"
    user: int = 1000
    look_seconds: float = 5.0
    poll_seconds: float = 5.0
    inventory_seconds: float = 60.0
    settle_seconds: float = 15.0
    currency_per_usd: Decimal | None = None
    output_bytes: int = 64 << 20

    @property
    def queues(self) -> tuple[str, ...]:
        """All job queues, each once."""
        return tuple(dict.fromkeys(name for name in (self.queue, self.spot_queue) if name))
