"""Files of runs at a centre whose file system the Proxy does not see, or must not touch as root.

The Proxy keeps a mirror of each run's folder. Everything at the centre is done by :mod:`carrier` under the person's own
account, so nothing that user code puts there can lead the Proxy astray: what comes back are regular files, written below the
mirror under checked paths.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.accounts import UnixAccount
from tessera_hub.proxy.drivers.slurm.files import Files, build_programs
from tessera_hub.proxy.drivers.slurm.submission import Place
from tessera_hub.proxy.drivers.slurm.transport import Answer, Transport, TransportError
from tessera_hub.schemas.bounds import is_safe

CARRIER: Final = Path(__file__).with_name("carrier.py")
SEEN: Final = "carried.json"
_RESULT: Final = re.compile(r"(?:output|work|ranks/(?P<rank>[0-9]+)/output)/(?P<name>.+)", re.DOTALL)


class CarriedFiles(Files):
    """Runs lie below *directory* at the centre; ``root`` here holds their mirrors.

    Args:
        root: folder of the Proxy.
        directory: folder at the centre.
        python: interpreter there, 3.11 or newer.
    """

    def __init__(self, root: Path, transport: Transport, directory: str, python: str) -> None:
        self.root = root
        self.transport = transport
        self.directory = directory.rstrip("/")
        self.python = python
        self._program = CARRIER.read_text("utf-8")

    async def _carry(
        self, what: str, folder: str, *more: str, account: str | None, data: bytes = b"", file: Path | None = None
    ) -> Answer:
        argv = [self.python, "-I", "-c", self._program, what, folder, *more]
        answer = await self.transport.run(argv, account=account, data=data, file=file)
        if answer.status:
            words = answer.errors.splitlines()
            raise TransportError(f"{what} {folder}: {words[-1] if words else answer.status}")
        return answer

    def owner(self, account: UnixAccount) -> UnixAccount:
        """The mirror is the Proxy's."""
        return UnixAccount(account.name)

    def place(self, run: RunDirectory) -> Place:
        """See :meth:`Files.place`."""
        return Place(f"{self.directory}/runs/{run.lease.run_id}", f"{self.directory}/programs")

    async def start(self) -> None:
        """See :meth:`Files.start`."""
        programs = await asyncio.to_thread(build_programs, self.root / "programs")
        archive = await asyncio.to_thread(_pack, self.root, [(path, path.name) for path in programs])
        try:
            await self._carry("programs", f"{self.directory}/programs", account=None, file=archive)
        finally:
            archive.unlink()

    async def hand_over(self, run: RunDirectory, account: UnixAccount) -> None:
        """See :meth:`Files.hand_over`."""
        archive = await asyncio.to_thread(_pack, run.path, [(path, path.name) for path in sorted(run.run.iterdir())])
        try:
            answer = await self._carry("put", self.place(run).run, account=account.name, file=archive)
        finally:
            archive.unlink()
        seen = {str(head["path"]): [head["mtime"], head["total"]] for head, _data in _frames(answer.output) if "path" in head}
        run.write(SEEN, {"files": seen})

    async def put(self, run: RunDirectory, name: str, document: dict[str, Any]) -> None:
        """See :meth:`Files.put`."""
        data = json.dumps(document).encode() + b"\n"
        await self._carry("order", self.place(run).run, name, account=_account(run), data=data)

    async def refresh(self, run: RunDirectory, *, ended: bool) -> None:
        """See :meth:`Files.refresh`."""
        spec = run.lease.spec
        notebook = f"output/{Path(spec.entry).name}" if spec.entry else ""
        while True:
            seen = (run.read(SEEN) or {}).get("files", {})
            asked = {"known": seen, "everything": ended, "notebook": notebook}
            answer = await self._carry("fetch", self.place(run).run, account=_account(run), data=json.dumps(asked).encode())
            done = await asyncio.to_thread(_take_in, run, answer.output, seen)
            if done:
                return

    async def remove(self, run: RunDirectory) -> None:
        """See :meth:`Files.remove`."""
        if run.read(SEEN) is not None or run.read("submitting.json") is not None:
            await self._carry("remove", self.place(run).run, account=_account(run))
        await asyncio.to_thread(run.remove)


def not_taken(run: RunDirectory) -> list[str]:
    """Return the names of results that no other machine could take, and so were not carried; none where files are shared."""
    found = []
    for path in (run.read(SEEN) or {}).get("files", {}):
        if (result := _RESULT.fullmatch(path)) and not is_safe(path):
            name = result["name"] if result["rank"] is None else f"parts/{result['rank']}/{result['name']}"
            found.append(name.encode(errors="replace").decode())
    return found


def _account(run: RunDirectory) -> str | None:
    found = (run.read("launch.json") or {}).get("account")
    return None if found is None else str(found)


def _pack(folder: Path, members: Sequence[tuple[Path, str]]) -> Path:
    """Return an archive in *folder*, without names and numbers of this machine's accounts."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".packed-")
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w|") as archive:
        for path, inside in members:
            archive.add(path, inside, filter=_nameless)
    return Path(name)


def _nameless(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member if member.isreg() or member.isdir() else None


def _frames(output: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Return the frames of an answer.

    Raises:
        TransportError: it was cut.
    """
    found: list[tuple[dict[str, Any], bytes]] = []
    at = 0
    try:
        while at < len(output):
            end = output.index(b"\n", at)
            head = json.loads(output[at:end])
            size = int(head["size"])
            if end + 1 + size > len(output):
                raise ValueError("cut")
            found.append((head, output[end + 1 : end + 1 + size]))
            at = end + 1 + size
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError(f"the centre's answer cannot be read: {error}") from error
    if not found or "done" not in found[-1][0]:
        raise TransportError("the centre's answer was cut")
    return found


def _take_in(run: RunDirectory, output: bytes, seen: dict[str, list[int]]) -> bool:
    """Write what came into the mirror; whether that was all."""
    frames = _frames(output)
    for head, data in frames[:-1]:
        try:
            path, offset, mtime = str(head["path"]), int(head["offset"]), int(head["mtime"])
        except (KeyError, ValueError):
            continue
        if not is_safe(path):  # a name that no other machine could take; it is told as left out, and not asked for again
            seen[path] = [mtime, offset + len(data)]
            continue
        try:
            _write(run.run / path, offset, data, int(head.get("mode", 0o600)), mtime)
        except (IsADirectoryError, NotADirectoryError, FileExistsError):  # a folder became a file: the first that came stays
            continue
        except OSError as error:
            raise TransportError(f"the mirror cannot be written: {error.strerror}") from error
        seen[path] = [mtime, offset + len(data)]
    run.write(SEEN, {"files": seen})
    return bool(frames[-1][0]["done"])


def _write(target: Path, offset: int, data: bytes, mode: int, mtime: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with target.open("r+b" if target.exists() and offset else "wb") as file:
        file.seek(offset)
        file.write(data)
        file.truncate()
    target.chmod((mode & 0o777) | 0o600)
    os.utime(target, ns=(mtime, mtime))
