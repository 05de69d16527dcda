"""The one exception that callers of this package see."""

from __future__ import annotations


class VgpuError(Exception):
    """Something that was asked of the node agent, or found on its node, is not acceptable.

    Attributes:
        code: stable dotted name for programs, such as ``placement.no_room``.
        template, hint_template: English texts with ``{name}`` places, the keys of a message catalogue.
        values: what goes into the places.
        message, hint: the English texts, filled in. ``hint`` says what to do; it may be empty.
    """

    def __init__(self, code: str, message: str, hint: str = "", **values: object) -> None:
        self.code = code
        self.template = message
        self.hint_template = hint
        self.values = values
        self.message = message.format(**values)
        self.hint = hint.format(**values)
        super().__init__(f"{self.message} {self.hint}".rstrip())
