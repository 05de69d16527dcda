"""Under which uid a run executes: one per person when we are root, ours for a single person otherwise.

The uids need no entry in ``/etc/passwd``: base + the principal's id in a configurable range. Whether that works here (the
interpreter and the runner must be reachable by such a uid) is tried once at the start, by really running it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.shim import read_document, write_atomic

UID_BASE: Final = 200_000
UID_COUNT: Final = 100_000
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._@-]+")


@dataclass(frozen=True, slots=True)
class Account:
    """uid of a run's processes; None: the Proxy's own (single-person mode)."""

    uid: int | None

    @property
    def file_uid(self) -> int:
        """Owner of the files that the run makes."""
        return os.geteuid() if self.uid is None else self.uid


class Accounts:
    """Decides the account of a person.

    Attributes:
        single_person: None when each person has an own uid; else the reason, in words for the operator, why only one person
            can be served.
    """

    def __init__(self, record: Path, *, base: int = UID_BASE, count: int = UID_COUNT) -> None:
        self._record = record
        self._base = base
        self._count = count
        self.single_person: str | None = None

    def probe(self, programs: Sequence[Sequence[str]], directory: Path) -> None:
        """Find out the mode: try *programs* (argument lists) in *directory* under the first uid of the range."""
        self.single_person = _obstacle(programs, directory, self._base)

    def account(self, principal_id: int) -> Account:
        """Return the account of a person.

        Raises:
            DriverError: ``principal.single_person``, or the principal's id is out of the range.
        """
        if self.single_person is None:
            if not 0 <= principal_id < self._count:
                detail = {"principal": principal_id, "range": [self._base, self._base + self._count]}
                raise DriverError("principal.uid_range", "the range of uids is used up", detail)
            return Account(self._base + principal_id)
        known = read_document(self._record)
        if known is None:
            write_atomic(self._record, {"principal_id": principal_id})
        elif known.get("principal_id") != principal_id:
            raise DriverError("principal.single_person", self.single_person)
        return Account(None)


def _obstacle(programs: Sequence[Sequence[str]], directory: Path, uid: int) -> str | None:
    """Return why processes cannot run under *uid* here, None if they can."""
    if os.geteuid() != 0:
        return "the Proxy does not run as root, so every run has its account"
    for argv in programs:
        try:
            done = subprocess.run(  # noqa: S603 - the configured interpreters
                list(argv),
                cwd=directory,
                user=uid,
                group=uid,
                extra_groups=[],
                env={"PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"{argv[0]} cannot be run in {directory} by another account ({error}); open the way to it (chmod o+x)"
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            return f"{' '.join(argv)} fails under another account: {words[-1] if words else done.returncode}"
    return None


def home_of(homes: Path, owner: str) -> Path:
    """Return a person's home directory.

    Raises:
        DriverError: the name cannot be a directory's name.
    """
    if not _PLAIN_NAME.fullmatch(owner) or owner in (".", ".."):
        raise DriverError("principal.name", f"{json.dumps(owner)} cannot name a directory")
    return homes / owner
