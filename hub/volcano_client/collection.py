"""Objects of one kind: get, list, create-or-get, patch, delete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from volcano_client.errors import ClusterApiError
from volcano_client.kinds import Kind
from volcano_client.transport import MERGE_PATCH, Transport

PAGE: Final = 500


class Collection:
    """All objects of a kind at one API server."""

    def __init__(self, transport: Transport, kind: Kind) -> None:
        self.transport = transport
        self.kind = kind

    def get(self, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return an object, None if there is none."""
        try:
            return self.transport.call("GET", self.kind.path(namespace, name))
        except ClusterApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Iterator[dict[str, Any]]:
        """Yield all objects, page by page."""
        query: dict[str, Any] = {"limit": PAGE}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        while True:
            page = self.transport.call("GET", self.kind.path(namespace), query=query)
            yield from page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def create_or_get(self, document: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create the object, or return the one that has its name already; the second value says which.

        A lost answer is resolved by calling again: names follow from what is made.
        """
        metadata = document["metadata"]
        namespace = metadata.get("namespace")
        try:
            return self.transport.call("POST", self.kind.path(namespace), body=dict(document)), True
        except ClusterApiError as error:
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
        found = self.get(metadata["name"], namespace)
        if found is None:  # it was deleted in between: once more, and a second refusal is told
            return self.transport.call("POST", self.kind.path(namespace), body=dict(document)), True
        return found, False

    def check(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Let the API server validate an object strictly, unknown fields included, without making it."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        return self.transport.call(
            "POST", self.kind.path(document["metadata"].get("namespace")), query=query, body=dict(document)
        )

    def patch(self, name: str, change: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any] | None:
        """Merge *change* into an object; None if there is none."""
        path = self.kind.path(namespace, name)
        try:
            return self.transport.call("PATCH", path, body=dict(change), content_type=MERGE_PATCH)
        except ClusterApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(
        self,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete an object, with what it owns; none is no error, and with *uid* another of the same name stays."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        body |= {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        body |= {} if uid is None else {"preconditions": {"uid": uid}}
        try:
            self.transport.call("DELETE", self.kind.path(namespace, name), body=body)
        except ClusterApiError as error:
            if error.status != 404 and not (error.status == 409 and uid is not None):
                raise
