"""A snapshot: the files that travel with a task, each named by its hash, so that the task sees exactly what was submitted."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bounds import safe_relative_path
from tessera_hub.schemas.tasks import InputFile, Inputs

from .errors import TesseraError

DEFAULT_LIMIT_BYTES: Final = 512 * 1024 * 1024
"""Largest snapshot by default; data belongs into a data set, not into every task."""

MAX_FILES: Final = 20_000
"""Most files of a snapshot, as in the API's schema."""

SKIPPED_NAMES: Final = frozenset(
    {".git", ".hg", ".svn", ".ipynb_checkpoints", "__pycache__", ".venv", "node_modules", ".DS_Store"}
)
"""Folders and files that never belong to a task's work. Virtual environments are the environment's part."""

_READ_BYTES: Final = 1024 * 1024

Include = Literal["notebook", "folder"] | Sequence[str | os.PathLike[str]]
"""What goes along: only the file, its whole folder, or these paths (relative to the file's folder) besides it."""


@dataclass(frozen=True)
class SnapshotFile:
    """A file as found: ``path`` relative to the snapshot's root, ``source`` the real file, ``size`` in bytes."""

    path: str
    source: Path
    size: int
    mode: int


@dataclass(frozen=True)
class Snapshot:
    """What a task will see. ``root`` is the folder of the entry; the entry keeps its name below it."""

    root: Path
    entry: str
    files: tuple[SnapshotFile, ...]

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes."""
        return sum(file.size for file in self.files)


def survey(entry: Path, include: Include = "notebook", limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Snapshot:
    """Find the files of a snapshot without reading them.

    Args:
        entry: the notebook or script.
        include: what goes along.
        limit_bytes: most bytes in all; checked while walking, so a huge folder is refused early.

    Raises:
        TesseraError: ``snapshot.missing``, ``snapshot.outside``, ``snapshot.too_large``, ``snapshot.too_many``,
            ``snapshot.name``, ``snapshot.unreadable``.
    """
    entry = Path(os.path.abspath(entry))  # noqa: PTH100  keeps a link's own name, which Path.resolve would not
    if not entry.is_file():
        raise TesseraError("snapshot.missing", _("There is no file {path}.", path=entry), _("Save it first, or check its name."))
    walk = _Walk(entry.parent, limit_bytes)
    walk.add(entry)
    if include == "folder":
        walk.add_folder(entry.parent)
    elif include != "notebook":
        if isinstance(include, str):
            raise TesseraError(
                "snapshot.include",
                _("{value} does not say what to include.", value=repr(include)),
                _("Use notebook, folder, or a list of paths."),
            )
        for item in include:
            walk.add(Path(os.path.abspath(entry.parent / item)))  # noqa: PTH100
    return Snapshot(entry.parent, entry.name, tuple(walk.files[path] for path in sorted(walk.files)))


class _Walk:
    """Collects files below a root, each once, and refuses what must not travel."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.real_root = root.resolve()
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        self.files: dict[str, SnapshotFile] = {}

    def add(self, path: Path) -> None:
        """Take one named file or folder."""
        self._refuse_outside(path)
        if path.is_dir():
            self.add_folder(path)
        elif path.is_file():
            self._take(path)
        elif path.exists():
            raise TesseraError(
                "snapshot.unreadable", _("{path} is not a regular file.", path=path), _("Take it out of the list of files.")
            )
        else:
            raise TesseraError(
                "snapshot.missing", _("There is no file {path}.", path=path), _("Save it first, or check its name.")
            )

    def add_folder(self, folder: Path) -> None:
        """Take all files below *folder*, without version control, caches and the folders of earlier outputs."""
        self._descend(folder, (folder.resolve(),))

    def _descend(self, folder: Path, above: tuple[Path, ...]) -> None:
        try:
            names = sorted(child.name for child in folder.iterdir())
        except OSError as error:
            raise _unreadable(folder, error) from error
        runs = {f"{name.removesuffix('.ipynb')}-runs" for name in names if name.endswith(".ipynb")}
        for name in names:
            path = folder / name
            if name in SKIPPED_NAMES or name in runs:
                continue
            if path.is_symlink():
                self._refuse_outside(path)
            if path.is_dir():
                real = path.resolve()
                # A link to a folder above would be walked for ever.
                if real not in above:
                    self._descend(path, (*above, real))
            elif path.is_file():
                self._take(path)

    def _refuse_outside(self, path: Path) -> None:
        if not (path.is_relative_to(self.root) and path.resolve().is_relative_to(self.real_root)):
            raise TesseraError(
                "snapshot.outside",
                _("{path} lies or leads outside the folder {folder}.", path=path, folder=self.root),
                _("Copy the file into the folder, or leave the link out."),
            )

    def _take(self, path: Path) -> None:
        relative = path.relative_to(self.root).as_posix()
        if relative in self.files:
            return
        try:
            safe_relative_path(relative)
            relative.encode()
        except ValueError as error:
            raise TesseraError(
                "snapshot.name",
                _("The file name {name} cannot be sent.", name=ascii(relative)),
                _("Rename the file: no backslashes or control characters, UTF-8, at most 1024 characters."),
            ) from error
        try:
            found = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not os.access(path, os.R_OK):
            raise _unreadable(path, PermissionError(13, "Permission denied"))
        self.files[relative] = SnapshotFile(relative, path, found.st_size, stat.S_IMODE(found.st_mode) & 0o777)
        self.total_bytes += found.st_size
        if self.total_bytes > self.limit_bytes:
            raise too_large(self.total_bytes, self.limit_bytes, path)
        if len(self.files) > MAX_FILES:
            raise TesseraError(
                "snapshot.too_many",
                _("The folder {folder} has more than {limit} files.", folder=self.root, limit=MAX_FILES),
                _("Include only what the task needs, or pack many small files into an archive."),
            )


