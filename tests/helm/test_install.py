"""The chart on a real cluster, by the real helm: install, work, upgrade, go back, remove. The tests go in this order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from playwright.sync_api import Browser, expect

from tessera_hub.installation import SERVICE_PREFIX
from tessera_hub.passwords import password_of
from tests.chromium import browser
from tests.helm.chart import NAMESPACE, RELEASE, WORKSPACES
from tests.helm.installed import CLAIMS, NAMESPACES, PERSON, PODS, SECRETS, Installed, until
from volcano_client import Collection, Kind

__all__ = ["browser"]
pytestmark = pytest.mark.timeout(900)

COMPONENTS = {"front-door", "hub", "service", "proxy", "postgresql"}
KINDS = [
    Kind("v1", "Service", "services"),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("v1", "ConfigMap", "configmaps"),
    Kind("v1", "ResourceQuota", "resourcequotas"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False),
    Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False),
]
SLEEPER = (
    "import pathlib, time\nprint('began', flush=True)\ntime.sleep({seconds})\npathlib.Path('slept.txt').write_text('well')\n"
)


def left(installed: Installed) -> list[str]:
    """What is there of the release."""
    labels = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/name=tessera"
    return [
        f"{kind.kind}/{found['metadata']['name']}"
        for kind in KINDS
        for found in Collection(installed.admin, kind).list(labels=labels)
    ]


def notebook(folder: Path) -> Path:
    cells = [nbformat.v4.new_code_cell("import socket\nprint('six times seven', 6 * 7)")]
    path = folder / "answer.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), "utf-8")
    return path


def script(folder: Path, seconds: int) -> Path:
    path = folder / "sleeper.py"
    path.write_text(SLEEPER.format(seconds=seconds), "utf-8")
    return path


def test_every_part_is_ready_and_was_never_started_again(installed: Installed) -> None:
    pods = installed.pods()
    assert set(pods) == COMPONENTS
    for component, pod in pods.items():
        conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
        assert conditions["Ready"] == "True", component
        restarts = [status["restartCount"] for status in pod["status"]["containerStatuses"]]
        assert restarts == [0], (component, installed.logs(component))


def test_hub_and_database_answer_the_service(installed: Installed) -> None:
    answer = httpx.get(f"{installed.url}{SERVICE_PREFIX}/readyz", timeout=30)
    assert answer.json() == {"status": "ready", "checks": {"database": "ok", "hub": "ok"}}


def test_a_person_signs_in_and_sees_the_portal(installed: Installed) -> None:
    with installed.signed_in(PERSON) as browser:
        browser.follow_redirects = True
        page = browser.get(f"{SERVICE_PREFIX}/")
        assert page.status_code == 200
        assert page.url.path == f"{SERVICE_PREFIX}/"
        assert PERSON in page.text
    with httpx.Client(base_url=installed.url, timeout=30) as browser:
        browser.get("/hub/login")
        form = {"username": PERSON, "password": "wrong", "_xsrf": browser.cookies.get("_xsrf", path="/hub/") or ""}
        assert browser.post("/hub/login", data=form).status_code == 403


def test_the_cluster_itself_is_there_with_what_it_has(installed: Installed) -> None:
    def known() -> Any:
        [cluster] = installed.clusters()
        return cluster if cluster["inventory"] else None

    cluster = until("the inventory", known, 60)
    assert (cluster["name"], cluster["driver"]) == ("local", "kubernetes")
    assert cluster["workspaces"] is True
    [pool] = cluster["inventory"]["pools"]
    assert pool["total"]["memory"] > 1024


def test_a_notebook_runs_on_the_cluster_and_comes_back(installed: Installed, tmp_path: Path) -> None:
    with installed.client(PERSON) as client:
        task = client.submit(notebook(tmp_path), cpu=0.2, memory="512MiB")
        ended = task.wait(180)
        assert ended.phase == "SUCCEEDED", (ended.reasons, installed.logs("proxy"))
        assert ended.cluster == "local"
        assert task.notebook()["cells"][0]["outputs"][0]["text"] == ["six times seven 42\n"]
        assert task.bill().amount_micro > 0


def test_a_workspace_opens_behind_the_front_door_and_ends_without_a_trace(installed: Installed) -> None:
    spec = {
        "name": "workspace",
        "kind": "workspace",
        "roles": [{"resources": {"cpu_millicores": 200, "memory_mib": 512}}],
    }
    headers = {"Authorization": f"token {installed.token(PERSON)}"}
    address = f"{installed.url}{SERVICE_PREFIX}/api/v1/workspaces"
    asked = httpx.post(address, json={"server_name": "", "spec": spec}, headers=headers, timeout=30)
    assert asked.status_code == 201, asked.text
    with installed.client(PERSON) as client:
        task = client.task(asked.json()["id"])
        until("the workspace runs", lambda: task.refresh().phase in ("RUNNING", "FAILED"), 180)
        assert task.phase == "RUNNING", (task.task.reasons, installed.logs("hub"))
        [pod] = Collection(installed.admin, PODS).list(WORKSPACES)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["priorityClassName"] == f"{RELEASE}-workspaces"
        with installed.signed_in(PERSON) as browser:
            browser.follow_redirects = True
            page = browser.get(f"/user/{PERSON}/lab")
            assert page.status_code == 200
            assert "jupyter-config-data" in page.text
            assert browser.get(f"/user/{PERSON}/api/status").json()["kernels"] == 0
        task.cancel()
        assert str(task.wait(60).phase) in ("SUCCEEDED", "CANCELLED")
    until("the pod goes", lambda: not list(Collection(installed.admin, PODS).list(WORKSPACES)), 60)
    [home] = Collection(installed.admin, CLAIMS).list(WORKSPACES)
    assert home["status"]["phase"] == "Bound", "the home stays"


def test_the_journey_in_a_browser_from_the_form_to_the_executed_notebook(installed: Installed, browser: Browser) -> None:
    page = browser.new_page(locale="zh-CN", viewport={"width": 1500, "height": 950})
    page.goto(f"{installed.url}/hub/login?next={SERVICE_PREFIX}/workspaces/new?opt-cpu=0.2%26opt-memory=1")
    page.locator("input[name=username]").fill(PERSON)
    page.locator("input[name=password]").fill(password_of(installed.secret()["sign-in-key"], PERSON))
    page.locator("#login_submit").click()
    page.locator("button.t-start").click()
    page.wait_for_url(re.compile(rf"/user/{PERSON}/lab"), timeout=180_000)
    page.goto(f"{installed.url}/user/{PERSON}/lab/tree/examples/digits.ipynb?reset")
    page.locator(".jp-NotebookPanel-toolbar").get_by_text("作为任务运行").click(timeout=60_000)
    dialog = page.get_by_role("dialog", name="作为任务运行")
    dialog.get_by_label("epochs").fill("3")
    # The node of the tests is small.
    dialog.get_by_role("spinbutton", name="CPU").fill("0.2")
    dialog.get_by_role("spinbutton", name="内存").fill("1")
    dialog.get_by_role("button", name="作为任务运行").click(timeout=60_000)
    expect(page.locator(".tsr-panel-head .tsr-phase.tsr-mod-large")).to_contain_text("已完成", timeout=180_000)
    expect(page.get_by_role("tabpanel").locator(".tsr-notebook")).to_contain_text("epoch  3/3")
    page.get_by_role("tab", name="文件", exact=True).click()
    page.get_by_role("button", name=re.compile(r"^打开 digits\.ipynb")).click(timeout=30_000)
    expect(page.get_by_role("tab", name="digits.ipynb")).to_have_count(2)
    page.close()


def test_a_job_goes_on_while_every_part_is_replaced(installed: Installed, tmp_path: Path) -> None:
    before, keys = installed.pods(), installed.secret()
    [workspace] = Collection(installed.admin, PODS).list(WORKSPACES)
    with installed.client(PERSON) as client:
        task = client.submit(script(tmp_path, 45), cpu=0.1, memory="128MiB")
        until("it runs", lambda: task.refresh().phase == "RUNNING", 60)
        installed.upgrade(
            {
                "contact": "gpu-team@example.org",
                "hub": {"extraConfig": {"mark": "c.JupyterHub.log_level = 20"}},
                "proxy": {"gangSeconds": 301},
                "frontDoor": {"resources": {"limits": {"memory": "400Mi"}}},
                "postgresql": {"resources": {"limits": {"memory": "1Gi"}}},
            }
        )
        after = installed.pods()
        assert {c for c in COMPONENTS if before[c]["metadata"]["uid"] != after[c]["metadata"]["uid"]} == COMPONENTS
        assert installed.secret() == keys
        ended = task.wait(180)
        assert (ended.phase, ended.attempts) == ("SUCCEEDED", 1), (ended.reasons, installed.logs("proxy"))
        assert [file.path for file in task.outputs()] == ["slept.txt"]
    # The workspace, too: the same pod, behind the new front door, known to the new hub.
    [there] = Collection(installed.admin, PODS).list(WORKSPACES)
    assert (there["metadata"]["uid"], there["status"]["phase"]) == (workspace["metadata"]["uid"], "Running")
    with installed.signed_in(PERSON) as web:
        web.follow_redirects = True
        assert web.get(f"/user/{PERSON}/lab").status_code == 200
        assert web.get(f"/user/{PERSON}/api/status").json()["kernels"] >= 0
    with installed.client(PERSON) as client:
        [open_one] = [t for t in client.tasks(mine=True) if t.task.kind == "workspace" and t.task.phase == "RUNNING"]
        open_one.cancel()
        assert str(open_one.wait(60).phase) in ("SUCCEEDED", "CANCELLED")
    until("the pod goes", lambda: not list(Collection(installed.admin, PODS).list(WORKSPACES)), 60)


def test_a_rollback_brings_the_former_settings_back(installed: Installed) -> None:
    keys = installed.secret()
    installed.helm("rollback", RELEASE, "1", "--wait", "--timeout", "300s")
    service = installed.pods()["service"]
    assert "--TesseraService.contact=" in service["spec"]["containers"][0]["args"]
    assert installed.secret() == keys
    answer = until(
        "the service is ready", lambda: httpx.get(f"{installed.url}{SERVICE_PREFIX}/readyz", timeout=30).status_code == 200, 60
    )
    assert answer
    with installed.client(PERSON) as client:
        assert {task.task.name for task in client.tasks()} >= {"answer.ipynb", "sleeper.py"}, (
            "what was in the database is still there"
        )


def test_uninstall_leaves_data_and_keys_only_and_an_installation_takes_them_up(installed: Installed) -> None:
    keys = installed.secret()
    assert left(installed), "otherwise the next look shows nothing"
    installed.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
    until("the pods go", lambda: not installed.pods(), 60)
    assert left(installed) == []
    claims = {claim["metadata"]["name"] for claim in Collection(installed.admin, CLAIMS).list(NAMESPACE)}
    assert claims == {"tessera-service", "data-tessera-postgresql-0"}
    secrets = {s["metadata"]["name"] for s in Collection(installed.admin, SECRETS).list(NAMESPACE) if s["type"] == "Opaque"}
    assert secrets == {"tessera-secrets"}
    assert Collection(installed.admin, NAMESPACES).get(WORKSPACES) is not None
    installed.again()
    assert installed.secret() == keys
    with installed.client(PERSON) as client:
        assert "answer.ipynb" in {task.task.name for task in client.tasks()}
