"""The one exception type of the runner."""

from __future__ import annotations

from collections.abc import Mapping

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class RunnerError(Exception):
    """Something a person can act on: a stable code for programs, an English message, and the facts behind it.

    The hub, the Lab and the command line translate by ``code`` and ``detail``; ``message`` is for logs.

    Args:
        code: one of the reason codes in :data:`tessera_lab.runner.exits.EXIT_STATUS`.
        message: one English sentence in the person's terms.
        detail: JSON values named as in the reference page of the runner.
    """

    def __init__(self, code: str, message: str, detail: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail: dict[str, JsonValue] = dict(detail or {})
