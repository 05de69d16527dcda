"""``make foreign``: how far each program of ``foreign.py`` goes on a simulated card and on a slice of it.

Each is installed in an environment of its own below ``.foreign`` (8 GB in all). Ends with 1 where one does something else.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tessera_vgpu.simulate import LIBRARIES
from tests.vgpu.others.foreign import EVERY, Program, differences, run

HERE = Path(__file__).parents[3] / ".foreign"


def environment_of(program: Program) -> tuple[Path, str]:
    """Return the Python that has the program's packages, and the version of the first of them."""
    folder = HERE / program.name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *program.packages], check=True)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    versions = {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}
    first = program.packages[0].partition("[")[0]
    return python, f"{first} {versions[first]}"


def command_of(program: Program, python: Path) -> list[str]:
    """Return how to start it; programs in CUDA C++ are compiled first, which needs g++."""
    if program.source.suffix != ".cu":
        return [str(python), str(program.source)]
    if shutil.which("g++") is None:
        sys.exit("no C++ compiler: install Debian's package g++")
    toolkit = next(python.parents[1].glob("lib/python*/site-packages/nvidia/cu13"))
    target = HERE / f"{program.name}-{program.cudart}"
    compiler = [str(toolkit / "bin" / "nvcc"), "-arch=sm_80", "-cudart", program.cudart]
    link = toolkit / "lib" / "libcudart.so"
    if not link.exists():
        link.symlink_to("libcudart.so.13")
    subprocess.run([*compiler, f"-L{toolkit / 'lib'}", "-o", str(target), str(program.source)], check=True)
    return [str(target)]


def main() -> int:
    console = Console(width=160)
    table = Table("program", "version", "cards", "steps that worked", "where it stopped")
    HERE.mkdir(exist_ok=True)
    wrong = []
    for program in EVERY:
        python, version = environment_of(program)
        command = command_of(program, python)
        name = f"{program.name} {program.cudart}".strip()
        for sliced in (False, True):
            said = run(command, sliced=sliced)
            worked = [step for step, value in said.items() if not value.startswith("stopped")]
            stopped = [f"{step}: {value[:70]}" for step, value in said.items() if value.startswith("stopped")]
            table.add_row(name, version, "slice" if sliced else "card", " ".join(worked), "\n".join(stopped))
            wrong += [f"{name}: {line}" for line in differences(program, said, sliced=sliced)]
    console.print(table)
    for line in wrong:
        console.print(f"not as written: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if not (LIBRARIES / "libcuda.so.1").exists():
        sys.exit("build it first: make simulator interposer")
    sys.exit(main())
