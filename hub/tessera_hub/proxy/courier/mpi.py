"""What makes ``mpirun`` in the first part of a run start processes in all of them: its hosts, its slots, and its remote shell.

The variables are those of Open MPI 4 (``OMPI_MCA_…``), of Open MPI 5 (PRRTE, ``PRTE_MCA_…``), and of MPICH and Intel MPI (Hydra).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tessera_hub.proxy.courier.company import HOSTS, Company, parse_company
from tessera_hub.proxy.courier.places import Places, read_document, write_atomic
from tessera_hub.proxy.courier.remote import Listener, call, dismiss
from tessera_hub.proxy.courier.sealed import derived_key

MACHINES: Final = "machines"
AGENT: Final = "rsh"
WELL_SECONDS: Final = 20.0
"""For the others to hear that the run has ended well; who does not hear it is told by the Proxy, later."""
BADLY_SECONDS: Final = 2.0
"""For them to hear that it has not: the Proxy tells them, too, and who does not answer may be the cause."""


def keep_key(places: Places, run_token: str) -> None:
    """Write down the key that the parts of a run share; they all have it from the run's token, which user code does not see."""
    write_atomic(places.control / "key.json", {"key": derived_key(run_token)})


def key_of(places: Places) -> bytes:
    """Return the key.

    Raises:
        ValueError: it is not there.
    """
    key = bytes.fromhex(str((read_document(places.control / "key.json") or {}).get("key", "")))
    if not key:
        raise ValueError("the run has no key for its parts")
    return key


def variables(company: Company, slots: int, places: Places, given: Mapping[str, str]) -> dict[str, str]:
    """Write the agent and the list of hosts in Hydra's form; return what the MPI implementations read, less what is *given*."""
    agent, machines = places.control / AGENT, places.control / MACHINES
    words = [sys.executable, "-I", str(Path(sys.argv[0]).absolute()), "rsh", str(places.root)]
    _write(agent, f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', 0o700)
    _write(machines, "".join(f"{address}:{slots}\n" for address in company.addresses), 0o600)
    hosts = str(places.run / HOSTS)
    found = {
        "OMPI_MCA_plm_rsh_agent": str(agent),
        "OMPI_MCA_orte_default_hostfile": hosts,
        "PRTE_MCA_plm_ssh_agent": str(agent),
        "PRTE_MCA_prte_default_hostfile": hosts,
        # Pods share a node's processors: each gang would bind its processes to the same first ones.
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": str(agent),
        "HYDRA_HOST_FILE": str(machines),
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": str(agent),
        "I_MPI_HYDRA_HOST_FILE": str(machines),
    }
    return {name: value for name, value in found.items() if name not in given}


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def program_of_others(places: Places, company: Path, uid: str) -> list[str]:
    """Return what all parts but the first run in place of the person's program."""
    words = [sys.executable, "-I", str(Path(sys.argv[0]).absolute()), "listen", "--root", str(places.root)]
    return [*words, "--company", str(company), "--uid", uid]


def listen(places: Places, company: Path, uid: str) -> int:
    """Start what the first part asks for until it is over; return the status to exit with."""
    found = parse_company(company.read_text(), uid)
    assert found is not None  # our launcher has waited for it
    return Listener(found, key_of(places)).run()


def start_there(places: Places, arguments: list[str]) -> int:
    """Be the remote shell of ``mpirun``; return the status to exit with."""
    own = (read_document(places.control / "part.json") or {}).get("address")
    return call(arguments, key_of(places), str(own))


def dismiss_others(company: Company, places: Places, *, well: bool) -> None:
    """Let the other parts end: the first one has."""
    dismiss(company.addresses[1:], company.addresses[0], key_of(places), WELL_SECONDS if well else BADLY_SECONDS, well=well)


def dismiss_own(company: Company, places: Places) -> None:
    """Let our own part end: the first one has ended well, as the Proxy says."""
    own = company.addresses[company.rank]
    dismiss([own], own, key_of(places), WELL_SECONDS, well=True)
