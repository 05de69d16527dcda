"""Fixtures of the command line's tests.

tessera  function  runs ``tessera`` as a process against the shared ``centre``: ``tessera("tasks", "--json")``
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.centre import Centre

Tessera = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tessera(centre: Centre, tmp_path: Path) -> Tessera:
    def run(
        *arguments: str, token: str | None = None, language: str = "C", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "JUPYTERHUB_", "LC_"))}
        return subprocess.run(
            [sys.executable, "-m", "tessera_hub.cli", *arguments],
            env={
                **clean,
                "TESSERA_URL": centre.service.url,
                "TESSERA_TOKEN": token or centre.token,
                "LANG": language,
                "HOME": str(tmp_path),
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
                **environment,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run
