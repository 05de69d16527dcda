"""Following a collection: list, then watch with bookmarks from the list's version, for ever.

The stock watch loses events: it forgets the version on an empty stream, repeats the list's items as new after 410, and hangs on a
dead connection. Here the version moves with every event and bookmark; 410 (in the answer or as an ERROR event) leads to a new
list, whose difference to what is known is told as changes; silence cuts the stream.

Source: Kubernetes API concepts, "Efficient detection of changes".
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from volcano_client.errors import ClusterApiError
from volcano_client.kinds import Kind
from volcano_client.transport import Transport

WATCH_SECONDS: Final = 290
SILENCE_SECONDS: Final = 320.0
"""Bookmarks come every minute where the server sends them; a stream that outlives its own end is dead."""
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 15.0
PAGE: Final = 500

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a collection.

    Attributes:
        what: ``SYNCED`` comes after each list, when all its differences were told, and ``CURRENT`` when the server says in a
            watch that nothing is missing up to now; then ``document`` is empty.
        document: the object, its last state when it was deleted.
    """

    what: Literal["SET", "GONE", "SYNCED", "CURRENT"]
    document: dict[str, Any]


def key_of(document: Mapping[str, Any]) -> Key:
    """Return (namespace, name)."""
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def follow(
    transport: Transport,
    kind: Kind,
    *,
    namespace: str | None = None,
    labels: str = "",
    fields: str = "",
    stop: threading.Event,
    on_trouble: Callable[[ClusterApiError], None] | None = None,
    watch_seconds: int = WATCH_SECONDS,
    keep: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document,
) -> Iterator[Change]:
    """Yield the changes of a collection until *stop*; blocks, so it runs in a thread of its own.

    Args:
        on_trouble: told of each error before the pause that follows it.
        keep: what to remember of an object, to tell it when it is gone; may leave out the bulk.
    """
    selectors = {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
    path = kind.path(namespace)
    known: dict[Key, dict[str, Any]] = {}
    version: str | None = None
    pause = FIRST_PAUSE
    cut = False
    while not stop.is_set():
        try:
            if version is None:
                found, version = _listed(transport, path, selectors)
                gone = [known.pop(key) for key in set(known) - set(found)]
                yield from (Change("GONE", document) for document in gone)
                for key, document in found.items():
                    old = known.get(key)
                    known[key] = keep(document)
                    if old is None or old["metadata"].get("resourceVersion") != document["metadata"].get("resourceVersion"):
                        yield Change("SET", document)
                del found
                yield Change("SYNCED", {})
            query = selectors | {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                # After trouble a short one: where nothing changes, only its end says soon that nothing is missing.
                "timeoutSeconds": 1 if cut else watch_seconds,
            }
            with transport.lines(path, query, min(SILENCE_SECONDS, watch_seconds + 30)) as lines:
                for line in lines:
                    pause = FIRST_PAUSE
                    event = json.loads(line)
                    document = event["object"]
                    if event["type"] == "ERROR":
                        raise ClusterApiError(
                            int(document.get("code") or 500), str(document.get("reason", "")), str(document.get("message", ""))
                        )
                    version = document["metadata"]["resourceVersion"]
                    if event["type"] == "BOOKMARK":
                        yield Change("CURRENT", {})
                    elif event["type"] == "DELETED":
                        known.pop(key_of(document), None)
                        yield Change("GONE", document)
                    else:
                        known[key_of(document)] = keep(document)
                        yield Change("SET", document)
            cut = False
            yield Change("CURRENT", {})
        except (ClusterApiError, ValueError, KeyError) as error:
            trouble = error if isinstance(error, ClusterApiError) else ClusterApiError(0, "BadEvent", repr(error))
            if trouble.status == 410 or not isinstance(error, ClusterApiError):
                version = None  # what we know is too old: list again at once
            cut = True
            if stop.is_set():
                return
            if on_trouble is not None:
                on_trouble(trouble)
            stop.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause = min(pause * 2, LONGEST_PAUSE)


def _listed(transport: Transport, path: str, selectors: Mapping[str, str]) -> tuple[dict[Key, dict[str, Any]], str]:
    """Return all objects and the version of the list; its pages are of one version."""
    query: dict[str, Any] = {**selectors, "limit": PAGE}
    found: dict[Key, dict[str, Any]] = {}
    while True:
        page = transport.call("GET", path, query=query)
        for document in page.get("items") or ():
            found[key_of(document)] = document
        metadata = page.get("metadata") or {}
        if not metadata.get("continue"):
            return found, str(metadata["resourceVersion"])
        query["continue"] = metadata["continue"]


class Mirror:
    """The present state of a collection, kept by a thread; reading it costs no call.

    Args:
        keep: what to remember of an object; may leave out the bulk.
        changed: called from the thread after each change.
    """

    def __init__(
        self,
        transport: Transport,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        keep: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document,
        changed: Callable[[Change], None] | None = None,
        watch_seconds: int = WATCH_SECONDS,
    ) -> None:
        self.kind = kind
        self.trouble: ClusterApiError | None = None
        self._transport = transport
        self._selection: dict[str, Any] = {"namespace": namespace, "labels": labels, "fields": fields}
        self._keep = keep
        self._changed = changed
        self._watch_seconds = watch_seconds
        self._objects: dict[Key, dict[str, Any]] = {}
        self._synced = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mirror-{kind.plural}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def wait_synced(self, seconds: float) -> bool:
        """Whether the first list has come within this time."""
        return self._synced.wait(seconds)

    def stop(self) -> None:
        """End; the transport's close() ends a stream that is open."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        with suppress(RuntimeError):
            self._thread.join(seconds)

    def all(self) -> list[dict[str, Any]]:
        """Return all objects as they are now. They are shared: do not change them."""
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return one object."""
        return self._objects.get((namespace, name))

    def put(self, document: dict[str, Any]) -> None:
        """Take in an object that a call of ours returned, so that it is seen before its event comes."""
        self._objects.setdefault(key_of(document), self._keep(document))

    def _run(self) -> None:
        for change in follow(
            self._transport,
            self.kind,
            **self._selection,
            stop=self._stop,
            on_trouble=self._told,
            keep=self._keep,
            watch_seconds=self._watch_seconds,
        ):
            self.trouble = None
            if change.what == "CURRENT":
                continue
            if change.what == "SYNCED":
                self._synced.set()
            elif change.what == "GONE":
                self._objects.pop(key_of(change.document), None)
            else:
                self._objects[key_of(change.document)] = self._keep(change.document)
            if self._changed is not None:
                self._changed(change)

    def _told(self, error: ClusterApiError) -> None:
        if error.status != 410:
            self.trouble = error
