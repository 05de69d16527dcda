"""Data sets that an operator declares in a Proxy's settings: who may read them, and how a run gets at them.

A run finds each at ``$TESSERA_DATASETS/<name>``, whatever is behind it: the runner puts a link there. What keeps a run from
writing is a mount where there is one (pods, containers), else the rights of the files.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.bounds import MOST_DATASETS, DatasetName, safe_relative_path
from tessera_hub.schemas.protocol import Dataset, Lease
from tessera_hub.schemas.resources import Strict

PODS_FOLDER = "/datasets"
"""Where a pod has them."""
DatasetT = TypeVar("DatasetT", bound=Dataset)


class FolderDataset(Dataset):
    """A folder that the runs' machines have."""

    path: Annotated[str, Field(pattern=r"^/[^\x00-\x1f:,]+$", max_length=1000)]
    """Without what would end it in an argument of ``apptainer --bind``."""


class ClaimDataset(Dataset):
    """A volume of a Kubernetes cluster."""

    claim: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    """PersistentVolumeClaim of each tenant's namespace."""
    folder: str | None = None
    """Folder of the volume; None: all of it."""

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str | None) -> str | None:
        return None if folder is None else safe_relative_path(folder)


class LocalSettings(Strict):
    """What a file says about a Proxy of one machine."""

    datasets: dict[DatasetName, FolderDataset] = Field(default_factory=dict, max_length=MOST_DATASETS)


def read_local(path: Path | None) -> Mapping[str, FolderDataset]:
    """Return the data sets of one machine.

    Raises:
        ProxyError: ``proxy.bad_option``: the file is wrong, a folder is not there, or everybody may write to it.
    """
    if path is None:
        return {}
    try:
        found = LocalSettings.model_validate(tomllib.loads(path.read_text("utf-8"))).datasets
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProxyError("proxy.bad_option", f"{path}: {error}") from error
    except ValidationError as error:
        raise ProxyError("proxy.bad_option", f"{path}: {_in_words(error)}") from error
    for name, dataset in found.items():
        folder = Path(dataset.path)
        if not folder.is_dir():
            raise ProxyError("proxy.bad_option", f"{path}: datasets.{name}: {folder} is no folder")
        if folder.stat().st_mode & stat.S_IWOTH:
            raise ProxyError("proxy.bad_option", f"{path}: datasets.{name}: every run may write to {folder}; chmod o-w")
    return found


def _in_words(error: ValidationError) -> str:
    """Return where and what the first mistake is; patterns are written out, as a person would say them."""
    first = error.errors()[0]
    location = [str(step) for step in first["loc"]]
    message = first["msg"]
    if first["type"] == "string_pattern_mismatch":
        if location[-1] == "[key]":
            location.pop()
            message = "a name has at most 60 lower-case letters, digits, - and _, and begins and ends with a letter or digit"
        elif location[-1] == "path":
            message = "a path is absolute, without ':', ',' and control characters"
    return f"{'.'.join(location)}: {message}"


def told(datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Return what the service is told of them: not how they are reached."""
    return {
        name: Dataset(description=found.description, tenants=found.tenants, workspaces=found.workspaces)
        for name, found in datasets.items()
    }


def wanted(lease: Lease, datasets: Mapping[str, DatasetT]) -> dict[str, DatasetT]:
    """Return the data sets that a run reads. The service has looked who may; its operator is not always ours.

    Raises:
        DriverError: ``dataset.unknown``: it is not here, or not for the run's tenant.
    """
    return opened(lease.spec.datasets, lease.tenant, datasets)


def opened(names: Iterable[str], tenant: str, datasets: Mapping[str, DatasetT]) -> dict[str, DatasetT]:
    """Return the data sets of these *names* for a tenant that may read them all.

    Raises:
        DriverError: ``dataset.unknown``: one is not here, or not for the tenant.
    """
    found = {}
    for name in names:
        dataset = datasets.get(name)
        if dataset is None or not dataset.is_open(tenant):
            raise DriverError("dataset.unknown", f"no data set {name} for tenant {tenant}", {"dataset": name})
        found[name] = dataset
    return found


def claim_volumes(datasets: Mapping[str, ClaimDataset]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return volume and mount of each for a pod; read-only twice, so that no kubelet gives them to the pod's group."""
    found = []
    for index, (name, dataset) in enumerate(datasets.items()):
        volume = f"dataset-{index}"
        folder = {} if dataset.folder is None else {"subPath": dataset.folder}
        mount = {"name": volume, "mountPath": f"{PODS_FOLDER}/{name}", "readOnly": True, **folder}
        claim = {"claimName": dataset.claim, "readOnly": True}
        found.append(({"name": volume, "persistentVolumeClaim": claim}, mount))
    return found


def folders(lease: Lease, datasets: Mapping[str, FolderDataset]) -> dict[str, str]:
    """Return name → folder of the data sets that a run reads.

    Raises:
        DriverError: ``dataset.unknown``.
    """
    return {name: dataset.path for name, dataset in wanted(lease, datasets).items()}
