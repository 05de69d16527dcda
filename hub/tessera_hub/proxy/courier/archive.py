"""The courier as one file."""

from __future__ import annotations

import importlib.resources
from typing import Final

from tessera_lab.runner.archive import zipped

PACKAGE: Final = "tessera_hub.proxy.courier"
_MAIN: Final = """\
import os
import signal
import sys

# As process 1 of a container we hear nothing that we do not listen to, and what comes before that is lost: so before all else.
heard = []
if sys.argv[1:2] == ["prepare"]:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
elif sys.argv[1:2] in (["launch"], ["serve"]):
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))

from tessera_hub.proxy.courier.program import main

sys.exit(main(sys.argv[1:], heard))
"""


def build_archive() -> bytes:
    """Return the courier as a zip file that a Python runs; the same sources give the same bytes."""
    sources = {"__main__.py": _MAIN, "tessera_hub/__init__.py": "", "tessera_hub/proxy/__init__.py": ""}
    for resource in importlib.resources.files(PACKAGE).iterdir():
        if resource.name.endswith(".py") and resource.name != "archive.py":
            sources[f"{PACKAGE.replace('.', '/')}/{resource.name}"] = resource.read_text(encoding="utf-8")
    return zipped(sources)
