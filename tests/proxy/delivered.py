"""A driver whose runs bring log, notebook and files themselves, shown to the conformance suite with what they brought."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import UUID, uuid4

from tessera_hub.proxy.drivers.base import Driver, OutputPath, Results, Stream
from tests.cluster.service_double import ServiceDouble


class Delivered(Driver):
    """Put before the driver's own class.

    Attributes:
        double: where the runs deliver.
        folder: for copies of what they brought.
    """

    double: ServiceDouble
    folder: Path

    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        assert await super().logs(run_id, stream, offset, limit) == b"", "what was delivered is not told twice"
        if run_id not in {run.run_id for run in await self.list_runs()}:
            return b""
        return bytes(self.double.logs[str(run_id), stream][offset : offset + limit])

    async def notebook(self, run_id: UUID, known: str | None) -> tuple[str, bytes] | None:
        data = self.double.notebooks.get(str(run_id))
        version = None if data is None else hashlib.sha256(data).hexdigest()
        return None if data is None or version is None or version == known else (version, data)

    async def results(self, run_id: UUID) -> Results:
        own = await super().results(run_id)
        found: dict[str, list[OutputPath]] = {"output": [], "checkpoint": []}
        for (kind, path), (data, mode) in sorted(self.double.named[str(run_id)].items()):
            file = self.folder / uuid4().hex
            file.write_bytes(data)
            found[kind].append(OutputPath(path, file, len(data), mode, os.geteuid()))
        assert own.checkpoint_delivered == len(found["checkpoint"])
        return Results(tuple(found["output"]), tuple(found["checkpoint"]), (), own.notes)
