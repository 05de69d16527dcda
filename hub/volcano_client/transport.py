"""Calls to an API server with the official client's configuration (kubeconfig, service account), as plain dictionaries.

The typed models of the official client know nothing of Volcano and cost most of the time of a large list; what is used of it
is the way to the server: addresses, certificates, tokens and their renewal.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from volcano_client.errors import ClusterApiError

CALL_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
MERGE_PATCH: Final = "application/merge-patch+json"


class Transport:
    """One API server. May be used from several threads.

    Args:
        configuration: of the official client.
    """

    def __init__(self, configuration: Any) -> None:
        configuration.connection_pool_maxsize = 80  # more calls at once would open and close connections
        configuration.retries = False
        self._configuration = configuration
        self._pool = client.ApiClient(configuration).rest_client.pool_manager
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def from_kubeconfig(cls, path: str | Path, context: str | None = None) -> Transport:
        """Use a kubeconfig file.

        Raises:
            ClusterApiError: the file is not usable.
        """
        configuration, load = client.Configuration(), cast("Any", config.load_kube_config)
        try:
            load(str(path), context=context, client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError, TypeError) as error:
            raise ClusterApiError(0, "Kubeconfig", f"{path} cannot be used: {error}") from error
        return cls(configuration)

    @classmethod
    def in_cluster(cls) -> Transport:
        """Use the service account of the pod that this runs in.

        Raises:
            ClusterApiError: not in a pod.
        """
        configuration, load = client.Configuration(), cast("Any", config.load_incluster_config)
        try:
            load(client_configuration=configuration)
        except config.ConfigException as error:
            raise ClusterApiError(0, "InCluster", f"not in a pod with a service account: {error}") from error
        return cls(configuration)

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self._configuration.host)

    def to_another(self, host: str, token: str) -> Transport:
        """Return a way to another server of the same cluster.

        It must show a certificate by the cluster's authority for the address that it is called by, whatever is accepted of the
        API server. Nothing of who we are goes with it but *token*.

        Args:
            host: ``https://address:port``.
        """
        configuration = client.Configuration()
        configuration.host = host
        configuration.verify_ssl = True
        configuration.ssl_ca_cert = self._configuration.ssl_ca_cert
        configuration.api_key = {"authorization": f"Bearer {token}"}
        return Transport(configuration)

    def _send(self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, content_type: str, timeout: Any) -> Any:
        if self._closed:
            raise ClusterApiError(0, "Closed", "the connection was closed")
        headers = {"Accept": "application/json", "User-Agent": "tessera"}
        names = ("authorization", "BearerToken")
        if token := next((t for name in names if (t := self._configuration.get_api_key_with_prefix(name))), None):
            headers["Authorization"] = token
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body).encode()
        url = f"{self._configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            return self._pool.request(
                method, url, body=data, headers=headers, preload_content=False, timeout=timeout, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterApiError(0, "Unreachable", f"{self._configuration.host}: {error}") from error

    def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Call and return the answer's bytes.

        Raises:
            ClusterApiError: refused or unreachable.
        """
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=CALL_SECONDS)
        response = self._send(method, path, query, body, content_type, timeout)
        try:
            data = bytes(response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterApiError(0, "Unreachable", str(error)) from error
        finally:
            response.release_conn()
        if response.status >= 400:
            raise _refusal(response.status, data)
        return data

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Call and return the answer's object.

        Raises:
            ClusterApiError: refused, unreachable, or an answer that is no JSON object.
        """
        data = self.raw(method, path, query=query, body=body, content_type=content_type)
        try:
            found = json.loads(data)
        except ValueError as error:
            raise ClusterApiError(0, "NoJson", str(data[:200])) from error
        if not isinstance(found, dict):
            raise ClusterApiError(0, "NoJson", str(data[:200]))
        return found

    @contextmanager
    def lines(self, path: str, query: Mapping[str, Any], silence_seconds: float) -> Iterator[Iterator[bytes]]:
        """Open a stream of lines; it ends when the server ends it and is cut by *silence_seconds* without a byte.

        Raises:
            ClusterApiError: refused, unreachable or cut.
        """
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=silence_seconds)
        response = self._send("GET", path, query, None, "", timeout)
        with self._lock:
            self._open.add(response)
        try:
            if response.status >= 400:
                raise _refusal(response.status, bytes(response.read()))
            yield _split(response)
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            # A response that close() took away under the reader fails in any of these ways.
            raise ClusterApiError(0, "Unreachable", f"the stream was cut: {error}") from error
        finally:
            with self._lock:
                self._open.discard(response)
            with suppress(Exception):
                response.close()

    def close(self) -> None:
        """End all calls; streams end with an error in their threads."""
        self._closed = True
        with self._lock:
            streams = list(self._open)
        for response in streams:
            with suppress(Exception):
                response.shutdown()
        self._pool.clear()


def _split(response: Any) -> Iterator[bytes]:
    rest = b""
    for piece in response.stream(1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line)


def _refusal(status: int, data: bytes) -> ClusterApiError:
    try:
        found = json.loads(data)
    except ValueError:
        found = {}
    if not isinstance(found, dict):
        found = {}
    message = str(found.get("message") or data[:500].decode(errors="replace"))
    details = found.get("details")
    return ClusterApiError(status, str(found.get("reason") or ""), message, details if isinstance(details, dict) else {})
