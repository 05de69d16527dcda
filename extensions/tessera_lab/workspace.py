"""The files of this workspace: paths as the browser names them, and what of them goes with a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tessera_hub.client import Submission, TesseraError
from tessera_hub.client.lab import PATH_LABEL
from tessera_hub.client.quantities import invalid_spec
from tessera_hub.client.snapshot import Snapshot, check_notebook, survey
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import InputFile, Inputs, TaskSpec
from tessera_lab.runner.errors import RunnerError
from tessera_lab.runner.parameters import check, infer

_NOT_READ_YET: Final = "0" * 64


def find_file(root: Path, path: str, *, allow_hidden: bool = False) -> Path:
    """Return the file that the browser calls *path*.

    Raises:
        TesseraError: ``path.outside``: absolute, climbing, hidden, or leading out of the contents root by a link;
            ``snapshot.missing``: not there.
    """
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts) and not allow_hidden
    target = root.joinpath(*parts) if parts else root
    if not parts or path.startswith("/") or ".." in parts or hidden or "\0" in path or not _inside(root, target):
        raise TesseraError("path.outside", _("{path} is not a file of this workspace.", path=ascii(path)), status=404)
    if not target.is_file():
        raise TesseraError(
            "snapshot.missing", _("There is no file {path}.", path=path), _("Save it first, or check its name."), 404
        )
    return target


def _inside(root: Path, target: Path) -> bool:
    return target.resolve().is_relative_to(root.resolve())


def take_stock(root: Path, path: str, include: Any, limit_bytes: int, *, allow_hidden: bool = False) -> Snapshot:
    """Return what would go along with the file *path*; paths of *include* are relative to the file's folder.

    Raises:
        TesseraError: ``path.outside`` or ``snapshot.…``.
    """
    entry = find_file(root, path, allow_hidden=allow_hidden)
    chosen: str | Sequence[str] = "notebook" if include is None else include
    if not isinstance(chosen, str) and not (isinstance(chosen, list) and all(isinstance(item, str) for item in chosen)):
        raise TesseraError("snapshot.include", _("Include the notebook, its folder, or a list of paths."), status=422)
    return survey(entry, chosen, limit_bytes)


def describe_parameters(entry: Path) -> dict[str, Any]:
    """Return the parameters that a notebook declares, its number of code cells and its kernel."""
    if entry.suffix != ".ipynb":
        return {"parameters": [], "kernel": None, "cells": 0}
    notebook = check_notebook(entry)
    kernel = notebook.get("metadata", {}).get("kernelspec", {})
    return {
        "parameters": [parameter.as_json() for parameter in infer(notebook)],
        "kernel": kernel.get("name") if isinstance(kernel, dict) else None,
        "cells": sum(1 for cell in notebook["cells"] if isinstance(cell, dict) and cell.get("cell_type") == "code"),
    }


def make_submission(snapshot: Snapshot, path: str, spec: Any, idempotency_key: str) -> Submission:
    """Complete the browser's specification by the file, check it and the types of its parameters.

    Raises:
        TesseraError: ``spec.invalid``, ``notebook.invalid`` or ``parameter.type``.
    """
    if not isinstance(spec, dict):
        raise TesseraError("spec.invalid", _("The task is not described correctly."), status=422)
    entry = snapshot.root / snapshot.entry
    wanted = {**spec, "entry": snapshot.entry}
    wanted.setdefault("kind", "notebook" if entry.suffix == ".ipynb" else "script")
    wanted.setdefault("name", snapshot.entry)
    wanted["inputs"] = Inputs(files=[InputFile(path=snapshot.entry, sha256=_NOT_READ_YET, size=0)])
    labels = wanted.get("labels")
    wanted["labels"] = {**(labels if isinstance(labels, dict) else {}), PATH_LABEL: path}
    try:
        checked = TaskSpec.model_validate({name: value for name, value in wanted.items() if value is not None})
    except ValueError as error:
        raise invalid_spec(error) from error
    if entry.suffix == ".ipynb":
        notebook = check_notebook(entry)
        try:
            checked = checked.model_copy(update={"parameters": check(checked.parameters, infer(notebook))})
        except RunnerError as error:
            raise _parameter_problem(error) from error
    return Submission(snapshot, checked, idempotency_key)


def _parameter_problem(error: RunnerError) -> TesseraError:
    detail = error.detail
    message = _("Parameter {name} does not take this value.", name=detail.get("name", ""))
    hint = _("A value of type {type} is expected.", type=detail.get("expected") or detail.get("type") or "")
    return TesseraError(
        error.code, message, hint, 422, errors=[{"field": f"parameters.{detail.get('name', '')}", "message": message}]
    )
