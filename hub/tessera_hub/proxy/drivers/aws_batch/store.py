"""The bucket: the record of each run, the words to and from it, and the programs.

``<prefix>/records/<run>.json``  the record, written by the Proxy alone
``<prefix>/settings/<run>.json`` what the courier is told, with the run's token
``<prefix>/orders/<run>.json``   the Proxy's words to the run
``<prefix>/told/<run>.json``     the run's words
``<prefix>/code/<sha256>.pyz``   runner and courier

S3 shows what was written to whoever reads afterwards, and makes an object only once where that is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final, Literal
from uuid import UUID

from botocore.exceptions import ClientError

from tessera_hub.proxy.drivers.aws_batch.cloud import Cloud
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.foreign import read_foreign

Kind = Literal["records", "settings", "orders", "told"]
KINDS: Final[tuple[Kind, ...]] = ("settings", "orders", "told", "records")
SIGNED_SECONDS: Final = 7 * 24 * 3600
"""As long as a signature can be good for; with the credentials of a role no longer than these."""
TOLD_LIMIT: Final = 1 << 16


class Store:
    """One Proxy's part of a bucket."""

    def __init__(self, cloud: Cloud, options: AwsBatchOptions) -> None:
        self._s3 = cloud.s3
        self._bucket = options.bucket
        self._prefix = options.prefix

    def _key(self, kind: Kind, run_id: UUID) -> str:
        return f"{self._prefix}/{kind}/{run_id}.json"

    def create_or_get(self, kind: Kind, run_id: UUID, document: dict[str, Any]) -> dict[str, Any]:
        """Write a document that is not there yet, or return the one that is."""
        try:
            self._put(self._key(kind, run_id), json.dumps(document).encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (409, 412):
                raise
            found = self.get(kind, run_id)
            return document if found is None else found
        return document

    def put(self, kind: Kind, run_id: UUID, document: dict[str, Any]) -> None:
        """Write a document."""
        self._put(self._key(kind, run_id), json.dumps(document).encode())

    def _put(self, key: str, data: bytes, **more: Any) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, **more)

    def get(self, kind: Kind, run_id: UUID) -> dict[str, Any] | None:
        """Return a document of ours, None if there is none."""
        data = self._get(self._key(kind, run_id))
        return None if data is None else dict(json.loads(data))

    def _get(self, key: str, limit: int | None = None) -> bytes | None:
        try:
            return bytes(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read(limit))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                return None
            raise

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield all records."""
        for key, _tag in self._list("records"):
            data = self._get(key)
            if data is not None:
                yield json.loads(data)

    def told_tags(self) -> dict[UUID, str]:
        """Return run → what changes when its words change."""
        return {UUID(key.rpartition("/")[2].removesuffix(".json")): tag for key, tag in self._list("told")}

    def told(self, run_id: UUID) -> dict[str, Any]:
        """Return a run's words, bounded: the address that they come by lies in its container."""
        data = self._get(self._key("told", run_id), TOLD_LIMIT)
        return (read_foreign(data) if data else None) or {}

    def _list(self, kind: Kind) -> Iterator[tuple[str, str]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/{kind}/")
        for page in pages:
            for found in page.get("Contents", ()):
                yield str(found["Key"]), str(found["ETag"])

    def remove(self, run_id: UUID) -> None:
        """Remove all of a run, its record last: what is left of a cut removal is removed by the next."""
        for kind in KINDS:
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(kind, run_id))

    def signed(self, kind: Kind, run_id: UUID, method: Literal["get", "put"] = "get") -> str:
        """Return an address by which somebody without credentials reads or writes one document for a time."""
        return self._signed(self._key(kind, run_id), method)

    def _signed(self, key: str, method: str) -> str:
        where = {"Bucket": self._bucket, "Key": key}
        return str(self._s3.generate_presigned_url(f"{method}_object", Params=where, ExpiresIn=SIGNED_SECONDS))

    def keep_code(self, name: str, data: bytes) -> dict[str, str]:
        """Put a program into the bucket if it is not there, and return its key and digest."""
        digest = hashlib.sha256(data).hexdigest()
        key = f"{self._prefix}/code/{digest}.pyz"
        try:
            self._s3.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            self._put(key, data)
        return {"name": name, "key": key, "sha256": digest}

    def code(self, kept: dict[str, str]) -> dict[str, str]:
        """Return what a container needs to fetch a program."""
        return {"url": self._signed(kept["key"], "get"), "sha256": kept["sha256"]}
