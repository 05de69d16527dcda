"""The main job end to end: service and Proxy as two processes, a script placed, run, logged, returned and billed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.hub_double import HubDouble
from tests.service import ServiceProcess, script_spec, upload

PROGRAM = b"import time\nprint('hello', flush=True)\ntime.sleep(2)\nopen('out.txt', 'w').write('x')\n"


def test_a_script_runs_on_the_local_cluster_and_its_log_file_and_bill_come_back(tmp_path: Path) -> None:
    hub = HubDouble()
    hub.start()
    ada = hub.add_user("ada", "red")
    tmp_path.chmod(0o755)
    service = ServiceProcess(tmp_path / "service", hub, local_token="bootstrap-of-the-test")
    token_file = tmp_path / "token"
    token_file.write_text("bootstrap-of-the-test")
    token_file.chmod(0o600)
    proxy = None
    try:
        service.start()
        options = ["--cluster", "local", "--url", service.url, "--bootstrap-token-file", str(token_file), "--driver", "local"]
        command = [sys.executable, "-m", "tessera_hub.cli", "proxy", *options, "--data-dir", str(tmp_path / "proxy")]
        with (tmp_path / "proxy.log").open("wb") as log:
            proxy = subprocess.Popen(command, stdout=log, stderr=log)
        api = service.api(ada)
        task = api.post("/tasks", json=script_spec(*upload(api, PROGRAM))).json()
        deadline = time.monotonic() + 60
        while (now := api.get(f"/tasks/{task['id']}").json())["phase"] not in ("SUCCEEDED", "FAILED", "CANCELLED"):
            assert time.monotonic() < deadline, (now, (tmp_path / "proxy.log").read_text(), service.log_tail())
            time.sleep(0.2)
        assert (now["phase"], now["attempts"]) == ("SUCCEEDED", 1), now
        assert "hello" in api.get(f"/tasks/{task['id']}/logs/output").text
        assert [o["path"] for o in api.get(f"/tasks/{task['id']}/outputs").json()] == ["out.txt"]
        while not (bill := api.get(f"/tasks/{task['id']}/bill").json())["lines"] or any(x["provisional"] for x in bill["lines"]):
            assert time.monotonic() < deadline, bill
            time.sleep(0.2)
        cpu = next(line for line in bill["lines"] if line["dimension"] == "cpu")
        assert cpu["unit_seconds"] == 100 * bill["seconds"]
        assert bill["seconds"] >= 2
        assert bill["amount_micro"] == sum(line["amount_micro"] for line in bill["lines"])
        assert all(line["used"] == 0 for queue in api.get("/queues").json() for line in queue["quota"])
    finally:
        if proxy is not None:
            proxy.terminate()
            proxy.wait(20)
        service.stop()
        hub.stop()
