"""What a run gives back, read from directories that user code can write: nothing is opened that is not its own file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tessera_hub.proxy.drivers.base import OutputPath, Results
from tessera_hub.proxy.drivers.foreign import count_of, read_foreign
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.schemas.bounds import is_safe
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Progress, TaskKind

NOTEBOOK_LIMIT: Final = 128 << 20
OUTPUT_FILES_LIMIT: Final = 10_000
NOTES: Final = frozenset({"output.truncated", "parameter.unknown", "parameter.no_cell", "notebook.exit_early"})
"""What the runner may have to tell besides the end (docs/reference/runner.md, "Events")."""
_TAIL: Final = 1 << 16
_NOTE_LIMIT: Final = 1 << 13
_SKIPPED: Final = frozenset({"__pycache__", ".ipynb_checkpoints", ".ipython", ".jupyter", ".cache"})


def notebook_so_far(run: RunDirectory, known: str | None) -> tuple[str, bytes] | None:
    """Return (version, bytes) of the executed notebook, None if there is none or only the *known* version."""
    spec = run.lease.spec
    if spec.kind is not TaskKind.NOTEBOOK or not spec.entry:
        return None
    name = f"output/{Path(spec.entry).name}"
    descriptor = run.open_owned(run.run / name, run.file_uid())
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        version = f"{found.st_mtime_ns}-{found.st_size}"
        if version == known or found.st_size > NOTEBOOK_LIMIT:
            return None
        return version, file.read()


def progress_so_far(run: RunDirectory) -> Progress | None:
    """Return how far the run is, from the last lines of ``progress.jsonl``; None before the first cell."""
    descriptor = run.open_owned(run.run / "progress.jsonl", run.file_uid())
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # The start tells how many cells there are; the end, where it is. Output lines between may be many.
        head = file.read(min(size, 4096))
        file.seek(max(size - _TAIL, 0))
        tail = file.read(_TAIL)
    total = done = current = None
    for line in (*head.splitlines()[:1], *tail.splitlines()):
        event = read_foreign(line) or {}
        if event.get("event") == "started" and (cells := count_of(event.get("cells_total"))) is not None:
            total, done = cells, done or 0
        elif event.get("event") == "cell" and (index := count_of(event.get("index"))) is not None:
            of = count_of(event.get("of"))
            total = total if of is None else of
            current = index if event.get("state") == "running" else None
            done = index if event.get("state") == "done" else index - 1
    if total is None and done is None:
        return None
    return Progress(cells_done=max(done or 0, 0), cells_total=total or None, current_cell=current)


def collect_results(run: RunDirectory) -> Results:
    """Return what the run gives back.

    Outputs are all of ``output/``, and of ``work/`` what the inputs do not have like this; a file of ``work/`` whose path
    ``output/`` has, too, is given back below ``work/``. A live folder is the person's own and gives nothing back.
    """
    inputs = run.read("inputs.json") or {}
    left_out: list[str] = []
    found: dict[str, OutputPath] = dict(_files(run, run.run / "output", left_out))
    work = run.run / "work"
    live = work.is_symlink()
    if not live:
        for path, output in _files(run, work, left_out):
            status = os.lstat(output.file)
            if inputs.get(path) != [status.st_mtime_ns, status.st_size]:
                name = f"work/{path}" if path in found else path
                found[name] = OutputPath(name, output.file, output.size, output.mode, output.owner)
    outputs = list(found.values())
    left_out += [output.path for output in outputs[OUTPUT_FILES_LIMIT:]]
    checkpoint = checkpoint_directory(run, live=live)
    kept = () if checkpoint is None else tuple(f for _path, f in _files(run, checkpoint, left_out))[:OUTPUT_FILES_LIMIT]
    return Results(tuple(outputs[:OUTPUT_FILES_LIMIT]), kept, tuple(left_out), tuple(_notes(run)))


def checkpoint_directory(run: RunDirectory, *, live: bool) -> Path | None:
    """Return where the run keeps what its next attempt needs; None if that is the person's own folder, where it stays."""
    relative = Path(run.lease.spec.lifecycle.checkpoint_directory)
    return None if live and relative.parts[0] == "work" else run.run / relative


def _notes(run: RunDirectory) -> Iterator[Reason]:
    """Yield what the runner told in ``progress.jsonl`` besides cells and output, each code once."""
    descriptor = run.open_owned(run.run / "progress.jsonl", run.file_uid())
    if descriptor is None:
        return
    seen: set[str] = set()
    with os.fdopen(descriptor, "rb") as file:
        for line in iter(lambda: file.readline(_TAIL), b""):
            if b'"note"' not in line or len(line) > _NOTE_LIMIT:
                continue
            event = read_foreign(line) or {}
            code = event.get("code") if event.get("event") == "note" else None
            if isinstance(code, str) and code in NOTES and code not in seen:
                seen.add(code)
                detail = event.get("detail")
                yield reason_of(code, "", detail if isinstance(detail, dict) else {})


def _files(run: RunDirectory, top: Path, left_out: list[str]) -> Iterator[tuple[str, OutputPath]]:
    file_uid = run.file_uid()
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            file = Path(folder, name)
            path = str(file.relative_to(top))
            descriptor = run.open_owned(file, file_uid)
            if descriptor is None:
                continue
            status = os.fstat(descriptor)
            os.close(descriptor)
            if not is_safe(path):  # a name that no other machine could take
                left_out.append(path.encode(errors="replace").decode(errors="replace"))
                continue
            yield path, OutputPath(path, file, status.st_size, status.st_mode & 0o777, file_uid)
