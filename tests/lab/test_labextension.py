"""The Lab extension's own checks, and whether its types are those of the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_hub.api.openapi import document

EXTENSION = Path(__file__).parents[2] / "extensions/labextension"


def npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert (EXTENSION / "node_modules").is_dir(), "run `npm ci` in extensions/labextension first, as `make test` does"
    # Node comes with the virtual environment.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["npm", *arguments], cwd=EXTENSION, env=environment, capture_output=True, text=True)


def test_the_openapi_document_is_that_of_the_service() -> None:
    kept = (EXTENSION / "openapi.json").read_text("utf-8")
    assert kept == document(), "run `npm run openapi && npm run types` in extensions/labextension"


def test_the_types_are_those_of_the_openapi_document(tmp_path: Path) -> None:
    made = tmp_path / "api.ts"
    done = npm("exec", "--silent", "--", "openapi-typescript", "openapi.json", "-o", str(made))
    assert done.returncode == 0, done.stdout + done.stderr
    kept = (EXTENSION / "src/api.ts").read_text("utf-8")
    assert kept == made.read_text("utf-8"), "run `npm run types` in extensions/labextension"


@pytest.mark.parametrize("script", ["lint", "typecheck", "test"])
def test_the_source_passes(script: str) -> None:
    done = npm("run", "--silent", script)
    assert done.returncode == 0, done.stdout + done.stderr
