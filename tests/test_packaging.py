"""What is installed: the list of packages, and how light the base install and ``[lab]`` are."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("kubernetes", "kubernetes_asyncio", "sqlalchemy", "pandas", "fastapi", "uvicorn", "jupyterhub", "alembic", "plotly")


def configuration() -> ConfigParser:
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg", "utf-8")
    return config


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_every_package_on_disk_is_listed_and_nothing_else() -> None:
    config = configuration()
    found = set()
    for entry in lines(config["options"]["package_dir"]):
        name, _equals, folder = (part.strip() for part in entry.partition("="))
        root = REPOSITORY / folder
        for init in root.rglob("__init__.py"):
            relative = init.parent.relative_to(root)
            if "node_modules" not in relative.parts:
                found.add(".".join([name, *relative.parts]))
    listed = lines(config["options"]["packages"])
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == found


@pytest.mark.parametrize(
    "modules",
    [
        "tessera_hub.client",
        "tessera_hub.cli",
        "tessera_lab, tessera_lab.app, tessera_lab.magics",
        "tessera_lab.runner",
        "tessera_widgets",
    ],
)
def test_the_light_install_imports_nothing_heavy(modules: str) -> None:
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is not part of this install", name=name)

sys.meta_path.insert(0, Blocker())
import {modules}
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
"""
    paths = [
        str(REPOSITORY / entry.partition("=")[2].strip().partition("/")[0])
        for entry in lines(configuration()["options"]["package_dir"])
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{program}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_requirements_of_the_light_installs_are_light() -> None:
    config = configuration()
    wanted = lines(config["options"]["install_requires"]) + lines(config["options.extras_require"]["lab"])
    names = {requirement.split(">")[0].split("[")[0].split("=")[0].strip().lower() for requirement in wanted}
    assert names.isdisjoint(HEAVY)
    assert "tessera-hub" not in names, "an extra must not pull in another one"
