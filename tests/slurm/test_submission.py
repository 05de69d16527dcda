"""What is handed to sbatch, and the program on the node by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.slurm.files import build_programs
from tessera_hub.proxy.drivers.slurm.inventory import Cards
from tessera_hub.proxy.drivers.slurm.settings import EnvironmentSettings, PartitionSettings, SlurmSettings
from tessera_hub.proxy.drivers.slurm.submission import Place, job_arguments, job_options
from tests.proxy.conftest import LeaseMaker

PLACE = Place("/shared/runs/x", "/shared/programs")
SETTINGS = SlurmSettings.model_validate({"same_names": True, "environments": {"default": {"python": "/opt/python"}}})
GPU = PartitionSettings(name="gpu", preemptible="low", qos="normal", preemptible_qos="scavenger", account="ai")


def options(make_lease: LeaseMaker, default_minutes: int | None = None, **fields: object) -> dict[str, str]:
    lease, _source = make_lease("", **fields)
    found = job_options(lease, SETTINGS, GPU, Cards({}), PLACE, default_minutes)
    assert found[0] == "--no-requeue"
    return dict(option.removeprefix("--").split("=", 1) for option in found[1:])  # type: ignore[misc]


def test_the_time_limit_lies_behind_the_runs_own(make_lease: LeaseMaker) -> None:
    found = options(make_lease, lifecycle={"max_run_seconds": 600, "grace_seconds": 30})
    # 600 + 30 + 2 * 60 seconds in whole minutes; the signal comes 90 seconds before that, after the runner's own limit.
    assert (found["time"], found["signal"]) == ("13", "B:TERM@90")


@pytest.mark.parametrize(("minutes", "signal"), [(None, "B:TERM@65"), (60, "B:TERM@65"), (3, "B:TERM@65"), (2, None), (1, None)])
def test_a_limit_that_is_too_short_for_the_signal_has_none(
    make_lease: LeaseMaker, minutes: int | None, signal: str | None
) -> None:
    found = options(make_lease, minutes)
    assert (found.get("signal"), found.get("time")) == (signal, None)


def test_preemptible_tasks_go_where_they_may_be_preempted(make_lease: LeaseMaker) -> None:
    usual, low = options(make_lease), options(make_lease, preemptible=True)
    assert (usual["partition"], usual["qos"], usual["account"]) == ("gpu", "normal", "ai")
    assert (low["partition"], low["qos"], low["account"]) == ("low", "scavenger", "ai")


def test_priority_orders_our_own_jobs(make_lease: LeaseMaker) -> None:
    assert [options(make_lease, priority=priority)["nice"] for priority in (0, 50, 100)] == ["100", "50", "0"]


def test_the_lease_token_is_not_shown_to_everybody(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("")
    assert lease.lease_token not in " ".join(job_options(lease, SETTINGS, GPU, Cards({}), PLACE))


def test_an_image_sees_the_run_and_what_the_operator_binds(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("")
    environment = EnvironmentSettings(image="/sw/torch.sif", binds=["/data"])
    assert job_arguments(lease, environment, PLACE) == [
        "",
        *("apptainer", "exec", "--nv", "--bind", PLACE.run, "--bind", PLACE.programs, "--bind", "/data"),
        *("--pwd", PLACE.run, "/sw/torch.sif", "python3", "-I", PLACE.attendant, PLACE.run),
    ]


def test_modules_are_words_of_the_first_argument(make_lease: LeaseMaker) -> None:
    lease, _source = make_lease("")
    environment = EnvironmentSettings(venv="/sw/torch", modules=["cuda/12.4", "gcc"])
    assert job_arguments(lease, environment, PLACE)[:2] == ["cuda/12.4 gcc", "/sw/torch/bin/python"]


def test_the_program_on_the_node_starts_a_run_once(tmp_path: Path) -> None:
    _runner, attendant, _script = build_programs(tmp_path / "programs")
    run = tmp_path / "run"
    run.mkdir()
    launch = {
        "run_id": "x",
        "argv": ["/bin/sh", "-c", "echo began; exit 3"],
        "env": {},
        "uid": None,
        "max_seconds": None,
        "grace_seconds": 5,
        "memory_mib": None,
        "output_bytes": 1000,
    }
    (run / "launch.json").write_text(json.dumps(launch))
    command = [sys.executable, "-I", str(attendant), str(run)]
    assert [subprocess.run(command, check=False, capture_output=True).returncode for _ in range(3)] == [3, 75, 75]
    assert (run / "output.log").read_text() == "began\n"
    assert json.loads((run / "shim.json").read_text())["exit_code"] == 3
