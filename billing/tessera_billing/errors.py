"""The one exception that callers of this package see."""

from __future__ import annotations


class BillingError(Exception):
    """Something a person or a program gave to billing is not acceptable; nothing was written.

    Mixing currencies or units is a ``TypeError`` instead, since only a programming error can cause it.

    Attributes:
        code: stable dotted name for programs, such as ``event.spec``.
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
        super().__init__(self.message)
