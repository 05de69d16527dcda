"""Sign-in of a small installation by the passwords of :mod:`tessera_hub.passwords`; larger ones use any other authenticator."""

from __future__ import annotations

import hmac
from typing import Any

from jupyterhub.auth import Authenticator
from traitlets import Unicode

from tessera_hub.passwords import password_of


class PasswordAuthenticator(Authenticator):  # type: ignore[misc]  # JupyterHub has no types
    """Checks the passwords of :func:`password_of`; in single-person mode for one name only."""

    key = Unicode(help="Secret key, hexadecimal. Example: ``c.PasswordAuthenticator.key = open('key').read().strip()``").tag(
        config=True
    )
    only_person = Unicode(help="Only this name may sign in; empty: whoever has a password.").tag(config=True)

    async def authenticate(  # pyright: ignore[reportIncompatibleMethodOverride]  # the base class has no types
        self, handler: Any, data: dict[str, str]
    ) -> str | None:
        """Return the name if the password is right."""
        name = self.normalize_username(data.get("username", ""))
        given = "".join(data.get("password", "").split()).lower()
        expected = password_of(self.key, name)
        right = hmac.compare_digest(given.encode(), expected.encode())
        if self.only_person and name != self.only_person:
            self.log.warning("sign-in refused: this machine serves only %s (see tessera doctor)", self.only_person)
            return None
        return name if right else None
