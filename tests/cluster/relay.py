"""A way from the pods to a server that listens on loopback only, which a test can cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.cluster.configuration import GATEWAY


class Relay:
    """Listens where pods reach it and passes everything on.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._open: set[socket.socket] = set()
        self._cut = False
        self._listening = socket.create_server((GATEWAY, 0))
        self.host = GATEWAY
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections and take no new ones."""
        self._cut = True
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass on again."""
        self._cut = False

    def close(self) -> None:
        """End."""
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listening.accept()
            except OSError:
                return
            if self._cut:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open -= {source, sink}
        source.close()
