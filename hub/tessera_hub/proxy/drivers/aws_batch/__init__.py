"""The AWS Batch driver: each run is one job of a queue, its record and the words to and from it are objects of a bucket.

Start reading at :mod:`.jobs` (what a run is at AWS) and :mod:`.standing` (how it is read back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.errors import ProxyError

if TYPE_CHECKING:
    from tessera_hub.proxy.drivers.aws_batch.driver import AwsBatchDriver

__all__ = ["AwsBatchOptions", "aws_batch_driver"]


def aws_batch_driver(options: AwsBatchOptions) -> AwsBatchDriver:
    """Return the driver of an account's queue.

    Raises:
        ProxyError: ``proxy.bad_option``: boto3 is not installed.
    """
    try:
        from tessera_hub.proxy.drivers.aws_batch.driver import AwsBatchDriver
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore"):
            raise
        raise ProxyError("proxy.bad_option", 'AWS needs more packages: pip install "tessera-hub[aws]"') from error
    return AwsBatchDriver(options)
