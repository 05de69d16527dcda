"""Output of cells as it comes from the kernel: kept in the notebook within a bound, copied to the log and the progress."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tessera_lab.runner.context import RunContext
from tessera_lab.runner.output import Budget, fold_returns, printable, trimmed
from tessera_lab.runner.progress import OUTPUT_TEXT_BYTES

# Streams are kept in pieces of this size while a cell runs, so that a long one is not copied for every message.
_PIECE_CHARS: Final = 64 * 1024


class OutputKeeper(NotebookClient):
    """The part of a notebook run that takes the kernel's output."""

    def __init__(self, notebook: NotebookNode, context: RunContext, **settings: Any) -> None:
        super().__init__(notebook, **settings)
        self._context = context
        self._budget = Budget(context.specification.limits.output_bytes)
        self._truncated = False
        # Whether the notebook differs from what was saved last.
        self._changed = False
        # The running cell: its number among the executed ones, from 1, and its place in the notebook.
        self._ordinal = 0
        self._position: int | None = None

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        parent = msg["parent_header"].get("msg_id")
        self._changed = True
        if self.output_hook_stack[parent]:
            return super().output(outs, msg, display_id, cell_index)
        content = msg["content"]
        if self.clear_before_next_output:
            self._give_back(outs)
        if msg["msg_type"] == "stream":
            return self._stream(outs, str(content["name"]), str(content["text"]), cell_index)
        if msg["msg_type"] == "error":
            for field in ("ename", "evalue"):
                content[field] = printable(str(content.get(field, "")))
            content["traceback"] = [printable(line) for line in content.get("traceback", [])]
            text = "\n".join(content["traceback"]) or f"{content['ename']}: {content['evalue']}"
        else:
            text = printable(str(content.get("data", {}).get("text/plain", "")))
        self._context.log.write(text + "\n" if text else "")
        # An error is what the person needs most: it is kept also when the bound has been passed.
        if msg["msg_type"] != "error" and not self._fits(content):
            self._note_truncated(outs)
            return None
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None:
            self._emit_output(out.output_type, text, mime=sorted(content.get("data", {})))
        return out

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        self._changed = True
        if not msg["content"].get("wait"):
            self._give_back(outs)
        super().clear_output(outs, msg, cell_index)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        self._changed = True
        if self._fits(msg["content"]):
            super()._update_display_id(display_id, msg)

    def _stream(self, outs: list[NotebookNode], name: str, raw: str, cell_index: int) -> NotebookNode | None:
        if self.clear_before_next_output:
            outs[:] = []
            self.clear_display_id_mapping(cell_index)
            self.clear_before_next_output = False
        self._context.log.write(raw)
        text = printable(raw)
        kept = self._budget.take(text)
        if kept:
            last = outs[-1] if outs else None
            if last is not None and last.output_type == "stream" and last.name == name and len(last.text) < _PIECE_CHARS:
                joined = fold_returns(last.text + kept)
                self._budget.give_back(len(last.text) + len(kept) - len(joined))
                last.text = joined
            else:
                outs.append(_stream_output(name=name, text=kept))
            self._emit_output("stream", kept, name=name)
        if len(kept) < len(text):
            self._note_truncated(outs)
        return outs[-1] if outs else None

    def _emit_output(self, output_type: str, text: str, **more: Any) -> None:
        shown = trimmed(text, OUTPUT_TEXT_BYTES)
        self._context.progress.emit("output", index=self._ordinal, output_type=output_type, text=shown, **more)

    def _fits(self, content: dict[str, Any]) -> bool:
        return self._budget.fits(len(json.dumps(content.get("data", {}), default=str)))

    def _note_truncated(self, outs: list[NotebookNode]) -> None:
        if not self._truncated:
            self._truncated = True
            limit = self._context.specification.limits.output_bytes
            text = f"[tessera] output passed its limit of {limit} bytes; the rest is not kept, the run goes on\n"
            outs.append(_stream_output(name="stderr", text=text))
            self._context.note_truncated("notebook")

    def _give_back(self, outs: list[NotebookNode]) -> None:
        self._budget.give_back(sum(len(out.text) if out.output_type == "stream" else 0 for out in outs))

    def join_streams(self) -> None:
        """Join the pieces of a stream that follow each other in the cell that ran last."""
        position = self._position
        if position is None:
            return
        cell = self.nb.cells[position]
        joined: list[NotebookNode] = []
        moved: dict[int, int] = {}
        index = 0
        for (kind, name), group in itertools.groupby(cell.outputs, key=lambda out: (out.output_type, out.get("name"))):
            outs = list(group)
            for offset in range(len(outs)):
                moved[index + offset] = len(joined) + (0 if kind == "stream" else offset)
            index += len(outs)
            if kind == "stream":
                outs = [_stream_output(name=name, text=fold_returns("".join(out.text for out in outs)))]
            joined += outs
        cell.outputs = joined
        # Later cells may still update a display of this one by its place.
        for places in self._display_id_map.values():
            if position in places:
                places[position] = [moved[place] for place in places[position] if place in moved]


def _stream_output(name: str, text: str) -> NotebookNode:
    found = nbformat.v4.new_output("stream", name=name, text=text)  # type: ignore[no-untyped-call]
    assert isinstance(found, NotebookNode)
    return found
