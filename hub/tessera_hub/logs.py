"""How the service and the Proxy write their logs."""

from __future__ import annotations

import os

import structlog


def configure_logging() -> None:
    """Structured logs, one JSON object a line, with request, task and run ids where they are known."""
    level = {"debug": 10, "info": 20, "warning": 30}.get(os.environ.get("TESSERA_LOG_LEVEL", "info").lower(), 20)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
