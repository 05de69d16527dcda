"""Words between the Proxy and a run that share a store of objects only: two objects, by addresses that are signed for a time.

The Proxy writes ``{"order": …, "urls": {"order": …, "told": …}}``, with fresh addresses before the old ones end; the run writes
how it stands. The run needs no credentials, and user code never sees the addresses.
"""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from tessera_hub.proxy.courier.calls import UnreachableError

CALL_SECONDS: Final = 20.0
WORDS_LIMIT: Final = 1 << 20


class Channel:
    """One run's two objects.

    Args:
        order_url: where the Proxy's words are read.
        told_url: where ours are written.
    """

    def __init__(self, order_url: str, told_url: str) -> None:
        self._order_url = order_url
        self._told_url = told_url
        self._sent: dict[str, Any] | None = None
        self._sending = threading.Lock()

    def read(self) -> dict[str, Any]:
        """Return the Proxy's present order, empty if there is none.

        Raises:
            UnreachableError: it cannot be read now.
        """
        found = json.loads(_call("GET", self._order_url, None))
        urls = found.get("urls") or {}
        self._order_url, self._told_url = urls.get("order", self._order_url), urls.get("told", self._told_url)
        return dict(found.get("order") or {})

    def tell(self, document: dict[str, Any]) -> None:
        """Write how the run stands, unless that is written already.

        Raises:
            UnreachableError: it cannot be written now.
        """
        with self._sending:
            if document != self._sent:
                _call("PUT", self._told_url, json.dumps(document).encode())
                self._sent = document


def _call(method: str, url: str, body: bytes | None) -> bytes:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 - an address of the Proxy's
    try:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:  # noqa: S310
            return bytes(answer.read(WORDS_LIMIT))
    except urllib.error.HTTPError as error:
        with error:
            raise UnreachableError(f"the store answers {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(str(getattr(error, "reason", error))) from error


class Listener(threading.Thread):
    """Reads the Proxy's words now and then, and writes ours when they change.

    Args:
        obey: is given each new order.
    """

    def __init__(self, channel: Channel, seconds: float, obey: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(name="listener", daemon=True)
        self._channel = channel
        self._seconds = seconds
        self._obey = obey
        self._woken = threading.Event()
        self._ended = False
        self.standing: dict[str, Any] | None = None

    def tell(self, document: dict[str, Any]) -> None:
        """Write *document* soon."""
        self.standing = document
        self._woken.set()

    def end(self) -> None:
        """Say nothing more."""
        self._ended = True
        self._woken.set()
        self.join(2 * CALL_SECONDS)

    def run(self) -> None:
        """Look until ended; what fails is tried again."""
        known: dict[str, Any] = {}
        while not self._ended:
            self._woken.clear()
            try:
                found = self._channel.read()
                if found != known:
                    known = found
                    self._obey(found)
                if self.standing is not None and not self._ended:
                    self._channel.tell(self.standing)
            except (UnreachableError, ValueError):
                pass
            self._woken.wait(self._seconds)
