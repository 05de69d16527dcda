"""Outputs on their way to a folder: whole, checked against their hash, resumable, never over another's work."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final, Self

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bounds import safe_relative_path
from tessera_hub.schemas.tasks import OutputFile

from .errors import TesseraError
from .snapshot import hash_file

PART_SUFFIX: Final = ".tessera-part"
"""Of a file that is still arriving; it is taken up again where it stopped."""

_READ_BYTES: Final = 1024 * 1024


def target_of(folder: Path, output: OutputFile) -> Path:
    """Return where *output* goes below *folder*.

    Raises:
        TesseraError: ``output.path``, the path would leave the folder, also through a link.
    """
    try:
        target = folder / safe_relative_path(output.path, stored=True)
        if target.parent.resolve().is_relative_to(folder.resolve()):
            return target
    except ValueError:
        # A path that is none is refused like one that leaves the folder.
        pass
    raise TesseraError(
        "output.path", _("The output {path} would lie outside the folder; it was not saved.", path=ascii(output.path))
    )


def free_name(target: Path) -> Path:
    """Return *target*, or the first ``name (2).ext``, ``name (3).ext``, … that does not exist."""
    if not _exists(target):
        return target
    number = 2
    while _exists(candidate := target.with_name(f"{target.stem} ({number}){target.suffix}")):
        number += 1
    return candidate


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def already_there(target: Path, output: OutputFile) -> bool:
    """Whether *target* has exactly the bytes of *output*."""
    return target.is_file() and target.stat().st_size == output.size and hash_file(target)[0] == output.sha256


class Arrival:
    """A file that arrives in pieces beside its place and gets its name only when its hash is right.

    Use as a context manager; ``offset`` is how many bytes are there already. Another file of the name is kept: the new one is
    then called ``name (2).ext``.
    """

    def __init__(self, target: Path, output: OutputFile) -> None:
        self.target = target
        self.output = output
        # Named by content, so that pieces of different runs never mix.
        self._part = target.with_name(f".{target.name[:80]}.{output.sha256[:16]}{PART_SUFFIX}")
        self._digest = hashlib.sha256()
        self.offset = 0

    def __enter__(self) -> Self:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self._part.is_symlink():
            self._part.unlink()
        if self._part.exists():
            with self._part.open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    self._digest.update(chunk)
                    self.offset += len(chunk)
        if self.offset > self.output.size:
            self.restart()
        self._file = self._part.open("ab")
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.output.size

    def restart(self) -> None:
        """Forget what arrived, for an answer that begins at the first byte."""
        self._digest = hashlib.sha256()
        self.offset = 0
        if self._part.exists():
            os.truncate(self._part, 0)

    def write(self, chunk: bytes) -> None:
        """Append *chunk*.

        Raises:
            OSError: the disk is full; what arrived is kept for a later try.
        """
        self._file.write(chunk)
        self._digest.update(chunk)
        self.offset += len(chunk)

    def publish(self) -> Path:
        """Give the file its name and return it.

        Raises:
            TesseraError: ``output.damaged``, the bytes are not those of the output; nothing is left.
        """
        self._file.close()
        if self._digest.hexdigest() != self.output.sha256:
            self._part.unlink(missing_ok=True)
            raise TesseraError(
                "output.damaged", _("{path} did not arrive whole.", path=self.output.path), _("Download it again.")
            )
        self._part.chmod(self.output.mode & 0o777 | 0o600)
        while True:
            place = free_name(self.target)
            try:
                # A link fails when the name was taken meanwhile, a rename would replace the newer file.
                os.link(self._part, place)
            except FileExistsError:
                continue
            except OSError:
                # A file system without hard links.
                self._part.replace(place)
                return place
            self._part.unlink()
            return place
