"""A view that keeps itself up to date in the background of a kernel.

A daemon thread asks the service, at most once a second, and sets one synchronised trait when something changed; the kernel stays
free for the person's cells, and a busy kernel does not hold the view up. The thread ends with the widget, the task or the kernel.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

from tessera_hub.client import TesseraClient, TesseraError
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_widgets.fallback import render

STATIC: Final = Path(__file__).parent / "static"
SHORTEST_SECONDS: Final = 1.0
SLOWEST_SECONDS: Final = 30.0

View = dict[str, Any]
"""What a view shows, as JSON: texts in the person's language, numbers, and nothing to be interpreted as markup."""


class LiveView(anywidget.AnyWidget):
    """Base of the live views.

    Args:
        client: how the service is reached; by default a client of its own.
        every_seconds: pause between two questions, at least one second.
    """

    _css = STATIC / "views.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, client: TesseraClient | None = None, *, every_seconds: float = 2.0, **traits: Any) -> None:
        self._client = client or TesseraClient()
        self._owns_client = client is None
        self._every = max(every_seconds, SHORTEST_SECONDS)
        self._ended = threading.Event()
        self._wake = threading.Event()
        super().__init__(**traits)
        self._look()
        self._thread = threading.Thread(target=self._run, name="tessera-view", daemon=True)
        self._thread.start()

    def load(self) -> tuple[View, bool]:
        """Return what to show now, and whether it can still change. Runs in the background thread."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Look again soon."""
        self._wake.set()

    def close(self) -> None:
        """Stop looking and remove the view."""
        self._stop()
        super().close()

    def __del__(self) -> None:
        """Stop looking when nobody holds the widget."""
        if hasattr(self, "_ended"):
            self._ended.set()
            self._wake.set()

    def _stop(self) -> None:
        self._ended.set()
        self._wake.set()

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            self._wake.wait(min(self._every * (1 << min(failures, 5)), SLOWEST_SECONDS))
            self._wake.clear()
            if self._ended.wait(0):
                break
            more, well = self._look()
            failures = 0 if well else failures + 1
            if not more:
                break
        if self._owns_client:
            self._client.close()

    def _look(self) -> tuple[bool, bool]:
        """Take one look; return whether more can come, and whether the service answered."""
        with language(self._client.speak):
            try:
                view, more = self.load()
                view["problem"] = None
            except TesseraError as error:
                view, more = self._with_problem(error), error.code != "client.closed"
            view["words"] = words()
            # A view in the browser that hears nothing for several times as long knows that the kernel is gone.
            view["every_seconds"] = self._every
        if not self._ended.is_set() and view != self.view:
            self.view = view
        return more, view["problem"] is None

    def tell(self, error: TesseraError) -> None:
        """Show *error* beside the last state."""
        self.view = self._with_problem(error)

    def _with_problem(self, error: TesseraError) -> View:
        """The last state, with the reason why it is old."""
        last: View = dict(self.view or {})
        since = (last.get("problem") or {}).get("since") or datetime.now(UTC).isoformat(timespec="seconds")
        return last | {"problem": {"text": error.message, "hint": error.hint, "since": since}}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Add the last state as HTML, for viewers without a kernel or without widgets."""
        bundle = super()._repr_mimebundle_(**options)
        with language(self._client.speak):
            page = render(self.view)
        if isinstance(bundle, tuple):
            data, metadata = bundle
            return {**data, "text/html": page}, metadata
        return None if bundle is None else {**bundle, "text/html": page}


def words() -> dict[str, str]:
    """Return the fixed texts of the views in the current language."""
    return {
        "cancel": _("Cancel"),
        "cancelling": _("Ending …"),
        "log": _("Output"),
        "since": _("No answer since"),
        "of": _("of"),
        "as_of": _("As of"),
    }
