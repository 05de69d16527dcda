"""Every reason that a Proxy or runner can give has a text of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import tessera_hub.proxy
from tessera_hub.proxy.drivers.outcome import ORDERED, STATUS_CODES
from tessera_hub.tasks.reasons import REASONS
from tessera_lab.runner.exits import EXIT_STATUS

SOURCES = sorted(Path(tessera_hub.proxy.__file__).parent.rglob("*.py"))


def raised() -> set[str]:
    """Return the codes that the Proxy's source gives to ``DriverError`` and ``reason_of``."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("DriverError", "reason_of"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_every_code_of_the_proxy_and_the_runner_has_a_text() -> None:
    codes = raised() | set(EXIT_STATUS) | set(STATUS_CODES.values()) | {code for _state, code in ORDERED.values()}
    assert len(codes) > 20
    assert sorted(codes - REASONS.keys()) == []
