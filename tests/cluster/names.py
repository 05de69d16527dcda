"""The test cluster's names: CoreDNS as a process of this machine, at the bridge's address, where every pod asks.

It knows the cluster's Services only; no question leaves the machine.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

DOMAIN: Final = "cluster.local"
PORT: Final = 53
_SECONDS: Final = 1.0
_ADDRESS_RECORD: Final = 1


def corefile(address: str, kubeconfig: Path) -> str:
    """Return the name server's configuration."""
    return f""".:{PORT} {{
    bind {address}
    errors
    kubernetes {DOMAIN} {{
        kubeconfig {kubeconfig} tessera-test
    }}
}}
"""


def lookup(address: str, name: str) -> str | None:
    """Return what the name server at *address* says about *name*, an IPv4 address; None: nothing, or no answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    number = os.urandom(2)
    question = number + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", _ADDRESS_RECORD, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(_SECONDS)
        try:
            asking.sendto(question, (address, PORT))
            answer = asking.recv(512)
        except OSError:
            return None
    if answer[:2] != number or not struct.unpack(">H", answer[6:8])[0]:
        return None
    # There is one answer and nothing behind it, so its fixed part and its four bytes are the last; its name may be short or long.
    kind, _class, _ttl, length = struct.unpack(">HHIH", answer[-14:-4])
    data = answer[-4:]
    return socket.inet_ntoa(data) if kind == _ADDRESS_RECORD and length == 4 else None
