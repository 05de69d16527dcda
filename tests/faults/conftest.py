"""Fixtures of the fault tests: real processes, a link that misbehaves, user code that leaves a trace of each start.

centres           function  makes prepared centres on SQLite: ``await centres()``; several may work at once
centre            function  one of them
postgres_centre   function  one on a real PostgreSQL
check             function  ``await check(centre, "name")``: holds what is promised, and adds a row to the table

Each row of the table of faults (table.py) is kept by a test; what was done to the local driver is printed, too.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.centre import Centre
from tests.faults.table import Row, note, words_of

Maker = Callable[[], Awaitable[Centre]]
Check = Callable[..., Awaitable[None]]
ROWS: pytest.StashKey[list[dict[str, int | str]]] = pytest.StashKey()
COLUMNS = ("test", "seeds", "kills", "faults", "tasks", "destroyed", "starts", "lost", "doubled", "results", "bills", "seconds")


async def _make(database_url: str | None = None) -> Centre:
    directory = Path(tempfile.mkdtemp(prefix="tessera-faults-"))
    directory.chmod(0o711)
    found = Centre(directory, database_url or f"sqlite:///{directory / 'tessera.sqlite'}")
    await found.prepare()
    return found


@pytest_asyncio.fixture
async def centres() -> AsyncIterator[Maker]:
    """Make prepared centres; the test starts service and Proxies of each."""
    made: list[Centre] = []

    async def make() -> Centre:
        made.append(await _make())
        return made[-1]

    yield make
    for centre in made:
        await centre.close()


@pytest_asyncio.fixture
async def centre(centres: Maker) -> Centre:
    """A prepared centre on SQLite."""
    return await centres()


@pytest_asyncio.fixture
async def postgres_centre(postgres_database: str) -> AsyncIterator[Centre]:
    """A prepared centre on a real PostgreSQL."""
    found = await _make(postgres_database)
    yield found
    await found.close()


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """Hold what is promised of a centre's tasks, and note it in the table.

    Args of the check: centre, name in the table, and how many tasks the test itself ``destroyed``, which must end FAILED.
    """
    begun = time.monotonic()
    rows = request.config.stash.setdefault(ROWS, [])

    async def hold(centre: Centre, name: str, *, destroyed: int = 0) -> None:
        found = await centre.verdict()
        ends = words_of(Counter(found.phases))
        note(request, Row("local", name, found.tasks, ends, found.starts, found.doubled, found.bills_doubled))
        rows.append(
            {
                "test": name,
                "seeds": " ".join(map(str, centre.damage.seeds)),
                "kills": centre.damage.kills,
                "faults": sum(centre.link.faults.values()),
                "tasks": found.tasks,
                "destroyed": destroyed,
                "starts": found.starts,
                "lost": found.lost - destroyed,
                "doubled": found.doubled,
                "results": found.results_doubled,
                "bills": found.bills_doubled,
                "seconds": round(time.monotonic() - begun),
            }
        )
        assert (found.lost, found.doubled, found.results_doubled, found.bills_doubled) == (destroyed, 0, 0, 0), found

    return hold


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was done to the local driver, with the seeds to do it again."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    total: dict[str, int | str] = {"test": "all", "seeds": ""}
    total |= {name: sum(int(row[name]) for row in rows) for name in COLUMNS[2:-1]} | {"seconds": ""}
    width = {name: max(len(name), *(len(str(row[name])) for row in [*rows, total])) for name in COLUMNS}
    terminalreporter.section("faults of the local driver: lost tasks, starts, results and bills too many")
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows, total]:
        cells = (
            str(row[name]).ljust(width[name]) if name in COLUMNS[:2] else str(row[name]).rjust(width[name]) for name in COLUMNS
        )
        terminalreporter.write_line("  ".join(cells))
