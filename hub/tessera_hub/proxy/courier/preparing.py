"""Before any user code: inputs and checkpoint brought, and the run claimed."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tessera_hub.proxy.courier import mpi
from tessera_hub.proxy.courier.calls import DamagedError, RefusedError, Service, UnreachableError, patiently
from tessera_hub.proxy.courier.places import Places, files_below, is_safe, write_atomic
from tessera_hub.proxy.courier.settings import Settings

T = TypeVar("T")

STATUS: Final = {"inputs.missing": 66, "disk.full": 74, "claimed.elsewhere": 75, "claim.unreachable": 77}
"""Reason code → exit status, those of the runner (docs/reference/runner.md)."""


class _PreparationError(Exception):
    def __init__(self, code: str, message: str, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = dict(detail or {})


def prepare(places: Places, settings: Settings, claimant: str, report: Path) -> int:
    """Fill the run's folder and claim the run; return the status to exit with, telling *report* what went wrong."""
    service = Service(settings)
    try:
        _fill(places, settings, service)
        _claim(settings, service, claimant)
        write_atomic(places.control / "claimed.json", {"by": claimant})
    except _PreparationError as error:
        sys.stderr.write(f"[tessera] {error.code}: {error}\n")
        document = {"code": error.code, "message": str(error)[:1000], "detail": error.detail}
        report.write_text(json.dumps(document))
        return STATUS[error.code]
    return 0


def _fill(places: Places, settings: Settings, service: Service) -> None:
    # A repeat after a crash goes on with what has come; after the start nothing may be touched, and then none of this runs.
    work = places.run / "work"
    try:
        for folder in (places.run, places.control, places.run / "output"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if settings.live:
            _work_in(work, settings.live)
        else:
            work.mkdir(exist_ok=True, mode=0o700)
        files = _patiently(service.inputs, settings)
        if not settings.live:
            _bring(service, settings, work, files)
        _bring(service, settings, places.run / settings.checkpoint_directory, settings.checkpoint)
        known = {path: [file.lstat().st_mtime_ns, file.lstat().st_size] for path, file in files_below(work)}
        write_atomic(places.control / "inputs.json", known)
        write_atomic(places.run / "run.json", settings.run)
        if settings.parts > 1:
            mpi.keep_key(places, settings.run_token)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _PreparationError("disk.full", "the disk of the node is full") from error
        raise


def _work_in(work: Path, folder: str) -> None:
    """Let the run work in a folder of its person's own, from which nothing is sent anywhere."""
    if not work.is_symlink():
        work.symlink_to(folder)


def _bring(service: Service, settings: Settings, folder: Path, files: Iterable[Mapping[str, Any]]) -> None:
    for file in files:
        path = str(file["path"])
        if not is_safe(path) or path.startswith("/") or ".." in path.split("/"):
            raise _PreparationError("inputs.missing", f"{path!r} is no path inside the folder")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            _patiently(partial(service.fetch, file, target), settings)
        except (RefusedError, DamagedError) as error:
            raise _PreparationError("inputs.missing", f"{path}: {error}", {"path": path, "sha256": file["sha256"]}) from error
        target.chmod(int(file["mode"]) | 0o600)


def _claim(settings: Settings, service: Service, claimant: str) -> None:
    try:
        _patiently(lambda: service.claim(claimant), settings)
    except RefusedError as error:
        raise _PreparationError("claimed.elsewhere", f"the claim was refused: {error.code}", {"run": settings.run_id}) from error


def _patiently(call: Callable[[], T], settings: Settings) -> T:
    def tell(why: str) -> None:
        sys.stderr.write(f"[tessera] waiting for {settings.url}: {why}\n")

    try:
        return patiently(call, settings.reach_seconds, tell)
    except RefusedError as error:
        if error.status == 401:
            raise _PreparationError("claimed.elsewhere", "the run is over at the service", {"run": settings.run_id}) from error
        raise
    except UnreachableError as error:
        message = f"{settings.url} cannot be reached from here: {error}"
        raise _PreparationError("claim.unreachable", message, {"url": settings.url}) from error
