"""Whose Unix account a run has. Every refusal happens before anything of a run reaches the centre."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.slurm.settings import SlurmSettings
from tessera_hub.proxy.drivers.slurm.transport import Transport


@dataclass(frozen=True, slots=True)
class UnixAccount:
    """An account of the centre; ``name`` None: the Proxy's own (``shared_account``)."""

    name: str | None
    uid: int | None = None
    gid: int | None = None


async def account_of(owner: str, settings: SlurmSettings, transport: Transport) -> UnixAccount:
    """Return the account of a person.

    Raises:
        DriverError: ``principal.no_account``: none is set up, it does not exist, or it is one of the system's.
        TransportError: the centre cannot be asked.
    """
    if settings.shared_account:
        return UnixAccount(None)
    name = settings.accounts.get(owner) or (owner if settings.same_names else None)
    if name is None:
        raise DriverError("principal.no_account", f"{owner} is not among the accounts of this centre", {"person": owner})
    if settings.ssh is None:
        try:
            found = pwd.getpwnam(name)
            uid, gid = found.pw_uid, found.pw_gid
        except (KeyError, ValueError) as error:
            raise DriverError("principal.no_account", f"this centre has no account {name}", {"person": owner}) from error
    else:
        ids = [await transport.run(["id", option, "--", name]) for option in ("-u", "-g")]
        if any(answer.status or not answer.text.strip().isdigit() for answer in ids):
            raise DriverError("principal.no_account", f"this centre has no account {name}", {"person": owner})
        uid, gid = (int(answer.text) for answer in ids)
    if uid < settings.minimum_uid:
        message = f"{name} has the uid {uid}, below {settings.minimum_uid}: an account of the system runs nothing"
        raise DriverError("principal.no_account", message, {"person": owner})
    return UnixAccount(name, uid, gid)
