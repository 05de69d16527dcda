"""A form that submits a notebook or script from a notebook."""

from __future__ import annotations

import json
import threading
import uuid
from html import escape
from typing import Any

import ipywidgets as widgets

from tessera_hub.client import SubmitOptions, TesseraClient, TesseraError
from tessera_hub.client.wording import money, rate
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_hub.schemas.capacity import Estimate
from tessera_widgets.task import TaskView

ESTIMATE_PAUSE_SECONDS = 0.6


def parse_parameters(text: str) -> dict[str, Any]:
    """Return the parameters of lines ``name = value``; a value that is JSON is taken as that, anything else as text.

    Raises:
        TesseraError: ``spec.parameters``, a line has another form.
    """
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name.isidentifier():
            raise TesseraError("spec.parameters", _("{value} is not of the form name=value.", value=repr(line)))
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def estimate_text(estimate: Estimate) -> str:
    """Return price, highest cost and when it starts, in one line."""
    verdicts = {"now": _("Starts now"), "wait": _("Has to wait"), "never": _("Can never start")}
    parts = [rate(estimate.nano_per_hour, estimate.currency), verdicts[estimate.verdict]]
    if estimate.high_micro is not None:
        parts.insert(1, _("at most {amount}", amount=money(estimate.high_micro, estimate.currency)))
    parts += [reason.message or reason.code for reason in estimate.reasons[:1]]
    return " · ".join(parts)


class SubmitForm(widgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """``SubmitForm("train.ipynb")``: fields, what it would cost, and the task below once it is submitted.

    Estimates and the submit run in threads, so the kernel stays free. A double click is one task.
    """

    def __init__(self, path: str = "", client: TesseraClient | None = None, **options: Any) -> None:
        self._client = client or TesseraClient()
        self._key = uuid.uuid4().hex
        self._timer: threading.Timer | None = None
        wide = widgets.Layout(width="36em")
        with language(self._client.speak):
            style = {"description_width": "10em"}
            self.path = widgets.Text(path, description=_("File"), layout=wide, style=style)
            self.include = widgets.Dropdown(
                options=[(_("Only the file"), "notebook"), (_("Its folder"), "folder")],
                description=_("Snapshot"),
                layout=wide,
                style=style,
            )
            self.parameters = widgets.Textarea(
                placeholder="epochs = 3", description=_("Parameters"), rows=3, layout=wide, style=style
            )
            self.cpu = widgets.Text("1", description=_("Processor cores"), layout=wide, style=style)
            self.memory = widgets.Text("2GiB", description=_("Memory"), layout=wide, style=style)
            self.cards = widgets.Text(placeholder="0.5", description=_("Cards"), layout=wide, style=style)
            self.datasets = widgets.Text(placeholder="imagenet, cifar10", description=_("Data sets"), layout=wide, style=style)
            self.button = widgets.Button(description=_("Run as job"), button_style="primary", icon="play")
        self.message = widgets.HTML()
        self.task: TaskView | None = None
        fields = [self.path, self.include, self.parameters, self.cpu, self.memory, self.cards, self.datasets]
        for field in fields:
            field.observe(self._changed, "value")
        self.button.on_click(self._clicked)
        self._parts: list[Any] = [*fields, self.message, self.button]
        super().__init__(self._parts, **options)
        self._changed()

    def options(self) -> SubmitOptions:
        """What the fields say.

        Raises:
            TesseraError: a field cannot be read.
        """
        include: Any = self.include.value
        wanted: SubmitOptions = {"include": include, "cpu": self.cpu.value, "memory": self.memory.value}
        wanted["parameters"] = parse_parameters(self.parameters.value)
        wanted["idempotency_key"] = self._key
        if self.cards.value.strip():
            wanted["cards"] = self.cards.value
        if names := [name.strip() for name in self.datasets.value.split(",") if name.strip()]:
            wanted["datasets"] = names
        return wanted

    def _changed(self, _change: Any = None) -> None:
        # What is asked for is another task now.
        self._key = uuid.uuid4().hex
        self._stop_estimate()
        self._timer = threading.Timer(ESTIMATE_PAUSE_SECONDS, self._estimate, [self._key])
        self._timer.daemon = True
        self._timer.start()

    def _stop_estimate(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _estimate(self, key: str) -> None:
        with language(self._client.speak):
            try:
                wanted = self.options()
                wanted.pop("include")
                wanted.pop("idempotency_key")
                found = self._client.estimate(self.path.value or "task.ipynb", **wanted)  # type: ignore[misc]
                text, wrong = estimate_text(found), found.verdict == "never"
            except TesseraError as error:
                text, wrong = str(error), True
        # An answer that comes late must not stand where a newer one, or that of a submit, stands.
        if key == self._key and not self.button.disabled:
            self._say(text, wrong=wrong)

    def _clicked(self, _button: Any) -> None:
        self.button.disabled = True
        self._stop_estimate()
        threading.Thread(target=self._submit, name="tessera-submit", daemon=True).start()

    def _submit(self) -> None:
        with language(self._client.speak):
            try:
                task = self._client.submit(self.path.value, **self.options())
            except TesseraError as error:
                self._say(str(error), wrong=True)
            else:
                self._say(_("Submitted {name} as task {identifier}.", name=task.task.name, identifier=task.id))
                self.task = TaskView(task)
                self.children = [*self._parts, self.task]
                self._key = uuid.uuid4().hex
            finally:
                self.button.disabled = False

    def _say(self, text: str, *, wrong: bool = False) -> None:
        colour = "var(--jp-error-color1)" if wrong else "inherit"
        role = "alert" if wrong else "status"
        self.message.value = f"<div role='{role}' style='color:{colour};white-space:pre-line'>{escape(text)}</div>"

    def close(self) -> None:
        """Stop the estimate and remove the form."""
        self._stop_estimate()
        super().close()
