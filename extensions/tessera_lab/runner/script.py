"""A script run: a Python or shell file as one process tree, with the manners of a notebook run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from tessera_lab.runner.context import Phases, RunContext, StopCause, disk_full
from tessera_lab.runner.errors import JsonValue, RunnerError
from tessera_lab.runner.exits import Outcome
from tessera_lab.runner.output import OutputPipe, printable, trimmed
from tessera_lab.runner.processes import die_with_parent, kill_descendants

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MEMORY_ERROR: Final = re.compile(r"(?:[\w.]*\.)?_?(?:Array)?MemoryError\b")
_TAIL_CHARS: Final = 4096
_LAST_LINE_BYTES: Final = 500
# A disk with less room than this when a script fails is taken for the reason.
_FULL_DISK_BYTES: Final = 64 * 1024


def command(entry: Path, values: dict[str, JsonValue]) -> list[str]:
    """The argument list: the interpreter for the file's suffix, the file, and ``--name=value`` for each parameter.

    Text is given as it is; numbers, truth values, lists and dictionaries as JSON; a parameter that is ``None`` is left out.

    Raises:
        RunnerError: ``script.unsupported`` or ``parameter.name``.
    """
    match entry.suffix:
        case ".py":
            interpreter = sys.executable
        case ".sh":
            interpreter = shutil.which("bash") or "/bin/sh"
        case suffix:
            message = f"{entry.name} is neither a Python (.py) nor a shell (.sh) script"
            raise RunnerError("script.unsupported", message, {"entry": entry.name, "suffix": suffix})
    arguments = []
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise RunnerError(
                "parameter.name", f"{name!r} cannot be the name of a script's parameter", {"name": name, "language": "script"}
            )
        text = value if isinstance(value, str) else json.dumps(value)
        if "\0" in text:
            raise RunnerError(
                "parameter.type", f"parameter {name} holds the character NUL", {"name": name, "expected": "str", "value": "NUL"}
            )
        if value is not None:
            arguments.append(f"--{name}={text}")
    return [interpreter, str(entry), *arguments]


async def run_script(context: RunContext) -> Outcome:
    """Execute the script of a run.

    Raises:
        RunnerError: what keeps it from starting.
    """
    entry = context.entry_inside_work("script.missing")
    arguments = command(entry, context.specification.parameters)
    return await ScriptRun(context, arguments, entry.parent).run()


class ScriptRun:
    """One script: its process, its output through a pipe into the log, its orderly early end."""

    def __init__(self, context: RunContext, arguments: list[str], folder: Path) -> None:
        self._context = context
        self._arguments = arguments
        self._folder = folder
        self._tail = ""

    async def run(self) -> Outcome:
        """Execute the script and say how it ended. It and all it started are gone afterwards."""
        self._context.progress.emit("started", kind="script", cells_total=0)
        environment = self._context.user_environment()
        with OutputPipe(self._take) as pipe:
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                cwd=self._folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe.write_end,
                stderr=pipe.write_end,
                preexec_fn=die_with_parent,
            )
            self._context.own_children.add(process.pid)
            ended = asyncio.ensure_future(process.wait())
            stop = asyncio.ensure_future(self._context.stop.wait())
            try:
                await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    await self._wind_down(process, ended, stop.result())
                status = await ended
            finally:
                kill_descendants(os.getpid())
                for task in (ended, stop):
                    task.cancel()
                await asyncio.gather(ended, stop, return_exceptions=True)
        return self._outcome(status)

    def _take(self, text: str) -> None:
        self._context.log.write(text)
        self._tail = (self._tail + text)[-_TAIL_CHARS:]

    async def _wind_down(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int], cause: StopCause) -> None:
        """Pass SIGTERM on at once, so that the script has the whole grace to save its state, then kill."""
        begun = time.monotonic()
        phases = Phases.of(cause.manner, self._context.specification.grace_seconds)
        if cause.manner != "kill":
            with contextlib.suppress(OSError):
                self._context.preempt_notice.touch()
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait({ended}, timeout=max(0.0, begun + phases.kill_after - time.monotonic()))
        if not ended.done():
            kill_descendants(os.getpid())

    def _outcome(self, status: int) -> Outcome:
        number = -status if status < 0 else None
        shell_status = status if number is None else 128 + number
        cause = self._context.stop.cause
        if cause is not None:
            return Outcome(cause.outcome.state, cause.outcome.reason, shell_status)
        if status == 0:
            return Outcome("succeeded", None, 0)
        last_line = next((line for line in reversed(printable(self._tail).splitlines()) if line.strip()), "")
        out_of_memory = number == signal.SIGKILL and self._context.memory.was_out_of_memory()
        if out_of_memory or _MEMORY_ERROR.match(last_line):
            return Outcome.failed(self._context.memory_error(), shell_status)
        if _is_full(self._context.run_dir):
            return Outcome.failed(disk_full(self._context.run_dir), shell_status)
        name = None if number is None else signal.Signals(number).name
        detail: dict[str, JsonValue] = {
            "exit_code": shell_status,
            "signal": name,
            "last_line": trimmed(last_line, _LAST_LINE_BYTES),
        }
        how = f"was ended by {name}" if name else f"ended with status {status}"
        return Outcome.failed(RunnerError("script.exit", f"the script {how}", detail), shell_status)


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _FULL_DISK_BYTES
