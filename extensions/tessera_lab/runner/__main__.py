"""``python -m tessera_lab.runner RUN_DIR``: claim the run, execute it, leave ``exit.json``, exit with its status."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Final

from tessera_lab.runner.claim import claim_run
from tessera_lab.runner.context import RunContext, disk_full
from tessera_lab.runner.errors import RunnerError
from tessera_lab.runner.exits import EXIT_STATUS, Account, Outcome, exit_record, write_exit_record
from tessera_lab.runner.notebook import run_notebook
from tessera_lab.runner.processes import become_reaper, kill_descendants
from tessera_lab.runner.script import ScriptRun, run_script
from tessera_lab.runner.specification import RunSpecification, read_specification
from tessera_lab.runner.storage import is_disk_full

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str]) -> int:
    """Run what is in a run's directory.

    Returns:
        The status to exit with, see :data:`tessera_lab.runner.exits.EXIT_STATUS`.
    """
    parser = argparse.ArgumentParser(prog="tessera_lab.runner", description="Execute one run in its directory.")
    parser.add_argument("run_dir", type=Path, help="directory with run.json and work/")
    parser.add_argument("program", nargs="*", help="after --: run this in place of the entry, as a script is run")
    given = parser.parse_args(arguments)
    run_dir = given.run_dir.absolute()
    try:
        specification = read_specification(run_dir)
        claim_run(run_dir, specification)
    except RunnerError as error:
        # Nothing is ours yet: no file is written, the log says why.
        sys.stderr.write(f"[tessera] {error.code}: {error.message}\n")
        return EXIT_STATUS[error.code]
    # From here on a signal is part of the run and ends in its record.
    pending: list[int] = []
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda received, _frame: pending.append(received))
    become_reaper()
    return asyncio.run(_run(run_dir, specification, given.program, pending))


async def _run(run_dir: Path, specification: RunSpecification, program: list[str], pending: list[int]) -> int:
    context = RunContext(run_dir, specification)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, context.request_preemption)
    if pending:
        context.request_preemption()
    if specification.limits.max_seconds is not None:
        loop.call_later(specification.limits.max_seconds, context.request_time_limit)
    watching = asyncio.ensure_future(context.memory.watch())
    try:
        outcome = await _outcome(context, program)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        kill_descendants(os.getpid())
    return _record(context, outcome)


async def _outcome(context: RunContext, program: list[str]) -> Outcome:
    """Execute the run; every way it can end is an outcome."""
    try:
        if program:
            return await ScriptRun(context, program, context.run_dir / "work").run()
        if context.specification.kind == "notebook":
            return await run_notebook(context)
        return await run_script(context)
    except RunnerError as error:
        return Outcome.failed(error)
    except OSError as error:
        if is_disk_full(error):
            return Outcome.failed(disk_full(context.run_dir))
        return _internal(context, error)
    except Exception as error:  # noqa: BLE001 - the record must be written whatever happens
        return _internal(context, error)


def _internal(context: RunContext, error: BaseException) -> Outcome:
    context.log.remark("".join(traceback.format_exception(error)))
    problem = f"{type(error).__name__}: {error}"[:500]
    return Outcome.failed(RunnerError("runner.internal", f"the runner failed: {problem}", {"problem": problem}))


def _record(context: RunContext, outcome: Outcome) -> int:
    """Save what is left to save, then publish ``exit.json``, which is the last thing a run writes."""
    final = _save_final(context)
    if final is not None and outcome.reason is None:
        outcome = Outcome.failed(final)
    account = Account(context.started_at, context.cells_done, context.cells_total, context.memory.peak_mib)

    def finish() -> None:
        if outcome.reason is not None and outcome.reason.code == "disk.full":
            context.progress.resume()
            _save_final(context)
        context.progress.emit("finished", state=outcome.state, code=None if outcome.reason is None else outcome.reason.code)

    if outcome.reason is not None:
        context.log.remark(f"{outcome.reason.code}: {outcome.reason.message}")
    write_exit_record(context.run_dir, exit_record(context.specification, outcome, account), context.reserve, finish)
    return outcome.status


def _save_final(context: RunContext) -> RunnerError | None:
    """Save the notebook as it is at the end; the reason if that failed."""
    if context.save_final is None:
        return None
    try:
        context.save_final()
    except RunnerError as error:
        return error
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
