"""What may be said to ``tessera up``: checked before anything starts."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from tessera_hub.cards import CATALOGUE
from tessera_hub.i18n import gettext as _
from tessera_hub.installation import Installation, InstallationError

SIMULATED: Final = r"^[1-9][0-9]{0,2}x[A-Za-z0-9._-]{1,60}$"


def valid_cards(entries: tuple[str, ...]) -> list[str]:
    """Return the entries of ``--simulate-cards``, one for each class.

    Raises:
        InstallationError: not of the form ``2xA100-80G``, or a class that the catalogue lacks or that occurs twice. The Proxy
            would refuse it, too, but only once all has started.
    """
    found = [part.strip() for entry in entries for part in entry.split(",") if part.strip()]
    seen = set[str]()
    for part in found:
        if not re.match(SIMULATED, part):
            raise InstallationError(_("{value} is not a number of cards.", value=part), _("Write for example 2xA100-80G."))
        name = part.partition("x")[2]
        if name not in CATALOGUE:
            raise InstallationError(_("There is no card {name}.", name=name), _("Known: {models}.", models=", ".join(CATALOGUE)))
        if name in seen:
            raise InstallationError(_("Card {name} occurs twice.", name=name), _("Write each card once, with its number."))
        seen.add(name)
    return found


def valid_address(url: str) -> str:
    """Return the address for people without a slash at its end.

    Raises:
        InstallationError: it is not just a scheme and a host.
    """
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise InstallationError(
            _("{value} is not an address for people.", value=url), _("Write for example https://hub.example.org, without a path.")
        )
    return f"{parts.scheme}://{parts.netloc}"


def valid_currency(code: str | None, here: Installation) -> str:
    """Return the currency: what was said, or what it was before.

    Raises:
        InstallationError: the price book is in another one already, or it is no code.
    """
    if code is None or code == here.currency:
        return here.currency
    if not re.fullmatch("[A-Z]{3}", code):
        raise InstallationError(_("{value} is not a currency code.", value=code), _("Use three capitals, as in CNY."))
    if (here.data_dir / "tessera.sqlite").exists():
        raise InstallationError(
            _("The prices in {path} are in {currency}.", path=here.data_dir, currency=here.currency),
            _("A price book keeps its currency: leave out --currency, or choose another --data-dir."),
        )
    return code


def valid_zone(name: str) -> str:
    """Return the name of a time zone.

    Raises:
        InstallationError: there is none of this name.
    """
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:
        raise InstallationError(
            _("There is no time zone {value}.", value=name), _("Write for example UTC or Asia/Shanghai.")
        ) from error
    return name
