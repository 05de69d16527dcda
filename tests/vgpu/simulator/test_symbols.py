"""The libraries have every function of the public headers, and each call can be seen under its own name."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tessera_vgpu.simulate import VGPU
from tests.vgpu.simulator.conftest import REAL, Card, headers

pytestmark = pytest.mark.skipif(REAL, reason="about the simulator's own libraries")

DRIVER = VGPU / "simulator" / "driver"
NVML = VGPU / "simulator" / "nvml"
SYMBOL = re.compile(r"^SYMBOL\((\w+), (\w+), (\d+), (ANY|LEGACY|PER_THREAD)\)$", re.MULTILINE)


def exported(library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True).stdout
    return {line.split()[2] for line in listed.splitlines()}


def text(name: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", (headers() / name).read_text("latin-1"), flags=re.DOTALL)


def test_the_table_of_versions_is_that_of_the_headers() -> None:
    wanted: dict[str, set[tuple[int, bool]]] = defaultdict(set)
    for name, version, suffix in re.findall(r"\*PFN_(cu\w+?)_v(\d+)(_ptds|_ptsz)?\)", text("cudaTypedefs.h")):
        wanted[name].add((int(version), bool(suffix)))
    has: dict[str, set[tuple[int, bool]]] = defaultdict(set)
    for name, _symbol, version, kind in SYMBOL.findall((DRIVER / "symbols.h").read_text("utf-8")):
        has[name].add((int(version), kind == "PER_THREAD"))
    for profiler in ("cuProfilerStart", "cuProfilerStop"):  # of another header
        assert has.pop(profiler) == {(4000, False)}
    assert has == wanted


def test_every_driver_function_is_exported_and_nothing_else(libraries: Path) -> None:
    symbols = {symbol for _name, symbol, _version, _kind in SYMBOL.findall((DRIVER / "symbols.h").read_text("utf-8"))}
    has = exported(libraries / "libcuda.so.1")
    assert has == symbols | {"cuGetProcAddress_v2_ptsz"}
    declared = set(re.findall(r"CUresult\s+CUDAAPI\s+(cu\w+)\s*\(", text("cuda.h")))
    renamed = set(
        re.findall(r"#define\s+cu\w+\s+(?:__CUDA_API_PT[DS][SZ]\()?(cu\w+)", (headers() / "cuda.h").read_text("latin-1"))
    )
    assert (declared | renamed) - has == set()


def test_every_management_function_is_exported_and_nothing_else(libraries: Path) -> None:
    declared = set(
        re.findall(r"(?:nvmlReturn_t\s+(?:DECLDIR|DEPRECATED\([\d.]+\))|DECLDIR\s+char\s*\*)\s+(nvml\w+)\s*\(", text("nvml.h"))
    )
    assert exported(libraries / "libnvidia-ml.so.1") == declared


def test_refused_functions_answer(card: Card) -> None:
    names = re.findall(r"REFUSED\((\w+)\)", (DRIVER / "refused_symbols.h").read_text("utf-8"))
    source = f"""
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
before = {{getattr(cuda, name)() for name in {names[:5]!r}}}
cuda.cuInit(0)
print(before, {{getattr(cuda, name)() for name in {names!r}}})
table, key = ctypes.c_void_p(1), (ctypes.c_char * 16)()
print(cuda.cuGetExportTable(ctypes.byref(table), key), table.value)
"""
    assert card.python(source).splitlines() == ["{3} {801}", "801 None"]


def test_each_variant_logs_its_own_name(card: Card, tmp_path: Path) -> None:
    log = tmp_path / "log"
    card.run("guarantees", "memory", GPU_SIMULATOR_LOG=str(log))
    names = {line.split()[1] for line in log.read_text().splitlines()}
    assert {"cuInit", "cuMemAlloc_v2", "cuMemcpyHtoD_v2", "cuMemFree_v2", "cuMemsetD32_v2"} <= names
    assert not any(name.endswith(("_ptds", "_ptsz")) for name in names)
    log.unlink()
    card.run("guarantees_per_thread", "memory", GPU_SIMULATOR_LOG=str(log))
    names = {line.split()[1] for line in log.read_text().splitlines()}
    assert {"cuMemcpyHtoD_v2_ptds", "cuMemsetD32_v2_ptds", "cuMemAlloc_v2"} <= names


def test_source_files_are_short_and_know_no_interposer() -> None:
    files = [path for path in (VGPU / "simulator").rglob("*.[ch]") if not path.name.endswith("symbols.h")]
    assert len(files) > 40
    for path in files:
        source = path.read_text("utf-8")
        assert source.count("\n") <= 400, path
        assert "tessera" not in source.lower(), path