def too_large(total_bytes: int, limit_bytes: int, path: Path) -> TesseraError:
    """Say that a snapshot passes the limit; *path* is where that was noticed."""
    return TesseraError(
        "snapshot.too_large",
        _(
            "The files to send exceed {limit} MiB (at least {total} MiB, counted up to {path}).",
            limit=limit_bytes >> 20,
            total=-(-total_bytes >> 20),
            path=path,
        ),
        _("Include only the notebook or chosen files, and keep data in a data folder of the cluster."),
    )


def _unreadable(path: Path, error: OSError) -> TesseraError:
    return TesseraError(
        "snapshot.unreadable",
        _("{path} cannot be read: {problem}.", path=path, problem=error.strerror or error),
        _("Check its permissions, or leave it out."),
    )


def hash_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a file, in lower-case hexadecimal, and how many bytes were hashed.

    Raises:
        TesseraError: ``snapshot.unreadable``.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest(), size


def inputs_of(snapshot: Snapshot) -> tuple[Inputs, dict[str, Path]]:
    """Hash the files of *snapshot*.

    Returns:
        the inputs of the task, and for each hash a file with these bytes.

    Raises:
        TesseraError: ``snapshot.unreadable``.
    """
    files: list[InputFile] = []
    sources: dict[str, Path] = {}
    for file in snapshot.files:
        sha256, size = hash_file(file.source)
        files.append(InputFile(path=file.path, sha256=sha256, size=size, mode=file.mode))
        sources.setdefault(sha256, file.source)
    return Inputs(kind="snapshot", files=files), sources


def check_notebook(path: Path) -> dict[str, Any]:
    """Return the notebook's JSON after a look at its form, so that a broken one is refused before it waits in a queue.

    Raises:
        TesseraError: ``notebook.invalid``.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise TesseraError(
            "notebook.invalid",
            _("{path} is not a notebook: {problem}.", path=path.name, problem=error),
            _("Open it in JupyterLab and save it again, or take it back from a checkpoint."),
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list) or document.get("nbformat") != 4:
        raise TesseraError(
            "notebook.invalid",
            _("{path} is not a notebook of format 4.", path=path.name),
            _("Open it in JupyterLab and save it again, or take it back from a checkpoint."),
        )
    return document


def chunks_of(path: Path, offset: int, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of a file from *offset* on.

    Raises:
        TesseraError: ``snapshot.unreadable``.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(chunk_bytes):
                yield chunk
    except OSError as error:
        raise _unreadable(path, error) from error
