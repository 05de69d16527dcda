"""Tasks through the real service and the real Proxy process to jobs that really run, and what an operator sees of the account."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.aws.account import BUCKET, DEFINITION, KEYS, QUEUE, REGION, Account
from tests.hub_double import HubDouble
from tests.proxy.conformance import notebook
from tests.proxy.conftest import serving
from tests.proxy.machine import LocalProxy
from tests.service import ServiceProcess, script_spec, upload

SIZE = {"cpu_millicores": 500, "memory_mib": 1024}


def settings_text(account: Account, prefix: str) -> str:
    """What an operator writes, and short pauses."""
    return (
        f'queue = "{QUEUE}"\nbucket = "{BUCKET}"\nprefix = "{prefix}"\nregion = "{REGION}"\nendpoint_url = "{account.url}"\n'
        f'python = "{sys.executable}"\nlook_seconds = 0.3\npoll_seconds = 0.2\nsettle_seconds = 1\n'
        f'currency_per_usd = 7.1\n\n[environments]\ndefault = "{DEFINITION}"\n'
    )


class AwsProxy(LocalProxy):
    """``tessera proxy --driver aws-batch`` as a process."""

    def __init__(self, account: Account, service: ServiceProcess, directory: Path, api: object) -> None:
        super().__init__(service, directory, api)  # type: ignore[arg-type]
        self.settings = directory / "aws.toml"
        self.settings.write_text(settings_text(account, f"j{uuid4().hex[:8]}"))
        self.options = ("--driver", "aws-batch", "--settings", str(self.settings))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with serving(tmp_path_factory.mktemp("service"), hub) as process:
        yield process


@pytest.fixture(scope="module")
def proxy(
    aws_account: Account, hub: HubDouble, service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AwsProxy]:
    found = AwsProxy(aws_account, service, tmp_path_factory.mktemp("proxy"), service.api(hub.add_user("ada", "red")))
    found.start()
    found.wait_for_session()
    yield found
    if found.process is not None:
        found.stop()


def test_a_notebook_comes_back_executed_with_files_and_bill(proxy: AwsProxy) -> None:
    source = "import time, pathlib\nprint('six', 6 * 7)\npathlib.Path('made.txt').write_text('from a job')\ntime.sleep(1)"
    sha, size = upload(proxy.api, notebook(source).encode())
    spec = script_spec(sha, size, name="nb", kind="notebook", entry="work/train.ipynb", roles=[{"resources": SIZE}])
    answer = proxy.api.post("/tasks", json=spec)
    assert answer.status_code == 201, answer.text
    task_id = answer.json()["id"]
    task = proxy.wait(task_id, seconds=120)
    assert (task["phase"], task["reasons"], task["attempts"]) == ("SUCCEEDED", [], 1)
    assert proxy.api.get(f"/tasks/{task_id}/notebook").json()["cells"][0]["outputs"][0]["text"] == ["six 42\n"]
    outputs = {file["path"] for file in proxy.api.get(f"/tasks/{task_id}/outputs").json()}
    assert outputs == {"train.ipynb", "work/made.txt"}
    bill = proxy.api.get(f"/tasks/{task_id}/bill").json()
    lines = {line["dimension"]: line for line in bill["lines"]}
    assert set(lines) == {"cpu", "memory"}, (bill, task)
    assert lines["cpu"]["unit_seconds"] == 500 * lines["memory"]["unit_seconds"] // 1024
    assert lines["cpu"]["unit_seconds"] >= 500


def test_a_run_outlives_its_proxy(proxy: AwsProxy) -> None:
    task_id = proxy.submit("import time\nprint('began', flush=True)\ntime.sleep(4)\nprint('done')", roles=[{"resources": SIZE}])
    proxy.wait_for_output(task_id, "began")
    assert proxy.process is not None
    proxy.process.kill()
    proxy.process.wait(10)
    proxy.start()
    proxy.wait_for_session()
    task = proxy.wait(task_id, seconds=60)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 1)
    assert proxy.output(task_id).count("began") == 1
    assert "done" in proxy.output(task_id)


def look(account: Account, folder: Path, **keys: str) -> subprocess.CompletedProcess[str]:
    """Look at the account as an operator does before the Proxy is started for good."""
    (folder / "aws.toml").write_text(settings_text(account, "look"))
    (folder / "token").write_text("unused")
    command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "aws", "--url", "http://127.0.0.1:9", "--check"]
    command += ["--bootstrap-token-file", str(folder / "token"), "--driver", "aws-batch", "--settings", str(folder / "aws.toml")]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "AWS_EC2_METADATA_DISABLED": "true", **keys}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_look_prints_what_the_account_has(aws_account: Account, tmp_path: Path) -> None:
    found = look(aws_account, tmp_path, **KEYS)
    assert found.returncode == 0, found.stderr
    assert "Environment default: job definition" in found.stdout
    assert "Pool plain, free/total: cpu 96000/96000" in found.stdout
    assert "cards/T4-16G 800/800" in found.stdout


def test_a_look_without_credentials_says_what_is_missing(aws_account: Account, tmp_path: Path) -> None:
    found = look(aws_account, tmp_path)
    assert found.returncode == 2
    assert "The cluster cannot be used: no usable credentials for AWS" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("queue = 1\n", "queue"),
        ('queue = "q"\nbucket = "b b"\n', "bucket"),
        ("=", "TOML"),
        ('queue = "q"\nbucket = "bbb"\n', "environments"),
    ],
)
def test_a_wrong_file_of_settings_is_named(tmp_path: Path, text: str, word: str) -> None:
    from tessera_hub.proxy.drivers.aws_batch.settings import read_options
    from tessera_hub.proxy.errors import ProxyError

    (tmp_path / "aws.toml").write_text(text)
    with pytest.raises(ProxyError) as refused:
        read_options(tmp_path / "aws.toml", {}, "http://hub")
    assert word in str(refused.value)
