"""The one exception type of the widgets."""

from __future__ import annotations


class WidgetError(Exception):
    """A view cannot be made: something that the person's kernel lacks; the message says what to do."""
