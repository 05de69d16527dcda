"""The files of one local run: what the Proxy knows of it after any crash.

::

    <run id>/            the Proxy's, 0711          the run's own, under the person's uid, 0700
        lease.json       the lease and our uid      run/run.json, work/, claim/, progress.jsonl,
        assigned.json    cards given to it          run/output/, exit.json, stop.json
        launch.json      what the shim starts
        cancel.json      the order to end it
        shim.pid.json, shim.json, output.log, alive, suspends.jsonl   (the shim's)
        end.json         our own conclusion, where the shim could not write one

A run ended when ``end.json`` or ``shim.json`` exists; it was started when ``shim.pid.json`` exists; otherwise it is still
being started, and starting may be repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from tessera_hub.proxy.drivers.foreign import read_foreign
from tessera_hub.proxy.shim import read_document, write_atomic
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.protocol import Lease


class RunDirectory:
    """Paths and records of one run."""

    def __init__(self, path: Path, lease: Lease, uid: str, received_at: datetime) -> None:
        self.path = path
        self.lease = lease
        self.uid = uid
        self.received_at = received_at

    @property
    def run(self) -> Path:
        """The directory that the runner gets."""
        return self.path / "run"

    @classmethod
    def create(cls, root: Path, lease: Lease, kind: str = "local") -> RunDirectory:
        """Record a lease; from then on no crash forgets it. The uid of the run begins with *kind*.

        Raises:
            OSError: the disk is full.
        """
        path = root / str(lease.run_id)
        draft = root / f".{lease.run_id}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o711)
        uid, at = f"{kind}-{uuid4()}", datetime.now(UTC)
        try:
            document = {"uid": uid, "received_at": at.isoformat(), "lease": lease.model_dump(mode="json")}
            write_atomic(draft / "lease.json", document)
            draft.rename(path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        path.chmod(0o711)
        return cls(path, lease, uid, at)

    @classmethod
    def load(cls, path: Path) -> RunDirectory | None:
        """Return the run recorded in *path*, None if there is no readable record."""
        document = read_document(path / "lease.json")
        if document is None:
            return None
        try:
            lease = Lease.model_validate(document["lease"], context=STORED)
            if str(UUID(path.name)) != str(lease.run_id):
                return None
            return cls(path, lease, str(document["uid"]), datetime.fromisoformat(document["received_at"]))
        except (KeyError, ValueError, TypeError):
            return None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return one of the Proxy's or the shim's records."""
        return read_document(self.path / name)

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Write one of the Proxy's records."""
        write_atomic(self.path / name, document)

    def suspends(self) -> list[tuple[str, datetime]]:
        """Return ("suspended" or "resumed", when) in order."""
        found: list[tuple[str, datetime]] = []
        try:
            lines = (self.path / "suspends.jsonl").read_text().splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                entry = json.loads(line)
                found.append((str(entry["state"]), datetime.fromisoformat(entry["at"])))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def exit_record(self) -> dict[str, Any] | None:
        """Return the runner's own record if it is of this lease."""
        data = self.read_owned("exit.json", 1 << 20)
        if data is None:
            return None
        found = read_foreign(data)
        if found is None or found.get("lease_token") != self.lease.lease_token:
            return None
        return found if found.get("state") in ("succeeded", "failed", "cancelled", "preempted") else None

    def open_owned(self, path: Path, file_uid: int) -> int | None:
        """Open a file that the run made, for reading; None if it is not a regular file of the run's own account.

        User code may put links anywhere in its directories. The Proxy, which may be root, therefore looks at whom the opened
        file belongs to and never at its name.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != file_uid:
            os.close(descriptor)
            return None
        return descriptor

    def file_uid(self) -> int:
        """The uid that the run's own files have."""
        launch = self.read("launch.json") or {}
        uid = launch.get("uid")
        return os.geteuid() if uid is None else int(uid)

    def read_owned(self, name: str, limit: int, offset: int = 0) -> bytes | None:
        """Return bytes of a file below ``run/`` that the run made itself."""
        descriptor = self.open_owned(self.run / name, self.file_uid())
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            file.seek(offset)
            return file.read(limit)

    def put(self, name: str, document: dict[str, Any]) -> None:
        """Write a file into the run's own directory, readable by its account; never follows a link that lies there."""
        write_atomic(self.run / name, document)
        file_uid = self.file_uid()
        if file_uid != os.geteuid():
            os.chown(self.run / name, file_uid, file_uid, follow_symlinks=False)

    def remove(self) -> None:
        """Remove everything of the run."""
        gone = self.path.with_name(f".gone-{self.path.name}")
        try:
            self.path.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)
