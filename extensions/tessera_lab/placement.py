"""Outputs on their way back: beside the notebook, in ``<notebook>-runs/<task>/``, never over another file.

A task remembers its file by the label ``workspace-path``, so this works after a restart of the workspace, too. What was placed is
remembered in a file; a person may delete or move outputs without getting them again. A transfer that was cut off is taken up
where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tessera_hub.client import AsyncTaskHandle, AsyncTesseraClient, TesseraError, calls
from tessera_hub.client.lab import PATH_LABEL
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Phase, Task, TaskDetail, TaskKind

FOLDER_SUFFIX: Final = "-runs"
PAGE: Final = 200
"""Finished tasks that the poller reads at a time, newest first."""
LOOK_BACK: Final = timedelta(days=90)
"""Age of a task from which on the poller no longer asks for its outputs."""


def folder_of(root: Path, task: TaskDetail) -> Path:
    """Return where the outputs of *task* go.

    Raises:
        TesseraError: ``placement.unknown``, the task was not submitted from a file of this workspace, or its folder is gone.
    """
    chosen = task.spec.output_folder
    path = PurePosixPath(task.spec.labels.get(PATH_LABEL) or (task.entry or "" if chosen else ""))
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise _unknown()
    base = root / chosen if chosen else root / path.parent
    if not base.resolve().is_relative_to(root.resolve()) or not (base.is_dir() or chosen):
        raise _unknown()
    folder = base / f"{path.stem}{FOLDER_SUFFIX}" / str(task.id)[:8]
    if not folder.resolve().is_relative_to(root.resolve()):
        raise _unknown()
    return folder


def _unknown() -> TesseraError:
    return TesseraError(
        "placement.unknown",
        _("The task does not come from a folder of this workspace."),
        _("Download its files from the list of jobs, or with `tessera outputs --download`."),
        409,
    )


class Placer:
    """Places outputs below a contents root.

    Args:
        root: contents root.
        record: file that remembers run ids whose outputs are placed.
    """

    def __init__(self, root: Path, record: Path, log: logging.Logger) -> None:
        self.root = root
        self.record = record
        self._log = log
        self._lock = asyncio.Lock()
        self._thorough = True

    async def place(self, client: AsyncTesseraClient, task_id: str) -> list[str]:
        """Place what the task gave back; return the paths relative to the root. A repeat fetches nothing twice.

        Raises:
            TesseraError: ``placement.unknown``, or what the service or the transfer says.
        """
        async with self._lock:
            handle = await client.task(task_id)
            detail = await handle.refresh()
            folder = folder_of(self.root, detail)
            folder.mkdir(parents=True, exist_ok=True)
            places = await handle.download(folder)
            if notebook := await self._notebook(handle, folder, detail, {place.name for place in places}):
                places.append(notebook)
            if detail.phase.final:
                self._remember(str(detail.run_id))
            return [place.relative_to(self.root).as_posix() for place in places]

    async def _notebook(self, handle: AsyncTaskHandle, folder: Path, task: TaskDetail, have: set[str]) -> Path | None:
        """Write the executed notebook when it is not among the outputs already; one of the same task is replaced."""
        name = PurePosixPath(task.entry or "").name
        if not name.endswith(".ipynb") or name in have:
            return None
        try:
            document = await handle.notebook()
        except TesseraError as error:
            if error.status == 404:
                return None
            raise
        text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
        target = folder / name
        number = 2
        while target.exists():
            if target.read_text("utf-8") == text:
                return target
            target = folder / f"{PurePosixPath(name).stem} ({number}).ipynb"
            number += 1
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        temporary.write_text(text, "utf-8")
        temporary.replace(target)
        return target

    def placed(self) -> set[str]:
        """Ids of runs whose outputs are here."""
        try:
            return set(json.loads(self.record.read_text("utf-8")))
        except (OSError, ValueError):
            return set()

    def _remember(self, run_id: str) -> None:
        runs = self.placed() | {run_id}
        self.record.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(sorted(runs)), "utf-8")
        temporary.replace(self.record)

    async def sweep(self, client: AsyncTesseraClient) -> list[str]:
        """Place the outputs of finished tasks that are not here yet, the oldest first; return all paths."""
        places: list[str] = []
        waiting = await self._waiting(client)
        # What is cut off or fails leaves a gap behind newer outputs; the next look reads past these.
        self._thorough = True
        complete = True
        for task in reversed(waiting):
            try:
                places += await self.place(client, str(task.id))
            except TesseraError as error:
                if error.code in ("placement.unknown", "output.path"):
                    self._remember(str(task.run_id))
                else:
                    complete = False
                self._log.info("outputs of task %s are not placed: %s", task.id, error.message)
            except OSError as error:
                complete = False
                self._log.warning("outputs of task %s cannot be written: %s", task.id, error)
        self._thorough = not complete
        return places

    async def _waiting(self, client: AsyncTesseraClient) -> list[Task]:
        """Finished tasks whose outputs are not here, newest first, up to a page of which nothing is missing."""
        phases = [phase.value for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)]
        known = self.placed()
        oldest = datetime.now(UTC) - LOOK_BACK
        found: list[Task] = []
        cursor: str | None = None
        while True:
            page = await client.call(calls.tasks(phase=phases, mine=True, limit=PAGE, cursor=cursor))
            young = [task for task in page.items if task.created_at > oldest]
            missing = [task for task in young if task.kind is not TaskKind.WORKSPACE and str(task.run_id) not in known]
            found += missing
            cursor = page.next
            if cursor is None or len(young) < len(page.items) or not (missing or self._thorough):
                return found


def problem(error: TesseraError) -> dict[str, Any]:
    """Return *error* as a problem document of the API's form."""
    status = error.status or (
        503 if error.code.startswith(("client.", "service.")) else 413 if error.code == "snapshot.too_large" else 422
    )
    return {
        "type": f"urn:tessera:problem:{error.code}",
        "title": error.message,
        "status": status,
        "code": error.code,
        "hint": error.hint,
        "reasons": [reason.model_dump(mode="json") for reason in error.reasons],
        "errors": error.errors,
    }
