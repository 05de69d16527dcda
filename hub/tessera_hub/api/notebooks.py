"""What can be said about a notebook before anything runs: is it one, do the parameters fit, is its kernel there.

The runner checks the same with the same code when the run starts; here a person is told at once and pays nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue

from tessera_hub.api.context import Context
from tessera_hub.scheduling.admission import Admission
from tessera_hub.schemas.tasks import TaskKind, TaskSpec
from tessera_hub.tasks.submission import Destination, SubmissionError
from tessera_lab.runner import parameters
from tessera_lab.runner.environment import DEFAULT_KERNEL
from tessera_lab.runner.errors import RunnerError
from tessera_lab.runner.notebook import load_notebook

LARGEST_BYTES: Final = 8 << 20
"""A larger notebook is left to the runner: reading it would hold up others."""


async def check_notebook(context: Context, spec: TaskSpec, where: Destination) -> None:
    """Check the notebook of a task whose files are in the store; tasks of other kinds and live folders pass.

    Raises:
        SubmissionError: ``notebook.invalid``, ``parameter.type``, ``parameter.unknown`` or ``kernel.unknown``.
    """
    entry = next((file for file in spec.inputs.files if file.path == spec.entry), None)
    if spec.kind is not TaskKind.NOTEBOOK or entry is None or entry.size > LARGEST_BYTES:
        return
    path = context.blobs.path(where.tenant_id, entry.sha256)
    try:
        notebook = await asyncio.to_thread(load_notebook, path)
        _check_shape(notebook)
        check_parameters(notebook, spec.parameters)
    except RunnerError as error:
        if error.code == "notebook.missing":
            raise SubmissionError("inputs.not_uploaded", files=[entry.path], count=1) from error
        raise SubmissionError(error.code, **error.detail) from error
    kernel = spec.kernel or _named_kernel(notebook)
    async with context.store.read() as session:
        known = (await Admission.current(context.store, session)).kernels.get(spec.environment)
    if known and kernel not in known:
        raise SubmissionError("kernel.unknown", kernel=kernel, environment=spec.environment, kernels=sorted(known))


def _check_shape(notebook: Mapping[str, Any]) -> None:
    """Check as much of the format as the parameters are read by; nbformat, which the runner has, checks the rest."""
    if notebook["nbformat"] < 4:  # brought up to date by the runner
        return
    cells, metadata = notebook.get("cells"), notebook.get("metadata", {})
    if notebook["nbformat"] > 4:
        raise RunnerError("notebook.invalid", "newer format", {"problem": f"nbformat {notebook['nbformat']}"})
    if not isinstance(cells, list) or not isinstance(metadata, dict):
        raise RunnerError("notebook.invalid", "no cells", {"problem": "no cells"})
    for number, cell in enumerate(cells, 1):
        if (
            not isinstance(cell, dict)
            or not isinstance(cell.get("cell_type"), str)
            or not isinstance(cell.get("source"), str | list)
            or not isinstance(cell.get("metadata", {}), dict)
        ):
            raise RunnerError("notebook.invalid", "not a cell", {"problem": f"cell {number}"})
    for section in ("kernelspec", "language_info"):
        if not isinstance(metadata.get(section, {}), dict):
            raise RunnerError("notebook.invalid", "metadata", {"problem": section})


def check_parameters(notebook: Mapping[str, Any], given: Mapping[str, JsonValue]) -> None:
    """Check the given parameters against the notebook's tagged cell.

    A name that the cell does not hold is refused if the cell declares others: a misspelt name would be set, read by nobody,
    and the run would take hours with the default. Without a tagged cell anything goes, as with papermill.

    Raises:
        RunnerError: ``parameter.type`` or ``parameter.unknown``.
    """
    declared = parameters.infer(notebook)
    parameters.check(dict(given), declared)
    if not declared:
        return
    index = parameters.find_tagged(notebook, parameters.PARAMETERS_TAG)
    assert index is not None
    source = parameters.cell_source(notebook["cells"][index])
    for name in parameters.unknown(dict(given), declared):
        if not re.search(rf"\b{re.escape(name)}\b", source):  # set in a way that is not read as a declaration
            known: list[Any] = [parameter.name for parameter in declared]
            raise RunnerError("parameter.unknown", f"the notebook has no parameter {name}", {"name": name, "known": known})


def _named_kernel(notebook: Mapping[str, Any]) -> str:
    name = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    return name if isinstance(name, str) and name else DEFAULT_KERNEL
