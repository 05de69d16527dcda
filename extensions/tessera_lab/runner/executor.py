"""The notebook in its kernel, cell by cell. Imports what the environment brings, hence only after that was checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat
import nbformat.reader
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_async
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from tessera_lab.runner.context import Phases, RunContext, StopCause, disk_full
from tessera_lab.runner.environment import Kernel
from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.exits import Outcome
from tessera_lab.runner.kernel_outputs import OutputKeeper
from tessera_lab.runner.output import OutputPipe, printable, trimmed
from tessera_lab.runner.processes import die_with_parent, kill_descendants
from tessera_lab.runner.progress import SOURCE_HEAD_CHARS
from tessera_lab.runner.storage import is_disk_full, now_text, write_atomic

KERNEL_START_SECONDS: Final = 60
SAVE_SECONDS: Final = 1.0
_EVALUE_CHARS: Final = 2000
_MEMORY_ERRORS: Final = {"MemoryError", "_ArrayMemoryError"}
_LONGEST_SOCKET_PATH: Final = 80


def validated(document: dict[str, Any], name: str) -> NotebookNode:
    """The notebook in format 4 without old outputs.

    Raises:
        RunnerError: ``notebook.invalid`` with the place and the problem.
    """
    try:
        converted = nbformat.convert(nbformat.reader.reads(json.dumps(document)), 4)  # type: ignore[no-untyped-call]
        notebook = nbformat.from_dict(converted)  # type: ignore[no-untyped-call]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
                cell.execution_count = None
        nbformat.validate(notebook, relax_add_props=True)
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
        problem = str(getattr(error, "message", error) or error).splitlines()[0][:200]
        raise RunnerError("notebook.invalid", f"{name} is no valid notebook: {problem}", {"problem": problem}) from error
    assert isinstance(notebook, NotebookNode)
    return notebook


class NotebookRun(OutputKeeper):
    """One notebook executed cell by cell, with progress, bounded output, partial saves and an orderly early end."""

    def __init__(self, notebook: NotebookNode, context: RunContext, kernel: Kernel, positions: list[int]) -> None:
        super().__init__(
            notebook,
            context,
            kernel_name=kernel.name,
            kernel_manager_class=AsyncKernelManager,
            startup_timeout=KERNEL_START_SECONDS,
            resources={"metadata": {"path": str(context.entry.parent)}},
        )
        self._kernel = kernel
        self._positions = positions
        self._path = context.run_dir / "output" / context.entry.name
        self._last_save_seconds = 0.0
        self._state = "running"
        self._kernel_status: int | None = None

    # --- the whole run -------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Execute the notebook and say how it ended. The kernel and all it started are gone afterwards."""
        self._path.parent.mkdir(exist_ok=True)
        self._context.save_final = self._save_final
        self._save()
        work = asyncio.ensure_future(self._execute())
        stop = asyncio.ensure_future(self._context.stop.wait())
        saver = asyncio.ensure_future(self._save_while_changed())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._wind_down(work, stop.result())
            outcome = self._outcome(work)
        finally:
            for task in (work, stop, saver):
                task.cancel()
            await asyncio.gather(work, stop, saver, return_exceptions=True)
        self._state = outcome.state
        return outcome

    def _save_final(self) -> None:
        """Write the notebook as it is at the end, durably.

        Raises:
            RunnerError: ``disk.full``.
        """
        self.set_widgets_metadata()
        self.join_streams()
        self._write(durable=True)

    async def _execute(self) -> None:
        # What the kernel's process writes past its messages, such as a crash, goes to the log.
        with _kernel_files(self._kernel) as connection, OutputPipe(self._context.log.write) as pipe:
            self.km = self.create_kernel_manager()
            for name, value in connection.items():
                setattr(self.km, name, value)
            try:
                await self._start_kernel(pipe.write_end)
                for position in self._positions:
                    if self._context.stop.cause is not None:
                        return
                    await self.async_execute_cell(self.nb.cells[position], position)
            except DeadKernelError:
                self._kernel_status = self._process_status()
                raise
            finally:
                await self._end_kernel()

    async def _start_kernel(self, descriptor: int) -> None:
        assert self.km is not None
        environment = self._context.user_environment()
        try:
            await self.async_start_new_kernel(env=environment, stdout=descriptor, stderr=descriptor, preexec_fn=die_with_parent)
            provisioner = getattr(self.km, "provisioner", None)
            if (pid := getattr(provisioner, "pid", None)) is not None:
                self._context.own_children.add(pid)
            await self.async_start_new_kernel_client()
            assert self.kc is not None
            reply = await self.async_wait_for_reply(await ensure_async(self.kc.kernel_info()))
        except (RuntimeError, OSError, DeadKernelError) as error:
            detail: dict[str, JsonValue] = {"kernel": self._kernel.name, "problem": str(error)[:200]}
            raise RunnerError("kernel.start_failed", f"the kernel {self._kernel.name} did not start: {error}", detail) from error
        if reply is not None and "language_info" in reply["content"]:
            self.nb.metadata["language_info"] = reply["content"]["language_info"]

    async def _end_kernel(self) -> None:
        """Shut the kernel down, gently unless the run was stopped, then everything that it left behind."""
        self.shutdown_kernel = "immediate" if self._context.stop.cause is not None else "graceful"
        if self.km is not None:
            with contextlib.suppress(Exception):
                await self._async_cleanup_kernel()
        kill_descendants(os.getpid())

    async def _wind_down(self, work: asyncio.Future[None], cause: StopCause) -> None:
        """End a running cell by the cause's manner: let it end, interrupt it, kill it."""
        begun = time.monotonic()
        phases = Phases.of(cause.manner, self._context.specification.grace_seconds)
        if cause.manner == "grace":
            with contextlib.suppress(OSError):
                self._context.preempt_notice.touch()
        await asyncio.wait({work}, timeout=max(0.0, begun + phases.interrupt_after - time.monotonic()))
        if not work.done() and cause.manner != "kill" and self.km is not None and self.kc is not None:
            with contextlib.suppress(Exception):
                await ensure_async(self.km.interrupt_kernel())
            await asyncio.wait({work}, timeout=max(0.0, begun + phases.kill_after - time.monotonic()))
        if not work.done():
            kill_descendants(os.getpid())
            work.cancel()
            await asyncio.wait({work}, timeout=5)

    def _outcome(self, work: asyncio.Future[None]) -> Outcome:
        cause = self._context.stop.cause
        error = None if not work.done() or work.cancelled() else work.exception()
        complete = work.done() and not work.cancelled() and error is None and self._context.cells_done == len(self._positions)
        if complete and (cause is None or cause.manner != "kill"):
            return Outcome("succeeded")
        if cause is not None:
            return cause.outcome
        match error:
            case RunnerError():
                return Outcome.failed(error)
            case CellExecutionError():
                return self._cell_outcome(error)
            case DeadKernelError():
                return Outcome.failed(self._death())
            case BaseException():
                raise error
        raise RuntimeError("the notebook ended without a reason")

    def _cell_outcome(self, error: CellExecutionError) -> Outcome:
        ename, evalue = error.ename, error.evalue
        if ename == "SystemExit" and evalue in ("", "0", "None"):
            self._context.progress.note("notebook.exit_early", cell=self._ordinal)
            return Outcome("succeeded")
        if ename in _MEMORY_ERRORS:
            return Outcome.failed(self._context.memory_error())
        if ename == "OSError" and evalue.startswith(("[Errno 28]", "[Errno 122]")):
            return Outcome.failed(disk_full(self._context.run_dir))
        total = self._context.cells_total
        shown = trimmed(printable(evalue), _EVALUE_CHARS)
        detail: dict[str, JsonValue] = {"ename": ename, "evalue": shown, "cell": self._ordinal, "cells_total": total}
        return Outcome.failed(RunnerError("cell.error", f"cell {self._ordinal} of {total} raised {ename}: {shown}", detail))

    def _death(self) -> RunnerError:
        status = self._kernel_status
        number = -status if status is not None and status < 0 else None
        if number == signal.SIGKILL and self._context.memory.was_out_of_memory():
            return self._context.memory_error()
        name = None if number is None else signal.Signals(number).name
        how = f"by {name}" if name else f"with status {status}"
        detail: dict[str, JsonValue] = {
            "signal": name,
            "status": status,
            "cell": self._ordinal,
            "cells_total": self._context.cells_total,
        }
        return RunnerError("kernel.died", f"the kernel ended {how} in cell {self._ordinal}", detail)

    def _process_status(self) -> int | None:
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        status = None if process is None else process.poll()
        return status if isinstance(status, int) else None

    # --- one cell ------------------------------------------------------------------------------------------------

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, execution_count: int | None = None, store_history: bool = True
    ) -> NotebookNode:
        self._ordinal = self._positions.index(cell_index) + 1
        self._position = cell_index
        begun = time.monotonic()
        self._emit_cell(cell, cell_index, "running", begun)
        try:
            await super().async_execute_cell(cell, cell_index, execution_count, store_history)
        except CellExecutionError as error:
            self._emit_cell(cell, cell_index, "error", begun)
            evalue = trimmed(printable(error.evalue), _EVALUE_CHARS)
            self._context.progress.emit("error", ename=error.ename, evalue=evalue, cell=self._ordinal)
            raise
        except (DeadKernelError, asyncio.CancelledError):
            self._emit_cell(cell, cell_index, "error", begun)
            raise
        finally:
            self.join_streams()
        self._context.cells_done += 1
        self._emit_cell(cell, cell_index, "done", begun)
        self._save()
        return cell

    def _emit_cell(self, cell: NotebookNode, position: int, state: str, begun: float) -> None:
        self._context.progress.emit(
            "cell",
            index=self._ordinal,
            of=len(self._positions),
            position=position,
            state=state,
            seconds=round(time.monotonic() - begun, 3),
            source_head=cell.source.strip()[:SOURCE_HEAD_CHARS],
        )

    # --- saving --------------------------------------------------------------------------------------------------

    async def _save_while_changed(self) -> None:
        """Save once a second while output comes, less often when saving itself is slow."""
        while True:
            await asyncio.sleep(max(SAVE_SECONDS, 5 * self._last_save_seconds))
            if self._changed:
                self._save()

    def _save(self) -> None:
        try:
            self._write(durable=False)
        except RunnerError as error:
            self._context.stop.request(StopCause(Outcome.failed(error), "kill"))

    def _write(self, *, durable: bool) -> None:
        begun = time.monotonic()
        specification = self._context.specification
        self.nb.metadata["tessera"] = {
            "run_id": specification.run_id,
            "task_id": specification.task_id,
            "attempt": specification.attempt,
            "parameters": specification.parameters,
            "state": self._state,
            "cells_done": self._context.cells_done,
            "saved_at": now_text(),
        }
        text: str = nbformat.v4.writes(self.nb)  # type: ignore[no-untyped-call]
        try:
            write_atomic(self._path, text.encode("utf-8", "replace"), durable=durable)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(self._path.parent) from error
            raise
        self._changed = False
        self._last_save_seconds = time.monotonic() - begun


@contextlib.contextmanager
def _kernel_files(kernel: Kernel) -> Iterator[dict[str, Any]]:
    """Where the kernel listens: for Python's kernel sockets in a private folder, where no other run can collide, else TCP."""
    folder = Path(tempfile.mkdtemp(prefix="tessera-"))
    try:
        settings: dict[str, Any] = {"connection_file": str(folder / "kernel.json")}
        if kernel.language == "python" and len(str(folder)) <= _LONGEST_SOCKET_PATH:
            settings |= {"transport": "ipc", "ip": str(folder / "kernel")}
        yield settings
    finally:
        shutil.rmtree(folder, ignore_errors=True)
