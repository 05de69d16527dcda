"""Parts of a run start programs in each other: real launchers and runners, each at a loopback address as if it were a pod."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tessera_hub.proxy.courier.archive import build_archive
from tessera_hub.proxy.courier.remote import PORT, READY, START
from tessera_hub.proxy.courier.sealed import FRAME_LIMIT, Sealed, SealError, derived_key
from tessera_lab.runner import build_zipapp

KEY = bytes.fromhex(derived_key("the run's token"))
ASKS = """
import os, pathlib, subprocess, sys
rsh, hosts = os.environ["OMPI_MCA_plm_rsh_agent"], pathlib.Path(os.environ["TESSERA_HOSTFILE"]).read_text().split()
assert hosts[1::2] == ["slots=3", "slots=3"]
assert "RANK" not in os.environ
"""


class Parts:
    """Two parts of one run, each in a folder, with the first one's program."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        net = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self.addresses = [f"{net}.1", f"{net}.2"]
        self.company = folder / "company"
        parts = [{"uid": f"u{rank}", "address": address} for rank, address in enumerate(self.addresses)]
        self.company.write_text(json.dumps({"parts": parts}))
        (folder / "courier.pyz").write_bytes(build_archive())
        build_zipapp(folder / "runner.pyz")
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank in range(2):
            self._start(rank, program)

    def place(self, rank: int) -> Path:
        return self.folder / f"part-{rank}"

    def _start(self, rank: int, program: str) -> None:
        root = self.place(rank)
        (root / "run" / "work").mkdir(parents=True)
        (root / "control").mkdir()
        (root / "order").write_text("{}")
        (root / "control" / "key.json").write_text(json.dumps({"key": KEY.hex()}))
        (root / "run" / "work" / "main.py").write_text(program)
        run = {"schema": 1, "run_id": "r", "task_id": "t", "attempt": 1, "lease_token": "l", "kind": "script", "entry": "main.py"}
        (root / "run" / "run.json").write_text(json.dumps(run | {"grace_seconds": 20}))
        command = [sys.executable, "-I", f"{self.folder}/courier.pyz", "launch", "--root", str(root), "--framework", "mpi"]
        command += ["--runner", f"{self.folder}/runner.pyz", "--order", f"{root}/order", "--company", str(self.company)]
        command += ["--uid", f"u{rank}", "--slots", "3"]
        with (self.folder / f"output-{rank}").open("wb") as log:
            environment = {**os.environ, "PART": str(rank)}
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def output(self, rank: int) -> str:
        """What a part has printed so far."""
        return (self.folder / f"output-{rank}").read_text()

    def order(self, rank: int, **order: Any) -> None:
        """Show an order to a launcher."""
        draft = self.place(rank) / "draft"
        draft.write_text(json.dumps(order))
        draft.rename(self.place(rank) / "order")

    def ends(self) -> list[tuple[int, str, str]]:
        """Wait for both; return status, output and the state that each runner wrote down."""
        found = []
        for rank, process in enumerate(self.processes):
            status = process.wait(60)
            told = json.loads((self.place(rank) / "run" / "exit.json").read_text())
            found.append((status, self.output(rank), told["state"]))
        return found


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Callable[[str], Parts]]:
    made: list[Parts] = []

    def make(program: str) -> Parts:
        made.append(Parts(tmp_path, program))
        return made[0]

    yield make
    for process in made[0].processes if made else ():
        # What a launcher has started is in sessions of its own.
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait(10)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def reach(address: str) -> socket.socket:
    """Connect to a part's listener, which comes up after its launcher."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((address, PORT), 30)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_program_starts_others_in_the_other_part_and_both_end_well(parts: Callable[[str], Parts]) -> None:
    text = (
        "os.environ['PATH'] = '/mine:' + os.environ['PATH']\n"
        "line = 'echo $PART $PATH in $(basename $(dirname $(dirname $PWD))); echo bad >&2; exit 7'\n"
        "done = subprocess.run([rsh, '-x', '-o', 'A=b', hosts[2], line], capture_output=True, text=True)\n"
        "print(done.returncode, done.stdout, done.stderr, flush=True)\n"
        "here = subprocess.run([rsh, hosts[0], 'echo', '$PART'], capture_output=True, text=True)\n"
        "print('here', here.stdout)\n"
    )
    first, second = parts(ASKS + text).ends()
    assert (first[0], first[2]) == (0, "succeeded"), first
    assert "7 1 /mine:" in first[1]
    assert "in part-1\n bad\n" in first[1]
    assert "here 0\n" in first[1]
    assert (second[0], second[2]) == (0, "succeeded"), second


def test_the_others_follow_a_first_part_that_fails_as_parts_that_were_stopped(parts: Callable[[str], Parts]) -> None:
    text = (
        "import time\n"
        "left = subprocess.Popen([rsh, hosts[2], 'echo began; exec sleep 600'], stdout=subprocess.PIPE)\n"
        "assert left.stdout.readline() == b'began\\n'\n"
        "sys.exit(5)\n"
    )
    first, second = parts(ASKS + text).ends()
    assert (first[0], first[2]) == (1, "failed"), first
    assert second[2] == "preempted", second


def test_who_waits_for_a_first_part_that_is_over_ends_by_order_of_the_proxy(parts: Callable[[str], Parts]) -> None:
    found = parts(ASKS + "import time; time.sleep(600)")
    with reach(found.addresses[1]):
        found.processes[0].kill()
    found.order(1, why="done")
    assert found.processes[1].wait(60) == 0, found.output(1)


def test_a_part_that_is_told_to_end_lets_its_programs_save_what_they_have(parts: Callable[[str], Parts]) -> None:
    text = "saver = 'echo began; while [ ! -e \"$TESSERA_PREEMPT_NOTICE\" ]; do sleep 0.05; done; echo saved > saved'\n"
    found = parts(ASKS + text + "subprocess.run([rsh, hosts[2], saver])\nsys.exit(3)\n")
    deadline = time.monotonic() + 60
    while found.output(0) != "began\n":
        assert time.monotonic() < deadline, found.output(0)
        time.sleep(0.05)
    found.processes[1].send_signal(signal.SIGTERM)
    ends = found.ends()
    assert (found.place(1) / "run" / "work" / "saved").read_text() == "saved\n"
    assert (ends[0][2], ends[1][2]) == ("failed", "preempted"), ends


def test_nothing_is_started_without_the_key(parts: Callable[[str], Parts], tmp_path: Path) -> None:
    """Who asks is at an address of the run, as a pod in the place of a dead one may be."""
    found = parts(ASKS + "pathlib.Path('go').touch()\nimport time\nwhile True: time.sleep(1)\n")
    command = json.dumps({"command": f"touch {tmp_path}/stolen", "environment": {}}).encode()
    source = (found.addresses[0], 0)
    reach(found.addresses[1]).close()
    with socket.create_connection((found.addresses[1], PORT), 30, source) as connection:
        wrong = Sealed(connection, b"guessed", caller=True)
        with pytest.raises(SealError):
            wrong.receive()
        wrong.send(START, command)
        assert closes(connection)
    with socket.create_connection((found.addresses[1], PORT), 30, source) as connection:
        right = Sealed(connection, KEY, caller=True)
        assert right.receive() == (READY, b"")
        right._sent += 1  # a frame of another place
        right.send(START, command)
        assert closes(connection)
    with socket.create_connection((found.addresses[1], PORT), 30) as connection:  # not from an address of the run
        assert closes(connection)
    assert not (tmp_path / "stolen").exists()
    with socket.create_connection((found.addresses[1], PORT), 30, source) as connection:
        right = Sealed(connection, KEY, caller=True)
        right.receive()
        right.send(START, command)
        right.receive()
    assert (tmp_path / "stolen").exists(), "who has the key may"


def closes(connection: socket.socket) -> bool:
    """Whether the other end closes the connection, whatever it says before."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_frame_holds_only_what_its_sender_put_in() -> None:
    ends = socket.socketpair()
    with ends[0], ends[1]:
        for end in ends:
            end.settimeout(30)
        # Each waits for the other's nonce, so one is given its bytes beforehand.
        nonce = bytes(32)
        ends[1].sendall(nonce)
        sealed = Sealed(ends[0], KEY, caller=True)
        assert ends[1].recv(32) != nonce
        ends[1].sendall(b"s" + (FRAME_LIMIT + 1).to_bytes(4, "big"))
        with pytest.raises(SealError):
            sealed.receive()
        ends[1].close()
        with pytest.raises(EOFError):
            sealed.receive()
