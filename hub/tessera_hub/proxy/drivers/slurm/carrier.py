"""The far end of :mod:`carried`: runs at the centre under a person's account, as ``python3 -I -c`` with this file's text.

Standard library only. The first argument is what to do, the second the folder:

* ``put``: unpack the archive on standard input into a new folder; one that is there already stays as it is.
* ``programs``: unpack into a folder for everybody, each file at once.
* ``order NAME``: write standard input as one file, at once.
* ``fetch``: send what differs from the list on standard input.
* ``remove``: remove the folder.

``put`` and ``fetch`` answer with frames: a line of JSON, then as many bytes as its ``size`` says; the last line has ``done``.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20
BUDGET = 64 << 20
LOGS = ("output.log", "progress.jsonl", "slurm.log")
RECORDS = ("exit.json", "shim.pid.json", "shim.json", "use.json")


def own(folder: Path) -> bool:
    """Whether the folder is there, and really ours."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        sys.exit(f"{folder} belongs to somebody else")
    return True


def files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of every regular file below the folder; links are never followed."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not Path(top, name).is_symlink())
        for name in sorted(names):
            path = Path(top, name)
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield str(path.relative_to(folder)), found


def wanted(path: str, *, everything: bool, also: str) -> bool:
    """Whether a file is sent now: while the run goes on only logs, records and the growing notebook."""
    name = path.rpartition("/")[2]
    return everything or path == also or (("/" not in path or path.startswith("ranks/")) and name in (*LOGS, *RECORDS))


def frame(head: dict[str, object], data: bytes = b"") -> None:
    """Write one frame."""
    sys.stdout.buffer.write(json.dumps(head | {"size": len(data)}).encode() + b"\n" + data)


def put(folder: Path) -> None:
    """Unpack a run, once."""
    if not own(folder):
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        draft.mkdir(mode=0o700)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            archive.extractall(draft)  # noqa: S202 - our own archive, of regular files and folders
        draft.rename(folder)
    for path, found in files(folder):
        frame({"path": path, "mtime": found.st_mtime_ns, "total": found.st_size})
    frame({"done": True})


def programs(folder: Path) -> None:
    """Put programs where everybody may run them, and make the place for runs beside them."""
    os.umask(0o022)
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder.with_name("runs")
    runs.mkdir(exist_ok=True)
    if runs.stat().st_uid == os.geteuid():
        runs.chmod(0o1733)  # people make folders of their own there and list nobody's
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            data = archive.extractfile(member)
            assert data is not None
            draft = folder / f".{member.name}.{os.getpid()}"
            draft.write_bytes(data.read())
            draft.chmod(0o755)
            draft.replace(folder / member.name)


def order(folder: Path, name: str) -> None:
    """Write one file at once."""
    if own(folder):
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_bytes(sys.stdin.buffer.read())
        draft.replace(folder / name)


def fetch(folder: Path) -> None:
    """Send what differs from what the other side has, at most as much as the budget."""
    asked = json.loads(sys.stdin.buffer.read())
    known, left = asked["known"], BUDGET
    for path, found in files(folder) if own(folder) else ():
        if not wanted(path, everything=asked["everything"], also=asked["notebook"]):
            continue
        mtime, have = known.get(path, [0, 0])
        grows = path.rpartition("/")[2] in LOGS
        if mtime == found.st_mtime_ns and have == found.st_size:
            continue
        offset = have if (grows or mtime == found.st_mtime_ns) and have <= found.st_size else 0
        try:
            descriptor = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        with os.fdopen(descriptor, "rb") as file:
            file.seek(offset)
            while True:
                data = file.read(min(PIECE, left))
                head = {"path": path, "offset": offset, "mtime": found.st_mtime_ns, "mode": found.st_mode & 0o777}
                frame(head, data)
                offset, left = offset + len(data), left - len(data)
                if left <= 0:
                    frame({"done": False})
                    return
                if not data or offset >= found.st_size:
                    break
    frame({"done": True})


def main(arguments: list[str]) -> int:
    """See the module's text."""
    os.umask(0o077)
    what, folder = arguments[0], Path(arguments[1])
    if what == "order":
        order(folder, arguments[2])
    elif what == "remove":
        if own(folder):
            shutil.rmtree(folder)
    else:
        {"put": put, "programs": programs, "fetch": fetch}[what](folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
