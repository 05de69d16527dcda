"""The world of the walk: two tenants, real things of one of them, and a picture of everything the service keeps.

Ada (tenant ``crimson``) owns the things, Bob is her colleague, Eve belongs to tenant ``azure``, Root operates. Ada's names,
and nothing else, contain the words of :attr:`World.markers`, so that a word in an answer to somebody else is a leak.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
import sqlalchemy as sa

from tessera_billing.prices import add_price
from tests.hub_double import HubDouble
from tests.service import ServiceProcess, upload
from tests.tenancy.clusters import HandProxy, LocalProxy

TIMERS = dict.fromkeys(("suspect", "unreachable", "lost", "lease_ack", "usage_interval"), 3000.0)
"""Nothing happens because time passes."""
IGNORED = {
    ("leader", "expires_at"): "the scheduler's sign of life",
    ("run_change", None): "outbox that the scheduler empties",
    ("decision", None): "explanations that the scheduler renews by itself",
    ("run", "decision_id"): "which explanation a waiting run points to",
}
"""(table, column) → why a change of it is not a consequence of a request; None: the whole table."""
IGNORED_OF_LOCAL = {
    "last_contact_at": "the real Proxy's sign of life",
    "last_seq": "the real Proxy's sign of life",
    "inventory": "free memory as the real Proxy measures it",
    "inventory_hash": "of the above",
    "version": "of the above",
    "accept_max": "how many more runs the real Proxy takes, by its own count of what it has taken up and what has ended",
    "meter_checkpoint": "how far the real Proxy has read its engine",
}
"""The same for the row of cluster ``local``, whose Proxy works on while the walk goes."""

MAIN = b"import time\nprint('ada-words-in-the-log', flush=True)\ntime.sleep(900)\n"


class World:
    """What the walk acts on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub = HubDouble()
        self.hub.start()
        self.ada = self.hub.add_user("ada-lovelace", "crimson")
        self.bob = self.hub.add_user("bob", "crimson")
        self.eve = self.hub.add_user("eve", "azure")
        self.root = self.hub.add_user("root", "crimson", operator=True)
        self.bare = self.hub.add_token("user", "ada-lovelace", ("custom:tessera:nothing",))
        self.spawner = self.hub.add_token("service", "spawner", ("custom:tessera:spawner",))
        bootstrap = uuid4().hex
        self.service = ServiceProcess(
            directory / "service", self.hub, local_token=bootstrap, timers=TIMERS, reservation_seconds=3000.0
        )
        self.proxy: LocalProxy | None = None
        self._bootstrap = bootstrap

    def start(self) -> World:
        """Start service and Proxy and make the things."""
        self.service.start()
        self.proxy = LocalProxy(self.directory, self.service, self._bootstrap)
        self.api = self.service.api(self.ada)
        for token in (self.ada, self.bob, self.eve, self.root, self.spawner):
            self.service.api(token).get("/me").raise_for_status()
        self.moon = HandProxy(self.service, self.root, "moon").begin()
        self.mars = HandProxy(self.service, self.root, "mars").begin()
        self.vault = HandProxy(self.service, self.root, "crimson-vault", tenants=["crimson"]).begin()
        self._agree_on_a_price()
        self.main, self.main_size = upload(self.api, MAIN)
        self.finished = self._run_a_notebook()
        self.output = self.api.get(f"/tasks/{self.finished['id']}/outputs").json()[0]
        self.running = self._run_a_script()
        self.leased = self.moon.place(self.api, self.spec())
        self.other = self.moon.place(self.api, self.spec())
        queues = self.service.api(self.root).get("/queues").json()
        self.queue = next(q for q in queues if q["path"] == "crimson/default")
        return self

    @property
    def markers(self) -> set[str]:
        """Words that only Ada's tenant may read."""
        things = (self.finished["id"], self.finished["run_id"], self.running["id"], self.running["run_id"], self.leased["run_id"])
        return {"crimson", "ada-", "lovelace", self.output["sha256"], self.main, *things}

    @property
    def private(self) -> set[str]:
        """Words that only Ada herself may read, not her colleagues."""
        return {"ada-secret", "ada-words", self.output["sha256"], self.main}

    def close(self) -> None:
        """End every process."""
        if self.proxy is not None:
            self.proxy.stop()
        self.service.stop()
        self.hub.stop()

    def spec(self, **fields: Any) -> dict[str, Any]:
        """Return a script of Ada's."""
        spec = {
            "name": "ada-task",
            "kind": "script",
            "entry": "ada-secret-plan.py",
            "inputs": {"files": [{"path": "ada-secret-plan.py", "sha256": self.main, "size": self.main_size}]},
            "roles": [{"resources": {"cpu_millicores": 50, "memory_mib": 64}}],
            "lifecycle": {"grace_seconds": 1},
        }
        return spec | fields

    def tomorrow(self) -> dict[str, Any]:
        """Return a task of Ada's that waits until tomorrow: real, and quiet."""
        at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        answer = self.api.post("/tasks", json=self.spec(schedule={"at": at}))
        assert answer.status_code == 201, answer.text
        task: dict[str, Any] = answer.json()
        return task

    def cancelled(self) -> dict[str, Any]:
        """Return a task of Ada's that has ended."""
        task = self.tomorrow()
        ended: dict[str, Any] = self.api.post(f"/tasks/{task['id']}/cancel").raise_for_status().json()
        return ended

    def workspace(self) -> dict[str, Any]:
        """Return a granted reservation of Ada's, with the server's name under ``server_name``.

        It stays until the walk ends, as its server does at the hub: it is small, so that all of them fit two processors.
        """
        name = f"w{uuid4().hex[:12]}"
        spec = {"name": "ada-workspace", "kind": "workspace", "roles": [{"resources": {"cpu_millicores": 10, "memory_mib": 64}}]}
        task: dict[str, Any] = self.api.post("/workspaces", json={"server_name": name, "spec": spec}).raise_for_status().json()
        spawner = self.service.api(self.spawner)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            asked = {"user": "ada-lovelace", "server": name}
            granted = spawner.get("/spawner/reservations", params=asked).raise_for_status().json()
            if granted["state"] == "granted":
                return task | {"server_name": name, "run_id": granted["run_id"], "lease_token": granted["lease_token"]}
            time.sleep(0.1)
        raise AssertionError(f"not granted: {granted}, {self.api.get('/tasks/' + task['id']).json()}")

    def blob(self) -> tuple[str, bytes]:
        """Return hash and bytes of a file nobody has uploaded."""
        data = f"ada-secret {uuid4()}".encode()
        return hashlib.sha256(data).hexdigest(), data

    def until(self, task: dict[str, Any], *phases: str, seconds: float = 90) -> dict[str, Any]:
        """Wait for a phase of Ada's task and return the task."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.api.get(f"/tasks/{task['id']}").raise_for_status().json()
            if found["phase"] in phases:
                return found
            assert time.monotonic() < deadline, (found, self.proxy.log_tail() if self.proxy else "", self.service.log_tail())
            time.sleep(0.2)

    def picture(self) -> dict[str, Any]:
        """Return all the service keeps: every row of its database, every file, what the hub was told to do."""
        return {"database": dict(self._rows()), "files": dict(self._files()), "orders": self._orders()}

    def quiet_picture(self) -> dict[str, Any]:
        """Return the picture once nothing moves by itself any more."""
        deadline = time.monotonic() + 40
        last = self.picture()
        while time.monotonic() < deadline:
            time.sleep(0.15)
            found = self.picture()
            if found == last and not self._under_way():
                return found
            last = found
        raise AssertionError("the service does not come to rest")

    def _under_way(self) -> int:
        """Return how many runs will move by themselves: due and not looked at yet, or on their way at the real Proxy.

        A workspace that found no room, as where free memory was short for a moment, is looked at again and gets it.
        """
        connection = sqlite3.connect(f"file:{self.service.data_dir / 'tessera.sqlite'}?mode=ro", uri=True)
        query = """
            SELECT COUNT(*) FROM task JOIN run ON run.id = task.run_id LEFT JOIN cluster ON cluster.id = run.cluster_id
            WHERE run.phase NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'PREEMPTED') AND (
                run.phase = 'QUEUED' AND task.not_before IS NULL AND (run.decision_id IS NULL OR task.kind = 'workspace')
                OR cluster.name = 'local' AND task.cancel_requested_at IS NOT NULL
                OR cluster.name = 'local' AND task.kind <> 'workspace'
                    AND run.phase IN ('RESERVED', 'DISPATCHED', 'PENDING', 'STARTING')
            )
        """
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        connection = sqlite3.connect(f"file:{self.service.data_dir / 'tessera.sqlite'}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in sorted(tables):
                if (table, None) in IGNORED:
                    continue
                rows = []
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    values = {k: row[k] for k in row.keys() if (table, k) not in IGNORED}  # noqa: SIM118 - a Row is no dict
                    if table == "cluster" and values["name"] == "local":
                        values = {k: v for k, v in values.items() if k not in IGNORED_OF_LOCAL}
                    rows.append(repr(values))
                yield table, sorted(rows)
        finally:
            connection.close()

    def _files(self) -> Iterator[tuple[str, str]]:
        for folder in ("blobs", "runs-store"):
            for path in sorted((self.service.data_dir / folder).rglob("*")):
                if path.is_file():
                    yield str(path.relative_to(self.service.data_dir)), hashlib.sha256(path.read_bytes()).hexdigest()

    def _orders(self) -> set[tuple[str, str]]:
        # Of servers that are in the database the keeper orders the start and the stop in its own time.
        connection = sqlite3.connect(f"file:{self.service.data_dir / 'tessera.sqlite'}?mode=ro", uri=True)
        known = {row[0] for row in connection.execute("SELECT server_name FROM task WHERE server_name IS NOT NULL")}
        connection.close()
        orders = {(method, path) for method, path, _body in list(self.hub.calls) if method != "GET"}
        return {(method, path) for method, path in orders if path.rpartition("/servers/")[2] not in known}

    def _agree_on_a_price(self) -> None:
        engine = sa.create_engine(f"sqlite:///{self.service.data_dir / 'tessera.sqlite'}", connect_args={"timeout": 30})
        with engine.begin() as connection:
            moment = int(time.time())
            price = {"family": "cpu", "unit": "core", "nano_per_unit_hour": 7, "tenant": "crimson"}
            add_price(connection, **price, valid_from=moment, now=moment, actor="test")  # type: ignore[arg-type]
        engine.dispose()

    def _run_a_notebook(self) -> dict[str, Any]:
        notebook = nbformat.v4.new_notebook()
        code = "print('ada-words-in-the-log')\nopen('ada-secret-result.txt', 'w').write('ada-words-in-a-file')"
        notebook.cells = [nbformat.v4.new_code_cell(code)]
        digest, size = upload(self.api, nbformat.writes(notebook).encode())
        files = [{"path": "ada-secret-notebook.ipynb", "sha256": digest, "size": size}]
        fields = {"kind": "notebook", "entry": "ada-secret-notebook.ipynb", "inputs": {"files": files}, "clusters": ["local"]}
        roles = [{"resources": {"cpu_millicores": 100, "memory_mib": 512}}]
        self._until_connected()
        answer = self.api.post("/tasks", json=self.spec(name="ada-notebook", roles=roles, **fields))
        assert answer.status_code == 201, answer.text
        task = self.until(answer.json(), "SUCCEEDED", "FAILED")
        assert task["phase"] == "SUCCEEDED", (task, self.api.get(f"/tasks/{task['id']}/logs/output").text)
        deadline = time.monotonic() + 30
        while any(line["provisional"] for line in self.api.get(f"/tasks/{task['id']}/bill").json()["lines"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return task

    def _until_connected(self) -> None:
        deadline = time.monotonic() + 60
        api = self.service.api(self.root)
        while api.get("/clusters/local").raise_for_status().json()["inventory"] is None:
            assert time.monotonic() < deadline, self.proxy.log_tail() if self.proxy else ""
            time.sleep(0.2)

    def _run_a_script(self) -> dict[str, Any]:
        answer = self.api.post("/tasks", json=self.spec(name="ada-script", clusters=["local"]))
        assert answer.status_code == 201, answer.text
        task = self.until(answer.json(), "RUNNING")
        deadline = time.monotonic() + 30
        while "ada-words" not in self.api.get(f"/tasks/{task['id']}/logs/output").text:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return task
