"""The public exception of the Proxy."""

from __future__ import annotations


class ProxyError(Exception):
    """The Proxy cannot start or go on as it is set up; ``code`` is stable, the message says what to do.

    Codes: ``proxy.data_dir_in_use``, ``proxy.data_dir_unusable`` (full, or not ours), ``proxy.fenced`` (a newer Proxy serves
    this cluster), ``proxy.refused`` (wrong bootstrap token or unknown cluster), ``proxy.bad_option``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
