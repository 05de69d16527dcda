"""What the environment must bring, looked at before anything starts: packages of the notebook world and the kernel."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Final

from tessera_lab.runner.errors import JsonValue, RunnerError

NOTEBOOK_PACKAGES: Final = ("nbformat", "nbclient", "jupyter_client")
DEFAULT_KERNEL: Final = "python3"


@dataclass(frozen=True)
class Kernel:
    """A kernel the environment has: its name and its language in small letters."""

    name: str
    language: str


def require_packages(packages: tuple[str, ...] = NOTEBOOK_PACKAGES) -> None:
    """Check that the packages can be imported.

    Raises:
        RunnerError: ``environment.missing_package`` with the package and the Python that lacks it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            message = f"the environment has no {package}; install it there: {sys.executable} -m pip install {package}"
            raise RunnerError("environment.missing_package", message, {"package": package, "python": sys.executable})


def find_kernel(name: str) -> Kernel:
    """Look ``name`` up among the kernels of the environment.

    Raises:
        RunnerError: ``kernel.unknown`` with the kernels there are, or ``environment.missing_package`` when it is Python's own
            kernel that is not installed.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    manager = KernelSpecManager()
    try:
        found = manager.get_kernel_spec(name)
    except NoSuchKernel as error:
        if name == DEFAULT_KERNEL:
            require_packages(("ipykernel",))
        known: list[JsonValue] = [*sorted(manager.find_kernel_specs())]
        message = f"the environment has no kernel {name}; it has {', '.join(map(str, known)) or 'none'}"
        raise RunnerError("kernel.unknown", message, {"kernel": name, "known": known}) from error
    return Kernel(name, (found.language or "").lower())
