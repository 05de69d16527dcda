"""Where the files of runs lie: on a file system that the Proxy sees, too, or at the centre only.

:class:`SharedFiles`: the Proxy's folder is on the file system of the nodes; the run's own folder is handed to the person's
account by root, or is the Proxy's own (``shared_account``). The other kind is in :mod:`carried`.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from tessera_hub.proxy import shim
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.accounts import UnixAccount
from tessera_hub.proxy.drivers.slurm.submission import SCRIPT, Place

PROGRAM: Final = Path(__file__).with_name("attendant.py")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def build_programs(folder: Path) -> list[Path]:
    """Write what runs on the nodes into *folder*: runner, attendant and batch script; the same sources give the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    from tessera_lab.runner import build_zipapp

    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    folder.chmod(0o755)
    runner = build_zipapp(folder / "runner.pyz")
    packed = folder / "attendant.pyz"
    draft = folder / f".attendant.{os.getpid()}"
    with ZipFile(draft, "w", ZIP_STORED) as archive:
        for name in ("tessera_hub/__init__.py", "tessera_hub/proxy/__init__.py"):
            archive.writestr(ZipInfo(name, _EPOCH), b"")
        for name, source in (("__main__.py", PROGRAM), ("tessera_hub/proxy/shim.py", Path(shim.__file__))):
            archive.writestr(ZipInfo(name, _EPOCH), source.read_bytes())
    script = folder / f".job.{os.getpid()}"
    script.write_text(SCRIPT)
    for path, target in ((draft, packed), (script, folder / "job.sh")):
        path.chmod(0o755)
        path.replace(target)
    return [runner, packed, folder / "job.sh"]


class Files(ABC):
    """The files of all runs. Every call may be repeated."""

    @abstractmethod
    async def start(self) -> None:
        """Put the programs in their place.

        Raises:
            OSError: the folder cannot be written.
            TransportError: the centre cannot be reached.
        """

    @abstractmethod
    def owner(self, account: UnixAccount) -> UnixAccount:
        """Return whose the files are that the Proxy reads; uid None: its own."""

    @abstractmethod
    def place(self, run: RunDirectory) -> Place:
        """Return where a run lies at the centre."""

    @abstractmethod
    async def hand_over(self, run: RunDirectory, account: UnixAccount) -> None:
        """Give the prepared ``run/`` to its account at the centre."""

    @abstractmethod
    async def put(self, run: RunDirectory, name: str, document: dict[str, Any]) -> None:
        """Write an order into the run's own folder."""

    @abstractmethod
    async def refresh(self, run: RunDirectory, *, ended: bool) -> None:
        """Bring here what the run wrote since the last time; all of it when it has *ended*."""

    @abstractmethod
    async def remove(self, run: RunDirectory) -> None:
        """Remove everything of a run at the centre and here."""


class SharedFiles(Files):
    """The Proxy's folder is seen by the nodes under the same path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def start(self) -> None:
        """See :meth:`Files.start`."""
        await asyncio.to_thread(build_programs, self.root / "programs")

    def owner(self, account: UnixAccount) -> UnixAccount:
        """See :meth:`Files.owner`."""
        return account

    def place(self, run: RunDirectory) -> Place:
        """See :meth:`Files.place`."""
        return Place(str(run.run), str(self.root / "programs"))

    async def hand_over(self, run: RunDirectory, account: UnixAccount) -> None:
        """See :meth:`Files.hand_over`. From here on the Proxy treats everything in it as foreign."""
        if account.uid is not None and account.gid is not None:
            await asyncio.to_thread(_give, run.run, account.uid, account.gid)

    async def put(self, run: RunDirectory, name: str, document: dict[str, Any]) -> None:
        """See :meth:`Files.put`."""
        await asyncio.to_thread(run.put, name, document)

    async def refresh(self, run: RunDirectory, *, ended: bool) -> None:
        """Nothing to bring: it is here."""

    async def remove(self, run: RunDirectory) -> None:
        """See :meth:`Files.remove`."""
        await asyncio.to_thread(run.remove)


def _give(top: Path, uid: int, gid: int) -> None:
    for folder, folders, names in os.walk(top):
        for name in (*folders, *names):
            os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
    os.chown(top, uid, gid, follow_symlinks=False)
