"""How an AWS account is set up: one TOML file. Credentials are not in it; boto3 finds them where it always does.

Source: docs/how-to/connect-aws-batch.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.resources import Strict

Prefix = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_:/.-]{1,512}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class AwsBatchSettings(Strict):
    """Everything about one account's queues."""

    queue: Name
    """Job queue of the runs, by name or ARN."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    """Where records, words and programs lie; closed to everybody but the Proxy."""
    spot_queue: Name | None = None
    """Job queue of preemptible tasks; None: the same."""
    prefix: Prefix = "tessera"
    """Of all names; two Proxies of one account need two."""
    environments: dict[str, Name] = Field(default_factory=dict)
    """Environment name → job definition, by name, ``name:revision`` or ARN."""
    service_url: str | None = None
    """Address of the service as containers reach it; None: that of ``--url``."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    python: str = "python3"
    """Program of the images that runs runner and courier."""
    user: Annotated[int, Field(ge=1)] = 1000
    """Unix id of user code in a container."""
    look_seconds: Seconds = 5.0
    poll_seconds: Seconds = 5.0
    inventory_seconds: Seconds = 60.0
    settle_seconds: Seconds = 15.0
    """After which a job that a lost answer may have made would be seen."""
    currency_per_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """Units of the hub's currency for a dollar; None: AWS's prices are not told."""


def read_options(path: Path, environments: Mapping[str, str], url: str) -> AwsBatchOptions:
    """Return the options of an account; environments of the command line count before the file's.

    Raises:
        ProxyError: ``proxy.bad_option``; the message names the key.
    """
    try:
        found = AwsBatchSettings.model_validate(tomllib.loads(path.read_text("utf-8"), parse_float=Decimal))
    except OSError as error:
        raise ProxyError("proxy.bad_option", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProxyError("proxy.bad_option", f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ProxyError("proxy.bad_option", f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    known = {**found.environments, **environments}
    if not known:
        raise ProxyError(
            "proxy.bad_option", "--driver aws-batch needs environments: a table in the settings, name = job definition"
        )
    given = found.model_dump(exclude={"environments", "service_url"})
    return AwsBatchOptions(**given, environments=known, service_url=found.service_url or url)
