"""Every person's own password, made from one secret key.

A password is ``HMAC-SHA256(key, name)``, 80 bits in readable groups. Nothing is stored per person and nobody can work out
another's password; a new key file replaces all of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def password_of(key: str, name: str) -> str:
    """Return the password of *name*, ``xxxx-xxxx-xxxx-xxxx``."""
    digest = hmac.new(bytes.fromhex(key), f"tessera sign-in\0{name}".encode(), hashlib.sha256).digest()
    text = base64.b32encode(digest[:10]).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))
