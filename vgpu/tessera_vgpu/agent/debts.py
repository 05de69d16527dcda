"""Who begins to work again before it has paid for what it had beyond its limit: the library's bucket, by the driver's word alone.

A kernel cannot be interrupted. So an honest container may have a whole card for as long as one takes, and waits afterwards,
until its limit has made up for it (``vgpu/interposer/tokens.c``). By how much it is over its limit at a moment says nothing,
therefore, and neither does its mean of a minute. What says something is a beginning: a container that owes time, paused, and is
over its limit once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MOST_S: Final = 5.0
"""The library waits a minute at most and forgives the rest, and even the smallest limit pays more than this in a minute."""
OWES_S: Final = 1.5
"""So much is no debt yet: what the driver says of a moment may tell of so long before it."""


@dataclass(slots=True)
class _Account:
    at_ns: int
    owed_s: float = 0.0
    over: bool = False
    began_owing: bool = False


class Debts:
    """Keeps an account for each container on a card."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def look(self, shares: Iterable[tuple[str, float, float]], now_ns: int) -> set[str]:
        """Take a look in, and return who has begun anew while it owed, and has not paid since.

        Args:
            shares: container, what it uses of the card by the driver's word, and the most that is tolerated; 1 is the whole card.
            now_ns: of a clock that never goes back.
        """
        living: dict[str, _Account] = {}
        for nonce, used, most in shares:
            account = living[nonce] = self._accounts.get(nonce, _Account(now_ns))
            passed_s, account.at_ns = (now_ns - account.at_ns) / 1e9, now_ns
            over = used > most
            account.began_owing |= over and not account.over and account.owed_s > OWES_S
            account.owed_s = min(max(account.owed_s + (used - most) * passed_s, 0.0), MOST_S)
            account.began_owing &= account.owed_s > 0
            account.over = over
        self._accounts = living
        return {nonce for nonce, account in living.items() if account.began_owing}

    def owing(self) -> set[str]:
        """Return who has not paid yet, as of the last look."""
        return {nonce for nonce, account in self._accounts.items() if account.owed_s > 0}
