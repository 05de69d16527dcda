"""People's homes on a volume of the cluster, so that a task may work in the live folder. Pure.

A pod gets its person's home and nothing else of the volume: which folder that is follows from numbers and names that the service
vouches for. The path that the task names is never part of a mount, since a kubelet follows links inside of the volume, and a link
of one person may lead to another's home. In the container the same link leads nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.bounds import safe_relative_path
from tessera_hub.schemas.protocol import Lease

VOLUME: Final = "home"
_OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*")
_PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")
PERSONAL: Final = frozenset({"owner", "principal_id"})
KNOWN: Final = PERSONAL | {"tenant_id"}
CLOSED: Final = frozenset({"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"})
FOLDER: Final = "{tenant_id}/{principal_id}"
PATH: Final = "/home/{owner}"


@dataclass(frozen=True, slots=True)
class Homes:
    """Where people's homes are.

    Attributes:
        claim: PersistentVolumeClaim of each tenant's namespace.
        folder: a person's folder on the volume, with ``{principal_id}`` or ``{owner}``, and ``{tenant_id}``.
        path: where people see their home, and runs as well; may have the same words.
        uid_base: runs there have the Unix id ``uid_base + principal``; None: that of all runs.
    """

    claim: str
    folder: str = FOLDER
    path: str = PATH
    uid_base: int | None = None

    def check(self) -> None:
        """See whether homes can be told apart, and stay out of the way of a container's own folders.

        Raises:
            ValueError: says what is wrong.
        """
        for text in (self.folder, self.path):
            words = set(_PLACEHOLDER.findall(text))
            if not words <= KNOWN or any(c in _PLACEHOLDER.sub("", text) for c in "{}:$"):
                raise ValueError(f"{text}: the words are {{owner}}, {{principal_id}} and {{tenant_id}}")
        safe_relative_path(self.folder)
        parts = self.folder.split("/")
        if not any(set(_PLACEHOLDER.findall(part)) & PERSONAL for part in parts):
            raise ValueError(f"{self.folder}: everybody would have the same home; put {{principal_id}} into it")
        if (
            not self.path.startswith("/")
            or self.path.split("/")[1].startswith(("tessera", "{"))
            or self.path.split("/")[1] in CLOSED
        ):
            raise ValueError(f"{self.path}: homes cannot lie there in a container")
        safe_relative_path(self.path[1:])


@dataclass(frozen=True, slots=True)
class Home:
    """A live task's person's home.

    Attributes:
        folder: on the volume.
        path: in the container.
        live: the folder that the task works in, below ``path`` as far as names go.
    """

    claim: str
    folder: str
    path: str
    live: str
    uid: int | None

    def volume(self) -> dict[str, Any]:
        """Return the pod's volume."""
        return {"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}

    def mount(self) -> dict[str, Any]:
        """Return the mount of the container that user code runs in."""
        return {"name": VOLUME, "mountPath": self.path, "subPath": self.folder}


def home_of(lease: Lease, homes: Homes | None) -> Home | None:
    """Return the home that a live task works in; None for a task with a snapshot.

    Raises:
        DriverError: ``inputs.live_refused``, ``principal.name``.
    """
    if lease.spec.inputs.kind != "live":
        return None
    asked = lease.spec.inputs.live_folder or ""
    if homes is None:
        raise DriverError("inputs.live_refused", "this cluster has no volume with people's homes", {"folder": asked[:200]})
    if not _OWNER.fullmatch(lease.owner):
        raise DriverError("principal.name", "the person's name cannot name a directory")
    words = {"owner": lease.owner, "principal_id": str(lease.principal_id), "tenant_id": str(lease.tenant_id)}
    folder, path = (_PLACEHOLDER.sub(lambda found: words[found[1]], text) for text in (homes.folder, homes.path))
    try:
        if asked != path:
            safe_relative_path(asked.removeprefix("/"))
        inside = asked == path or (asked.startswith("/") and PurePosixPath(asked).is_relative_to(path))
    except ValueError:
        inside = False
    if not inside:
        message = f"{asked[:200]!r} is not a folder below {path}, which is the home of {lease.owner} at this cluster"
        raise DriverError("inputs.live_refused", message, {"folder": asked[:200]})
    return Home(homes.claim, folder, path, asked, None if homes.uid_base is None else homes.uid_base + lease.principal_id)
