"""No float comes near money: read from the syntax of the package, not from its results."""

import ast
from pathlib import Path

import pytest
import sqlalchemy as sa

import tessera_billing
from tessera_billing.tables import metadata

pytestmark = pytest.mark.billing

SOURCES = sorted(Path(tessera_billing.__file__).parent.glob("**/*.py"))


def float_uses(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=float() | complex()):
                found.append(f"{node.lineno}: the literal {node.value}")
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                found.append(f"{node.lineno}: true division")
            case (
                ast.Name(id="float" | "complex")
                | ast.Attribute(attr="timestamp" | "truediv" | "total_seconds" | "Float" | "Double")
            ):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Import(names=names) if any(name.name in ("math", "decimal", "statistics") for name in names):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.ImportFrom(module="math" | "decimal" | "statistics"):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_has_no_float(path):
    assert float_uses(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source", ["a / b", "a /= b", "1.0", "float(a)", "x: float", "d.timestamp()", "import math", "sa.Float()"]
)
def test_the_search_finds_floats(source):
    assert float_uses(source)


def test_every_module_is_searched():
    assert {"rating.py", "invoice.py", "bills.py", "accrual.py", "estimate.py", "tables.py"} <= {path.name for path in SOURCES}


def test_no_column_holds_floats():
    assert not [c for t in metadata.tables.values() for c in t.columns if isinstance(c.type, sa.Float)]
