"""A notebook run up to the point where the kernel takes over: read it, check it, fit the parameters, find the kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from tessera_lab.runner import parameters
from tessera_lab.runner.context import RunContext
from tessera_lab.runner.environment import DEFAULT_KERNEL, find_kernel, require_packages
from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.exits import Outcome

SKIP_TAG: Final = "skip-execution"


def load_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook as plain JSON and check its shape as far as it can be done without nbformat.

    Raises:
        RunnerError: ``notebook.missing`` or ``notebook.invalid``; ``detail`` has line and column of broken JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise RunnerError("notebook.missing", f"there is no notebook {path.name}", {"entry": path.name}) from error
    except UnicodeDecodeError as error:
        raise RunnerError("notebook.invalid", f"{path.name} is not text in UTF-8", {"problem": "encoding"}) from error
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        detail: dict[str, JsonValue] = {"problem": error.msg, "line": error.lineno, "column": error.colno}
        message = f"{path.name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise RunnerError("notebook.invalid", message, detail) from error
    except (ValueError, RecursionError) as error:
        raise RunnerError("notebook.invalid", f"{path.name} is not JSON", {"problem": str(error)[:200]}) from error
    if not isinstance(document, dict) or type(document.get("nbformat")) is not int:
        raise RunnerError("notebook.invalid", f"{path.name} is JSON but no notebook", {"problem": "no nbformat"})
    return document


def code_cell_positions(notebook: dict[str, Any]) -> list[int]:
    """Positions of the cells that will be executed: code, not empty, not tagged to be skipped."""
    return [
        index
        for index, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code"
        and parameters.cell_source(cell).strip()
        and SKIP_TAG not in cell.get("metadata", {}).get("tags", [])
    ]


async def run_notebook(context: RunContext) -> Outcome:
    """Execute the notebook of a run.

    Raises:
        RunnerError: what keeps it from starting; once the kernel runs, every end is an outcome.
    """
    path = context.entry_inside_work("notebook.missing")
    document = load_notebook(path)
    require_packages()
    # jsonschema, which nbformat imports, would load a grammar for internationalised addresses, where it is installed. That takes
    # 0.7 s and no notebook schema asks for it.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    # Imported here: nbclient and nbformat are the environment's, and only now known to be there.
    from tessera_lab.runner.executor import NotebookRun, validated

    notebook = validated(document, path.name)
    kernel = find_kernel(context.specification.kernel or _kernel_name(notebook))
    values = _fitted_parameters(context, notebook)
    notebook = validated(parameters.inject(notebook, values, kernel.language), path.name)
    positions = code_cell_positions(notebook)
    context.cells_total = len(positions)
    context.progress.emit("started", kind="notebook", cells_total=len(positions), kernel=kernel.name)
    return await NotebookRun(notebook, context, kernel, positions).run()


def _kernel_name(notebook: dict[str, Any]) -> str:
    name = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    return name if isinstance(name, str) and name else DEFAULT_KERNEL


def _fitted_parameters(context: RunContext, notebook: dict[str, Any]) -> dict[str, JsonValue]:
    given = context.specification.parameters
    declared = parameters.infer(notebook)
    if given and parameters.find_tagged(notebook, parameters.PARAMETERS_TAG) is None:
        context.progress.note("parameter.no_cell", names=list(given))
    elif declared:
        for name in parameters.unknown(given, declared):
            context.progress.note("parameter.unknown", name=name)
    return parameters.check(given, declared)
