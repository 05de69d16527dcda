"""Specifications as they are stored: what any version has accepted is read by every later one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import ValidationError

from .bounds import STORED
from .tasks import Lifecycle, TaskSpec

log = structlog.get_logger(__name__)


def stored_spec(document: Mapping[str, Any]) -> TaskSpec:
    """Return a specification that was accepted before.

    Raises:
        ValidationError: no version has written it.
    """
    return TaskSpec.model_validate(document, context=STORED)


def is_readable(document: Mapping[str, Any]) -> bool:
    """Whether a specification is one that some version has written."""
    try:
        stored_spec(document)
    except ValidationError:
        return False
    return True


def stored_lifecycle(document: Mapping[str, Any]) -> Lifecycle:
    """Return how long and how often a specification that was accepted before runs; nothing else of it is read.

    Where no version has written it, it is as if nothing had been said: one row holds up no cluster.
    """
    try:
        return Lifecycle.model_validate(document.get("lifecycle") or {}, context=STORED)
    except ValidationError as error:
        log.error("lifecycle_unreadable", error=str(error))
        return Lifecycle()
