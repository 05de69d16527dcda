"""The Slurm driver: each run is one batch job under the Unix account of its person."""

from __future__ import annotations

from pathlib import Path

from tessera_hub.proxy.drivers.slurm.carried import CarriedFiles
from tessera_hub.proxy.drivers.slurm.driver import SlurmDriver
from tessera_hub.proxy.drivers.slurm.files import SharedFiles
from tessera_hub.proxy.drivers.slurm.settings import SlurmSettings
from tessera_hub.proxy.drivers.slurm.transport import transport_of

__all__ = ["SlurmDriver", "SlurmSettings", "slurm_driver"]


def slurm_driver(settings: SlurmSettings, data_dir: Path, service_url: str = "") -> SlurmDriver:
    """Return the driver of the centre that *settings* describe; the Proxy's own records lie in *data_dir*."""
    transport = transport_of(settings)
    if settings.carried:
        assert settings.directory is not None
        files = CarriedFiles(data_dir, transport, settings.directory, settings.python)
        return SlurmDriver(settings, data_dir, transport, files, service_url)
    root = data_dir if settings.directory is None else Path(settings.directory)
    return SlurmDriver(settings, root, transport, SharedFiles(root), service_url)
