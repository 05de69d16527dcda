"""The simple way to take a job, for comparison: one HTTP handler, one row, one commit.

What Jupyter's own scheduler extension does on a submit, without its check of the input file: no tenant, no quota, no
idempotency key, no files, no events, nothing waits for it. ``python -m benchmarks.hub.onerow URL PORT``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import JSON, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application, RequestHandler


class Base(DeclarativeBase):
    """Base of the one table."""


class Job(Base):
    """A submitted job."""

    __tablename__ = "one_row_job"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str]
    status: Mapped[str]
    spec: Mapped[dict[str, object]] = mapped_column(JSON)
    created_at: Mapped[str]


class Jobs(RequestHandler):
    """``POST /jobs``."""

    async def post(self) -> None:
        """Store the body and answer the id."""
        body = json.loads(self.request.body)
        job = Job(id=str(uuid4()), name=body["name"], status="CREATED", spec=body, created_at=datetime.now(UTC).isoformat())
        with Session(self.settings["engine"]) as session:
            session.add(job)
            session.commit()
            self.finish({"job_id": job.id})


async def serve(url: str, port: int) -> None:
    """Serve until killed."""
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    Application([("/jobs", Jobs)], engine=engine).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
