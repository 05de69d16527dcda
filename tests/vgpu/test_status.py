"""``tessera vgpu``: status of a node's folder, whatever a container writes into its page; simulated cards; both languages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from tessera_hub.cli.vgpu import command
from tessera_vgpu.agent.resizing import change
from tessera_vgpu.bindings import Owner, Terms
from tessera_vgpu.cards import new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.choosing import Request
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import UsagePageBytes
from tessera_vgpu.slots import SlotStore


def nodes(folder: Path, uuids: Sequence[str]) -> None:
    for uuid in uuids:
        (folder / uuid).write_text("node")


def tessera(*words: str, language: str = "en") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TESSERA_LANGUAGE": language, "COLUMNS": "250"}
    return subprocess.run([sys.executable, "-m", "tessera_hub.cli", *words], capture_output=True, text=True, env=environment)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A node with one pod on a slice, one promise without a pod, and an agent that is away."""
    store = SlotStore(tmp_path, nodes)
    card = new_card("GPU-a", "A100-80G", 81920, load().cards["A100-80G"].continuous)
    slot = store.allocate(f"slot-{number}" for number in range(30))
    store.bind(slot.device_ids, Owner("uid", "lab", "train", "main"), Request(30, 8192), [card], Terms(limit_centi_cards=60))
    store.allocate(["slot-99"])
    path = store.folder(slot.nonce) / "usage"
    page = UsagePageBytes.from_buffer_copy(path.read_bytes())
    page.cards[0].reserved_bytes = 9 << 30
    page.slots[0].generation, page.slots[0].pid = 1, 7
    page.slots[0].ledger[0].bytes = 9 << 30
    page.slots[0].ledger[0].device_time_ns = 12_500_000_000
    path.write_bytes(bytes(page))
    store.close()
    return tmp_path


def test_it_shows_who_has_what_and_who_takes_more(state: Path) -> None:
    done = tessera("vgpu", "status", "--state-dir", str(state), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {
            "namespace": "lab",
            "pod": "train",
            "container": "main",
            "card": "GPU-a",
            "centi_cards": 30,
            "limit_centi_cards": 60,
            "memory_mib": 8192,
            "reserved_mib": 9216,
            "driver_mib": None,
            "device_time_s": 12.5,
            "waiting_s": 0.0,
            "throttled_s": 0.0,
            "processes": 1,
            "remarks": ["over_limit"],
        }
    ]
    table = tessera("vgpu", "status", "--state-dir", str(state)).stdout
    assert [
        word for word in ("lab/train", "0.30", "0.60", "8.00 GiB", "9.00 GiB", "12.5 s", "over_limit") if word not in table
    ] == []


def test_it_speaks_chinese(state: Path, tmp_path: Path) -> None:
    assert "设备时间" in tessera("vgpu", "status", "--state-dir", str(state), language="zh_CN").stdout
    refused = tessera("vgpu", "status", "--state-dir", str(tmp_path / "nowhere"), language="zh_CN")
    assert refused.returncode == 2
    assert "无法读取节点代理的目录" in refused.stderr
    assert "请在运行 tessera vgpu agent 的卡节点上以 root 执行" in refused.stderr


def test_a_page_of_nonsense_is_a_remark(state: Path) -> None:
    (usage,) = state.glob("slots/*/usage")
    usage.write_bytes(b"\xff" * 1000)
    (line,) = json.loads(tessera("vgpu", "status", "--state-dir", str(state), "--json").stdout)
    assert "truncated" in line["remarks"]
    assert line["memory_mib"] == 8192


def test_an_empty_node_says_so(tmp_path: Path) -> None:
    SlotStore(tmp_path, nodes).close()
    assert "No container has a slice" in tessera("vgpu", "status", "--state-dir", str(tmp_path)).stdout


COUNT = """
import pynvml
pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
print([pynvml.nvmlDeviceGetName(handle) for handle in handles])
raise SystemExit(7)
"""


def test_a_program_finds_simulated_cards_and_its_exit_status_is_ours() -> None:
    done = tessera("vgpu", "simulate", "--cards", "2xA100-80G", "--", sys.executable, "-c", COUNT)
    assert (done.stdout, done.returncode) == ("['NVIDIA A100-SXM4-80GB', 'NVIDIA A100-SXM4-80GB']\n", 7), done.stderr
    killed = tessera("vgpu", "simulate", "--cards", "T4-16G", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert killed.returncode == 137


TOTAL = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, address, free, total = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
assert cuda.cuInit(0) == 0 and cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1 << 33)) == 2
assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
print(free.value >> 20, total.value >> 20)
"""


def test_a_program_finds_a_slice_of_simulated_cards() -> None:
    build = Path(__file__).parents[2] / "vgpu" / "interposer"
    subprocess.run(["make", "--silent", "-C", str(build), f"PYTHON={sys.executable}"], check=True, timeout=280)
    done = tessera("vgpu", "simulate", "--cards", "A100-80G", "--memory", "6GiB", "--", sys.executable, "-c", TOTAL)
    assert (done.stdout, done.returncode) == ("6144 6144\n", 0), done.stderr
    refused = tessera("vgpu", "simulate", "--cards", "A100-80G", "--memory", "much", "--", "true")
    assert refused.returncode == 2
    assert "much is no amount of memory. Write it as 8GiB or 512MiB." in refused.stderr


def test_an_unknown_card_and_an_unknown_program_are_named() -> None:
    refused = tessera("vgpu", "simulate", "--cards", "1xB9", "--", "true", language="zh_CN")
    assert refused.returncode == 2
    assert "B9" in refused.stderr
    assert "A100-80G" in refused.stderr
    missing = tessera("vgpu", "simulate", "--cards", "T4-16G", "--", "/nowhere/program")
    assert missing.returncode == 2
    assert "/nowhere/program cannot be started: No such file or directory" in missing.stderr


def test_where_no_agent_is_status_and_resize_say_so(tmp_path: Path) -> None:
    shown = tessera("vgpu", "status", "--state-dir", str(tmp_path))
    assert shown.returncode == 2
    assert "cannot be read: No such file or directory. Run this as root on the node" in " ".join(shown.stderr.split())
    nothing = tessera("vgpu", "resize", "lab/train", "--state-dir", str(tmp_path))
    assert nothing.returncode == 2
    assert "Say what to change: --memory, --limit or --weight." in nothing.stderr


@pytest.mark.parametrize(("option", "text"), [("--token-file", None), ("--ca-file", None), ("--ca-file", "no certificate")])
def test_an_agent_names_the_file_that_it_cannot_use(tmp_path: Path, option: str, text: str | None) -> None:
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    reason = "No such file or directory" if text is None else "it holds no certificate"
    refused = CliRunner().invoke(command, ["agent", "--node", "n", "--state-dir", str(tmp_path), option, str(file)])
    assert refused.exit_code == 1
    assert f"{file} of {option} cannot be used: {reason}." in refused.stderr


def test_a_slice_that_is_not_there_is_refused_with_the_way_to_those_that_are(tmp_path: Path) -> None:
    store = SlotStore(tmp_path, nodes)
    with pytest.raises(VgpuError, match=r"There is no such slice on this node\. All are listed by: tessera vgpu status"):
        change(store, [], "lab", "train", "main", {"weight": 2})
    store.close()
