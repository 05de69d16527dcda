"""A spawner that misbehaves in the way its server's name says; everything else about it is the real one."""

from __future__ import annotations

import sys
from typing import Any

from tessera_spawner.local import LocalTesseraSpawner

PROGRAMS = {
    "dies": "raise SystemExit(3)",
    "mute": "import time; time.sleep(600)",
    "slow": (
        "import os, time; time.sleep(4); "
        "from http.server import HTTPServer, SimpleHTTPRequestHandler as H; "
        "import urllib.parse; port = urllib.parse.urlsplit(os.environ['JUPYTERHUB_SERVICE_URL']).port; "
        "H.do_GET = lambda self: (self.send_response(200), self.end_headers()); "
        "HTTPServer(('127.0.0.1', port), H).serve_forever()"
    ),
}


class MisbehavingSpawner(LocalTesseraSpawner):
    """``raises``: fails before it starts anything; ``dies``, ``mute``, ``slow``: see :data:`PROGRAMS`."""

    async def start(self) -> Any:
        """Start what the name says."""
        if self.name in PROGRAMS:
            self.cmd = [sys.executable, "-c", PROGRAMS[self.name]]
        return await super().start()

    def make_home(self) -> None:
        """Fail after the reservation was taken."""
        if self.name == "raises":
            raise OSError(28, "No space left on device")
        super().make_home()
