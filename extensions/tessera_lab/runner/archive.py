"""The runner as one file that any Python of the environment can run."""

from __future__ import annotations

import importlib.resources
import io
import zipapp
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tessera_lab.runner.storage import publish, stage

PACKAGE: Final = "tessera_lab.runner"
INTERPRETER: Final = "/usr/bin/env python3"
# The earliest time a zip file can hold: the same sources always give the same bytes.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MAIN: Final = "import sys\n\nfrom tessera_lab.runner.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"


def build_zipapp(path: str | Path) -> Path:
    """Write the runner as an executable zip archive; the same sources give the same bytes.

    It holds this package only, and a ``tessera_lab`` that is empty but for it. Run it by the environment's Python:
    ``python -I runner.pyz RUN_DIR``.

    Args:
        path: file to write, normally ``*.pyz``; replaced if it is there.

    Returns:
        The path.
    """
    target = Path(path)
    sources = {"__main__.py": _MAIN, "tessera_lab/__init__.py": ""}
    for resource in importlib.resources.files(PACKAGE).iterdir():
        if resource.name.endswith(".py"):
            sources[f"{PACKAGE.replace('.', '/')}/{resource.name}"] = resource.read_text(encoding="utf-8")
    executable = io.BytesIO()
    zipapp.create_archive(io.BytesIO(zipped(sources)), executable, interpreter=INTERPRETER)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = stage(target, executable.getvalue(), durable=False)
    temporary.chmod(0o755)
    publish(temporary, target, durable=False)
    return target


def zipped(sources: Mapping[str, str]) -> bytes:
    """Return a zip file of *sources* (path → text); the same sources give the same bytes."""
    content = io.BytesIO()
    # Stored, not deflated: the compressed bytes would depend on the version of zlib.
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, sources[name])
    return content.getvalue()
