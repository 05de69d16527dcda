"""A connection between two pods of one run, on which only who has the run's key can say anything.

Each end sends a nonce; with the key they make one key for each direction, and each frame ends with an HMAC over its number and
its content. So no frame can be made, changed, repeated or left out by who has not the key, of another tenant or of the same. What
is in a frame is not hidden: MPI's own messages between the pods are not, either.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
from typing import Final

FRAME_LIMIT: Final = 1 << 18
"""Bytes in a frame. A command is no longer than what Linux takes as one argument (``MAX_ARG_STRLEN``, 128 KiB)."""
_NONCE: Final = 32
_SEAL: Final = 32
_HEAD: Final = struct.Struct("!cI")
_NUMBER: Final = struct.Struct("!Q")


class SealError(Exception):
    """What came is not from a part of this run."""


def derived_key(run_token: str) -> str:
    """Return the key that all parts of a run share, in hexadecimal; user code may know it, and cannot tell the token by it."""
    return hmac.new(run_token.encode(), b"tessera parts", "sha256").hexdigest()


class Sealed:
    """One connection.

    Args:
        key: of the run.
        caller: whether this end made the connection.

    Raises:
        EOFError: the other end closed it.
        OSError: it broke, or its time-out passed.
    """

    def __init__(self, connection: socket.socket, key: bytes, *, caller: bool) -> None:
        self.connection = connection
        own = secrets.token_bytes(_NONCE)
        connection.sendall(own)
        other = self._exactly(_NONCE)
        nonces = own + other if caller else other + own
        keys = [hmac.digest(key, side + nonces, "sha256") for side in (b"caller", b"called")]
        self._own_key, self._other_key = keys if caller else reversed(keys)
        self._sent = self._received = 0

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send a frame of a kind, which is one byte."""
        head = _HEAD.pack(kind, len(content))
        seal = hmac.digest(self._own_key, _NUMBER.pack(self._sent) + head + content, "sha256")
        self._sent += 1
        self.connection.sendall(head + content + seal)

    def receive(self) -> tuple[bytes, bytes]:
        """Return kind and content of the next frame.

        Raises:
            SealError: it was not sealed with the run's key.
            EOFError: the other end closed the connection.
            OSError: it broke, or its time-out passed.
        """
        head = self._exactly(_HEAD.size)
        kind, length = _HEAD.unpack(head)
        if length > FRAME_LIMIT:
            raise SealError(f"a frame of {length} bytes")
        content, seal = self._exactly(length), self._exactly(_SEAL)
        wanted = hmac.digest(self._other_key, _NUMBER.pack(self._received) + head + content, "sha256")
        if not hmac.compare_digest(seal, wanted):
            raise SealError("not sealed with the key of this run")
        self._received += 1
        return kind, content

    def _exactly(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            piece = self.connection.recv(length - len(found))
            if not piece:
                raise EOFError("the connection was closed")
            found += piece
        return bytes(found)
