"""The other parts of a run of several pods: who they are, and what the program is told about them.

The Proxy writes the list into an annotation of every pod, which the engine shows as a file, once all of them are there and
prepared. No part starts user code before it, so a run starts whole or not at all, and no name service is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tessera_hub.proxy.courier.places import Places, read_document, write_atomic

PORT: Final = 23456
"""Where the first part is to listen; each pod has an address of its own, so it is free."""
HOSTS: Final = "hosts"


@dataclass(frozen=True)
class Company:
    """All parts, and which of them we are.

    Attributes:
        addresses: by rank.
    """

    rank: int
    addresses: tuple[str, ...]

    def variables(self, hosts: Path, framework: str) -> dict[str, str]:
        """Return what a program of several parts reads, as at every other kind of cluster.

        Which of all processes one is, ``mpirun`` tells it: a part has several, and they have what the part has.
        """
        found = {"MASTER_ADDR": self.addresses[0], "MASTER_PORT": str(PORT), "TESSERA_HOSTFILE": str(hosts)}
        if framework != "mpi":
            found |= {"RANK": str(self.rank), "WORLD_SIZE": str(len(self.addresses)), "LOCAL_RANK": "0"}
        if framework == "tensorflow":
            workers = [f"{_bracketed(address)}:{PORT}" for address in self.addresses]
            task = {"type": "worker", "index": self.rank}
            found["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        return found

    def hosts(self, slots: int) -> str:
        """Return the list of hosts in the form that ``mpirun --hostfile`` takes."""
        return "".join(f"{address} slots={slots}\n" for address in self.addresses)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def parse_company(text: str, own_uid: str) -> Company | None:
    """Read the Proxy's list ``{"parts": [{"uid", "address"}, …]}``; None while there is none, or we are not in it."""
    try:
        parts: list[dict[str, Any]] = json.loads(text)["parts"] if text else []
        uids = [str(part["uid"]) for part in parts]
        addresses = tuple(str(part["address"]) for part in parts)
    except (ValueError, KeyError, TypeError):
        return None
    return Company(uids.index(own_uid), addresses) if own_uid in uids else None


def await_company(file: Path, own_uid: str, wait: Callable[[], bool]) -> Company | None:
    """Return the company once it is complete; None when *wait*, called between two looks, says that it is over."""
    while True:
        with contextlib.suppress(OSError):
            found = parse_company(file.read_text(), own_uid)
            if found is not None:
                return found
        if not wait():
            return None


def join(company: Company, places: Places, framework: str, slots: int) -> dict[str, str]:
    """Write down which part we are, for the delivery, and the file of hosts; return the program's variables."""
    write_atomic(places.control / "part.json", {"rank": company.rank, "address": company.addresses[company.rank]})
    hosts = places.run / HOSTS
    descriptor = os.open(hosts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(company.hosts(slots))
    return company.variables(hosts, framework)


def own_rank(places: Places) -> int | None:
    """Return which part we are; None before the company was complete."""
    rank = (read_document(places.control / "part.json") or {}).get("rank")
    return rank if type(rank) is int else None
