"""Whatever our packages import is declared in setup.cfg: a fresh clone gets nothing that merely lay about."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = {"tessera_hub", "volcano_client", "tessera_spawner", "tessera_lab", "tessera_widgets", "tessera_billing", "tessera_vgpu"}
ALONG = {"IPython", "jupyter_client", "jupyter_core", "tornado", "traitlets", "starlette"}
"""Parts of ipykernel, jupyter-server, JupyterHub and FastAPI, which are declared and promise them."""


def imported(folder: Path) -> dict[str, str]:
    """Return top-level name → one file that imports it."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return found


def declared() -> set[str]:
    """Return the distributions of setup.cfg, the tests' own left out."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    text = config["options"]["install_requires"] + "".join(v for k, v in extras.items() if k not in ("test", "docs"))
    return {re.split(r"[\[<>=!~ ;]", line.strip())[0].lower().replace("_", "-") for line in text.splitlines() if line.strip()}


def test_every_import_is_declared() -> None:
    names: dict[str, str] = {}
    for folder in ("hub", "spawner", "extensions/tessera_lab", "widgets", "billing", "vgpu/tessera_vgpu"):
        names |= imported(ROOT / folder)
    distributions, known = packages_distributions(), declared()
    undeclared = {
        name: where
        for name, where in names.items()
        if name not in sys.stdlib_module_names | OURS | ALONG
        and not {d.lower().replace("_", "-") for d in distributions.get(name, [name])} & known
    }
    assert undeclared == {}
