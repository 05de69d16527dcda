"""What breaks other installations of JupyterHub, tried on the real hub: refusals that end the hub, waits that fill it, cut lists.

Others are tried elsewhere: a start without or before its reservation, a service that is away, a start that fails or never answers
(``test_failures.py``); amounts of one start that reach the next, the end of the progress (``test_pods.py``); one reading of form,
REST and link, names of servers (``test_options.py``); links of the hub's own form (``tests/browser/test_pages.py``).

The hub here gives up after two errors in a row and lets one server start at a time. Sources: JupyterHub's handlers
(``_track_failure_count``, ``concurrent_spawn_limit``, ``get_api_pagination``) and ``Spawner.apply_user_options``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.running import RunningHub, until
from tests.spawner.workspaces import ask, call, end_all, started

pytestmark = [pytest.mark.timeout(300), pytest.mark.root]

MANY_GROUPS = 230
EXTRA = f"""
c.Spawner.consecutive_failure_limit = 2
c.JupyterHub.concurrent_spawn_limit = 1
groups = {{f"group-{{n:03}}": {{"users": []}} for n in range({MANY_GROUPS})}}
last = {{"last": {{"users": ["zoe"], "properties": {{"tessera.tenant": "last"}}}}}}
c.JupyterHub.load_groups.update({{**groups, **last}})
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    folder = Path(tempfile.mkdtemp(prefix="tessera-pitfalls-"))
    folder.chmod(0o711)  # the servers of people go through
    (folder / "jupyterhub_extra.py").write_text(EXTRA)
    running = RunningHub(data_dir=folder)
    try:
        yield running.start().joined()
    finally:
        running.remove()


def start_directly(hub: RunningHub, server: str, options: Any = None) -> httpx.Response:
    """Start a server past the form, as a person with a token may."""
    url = f"{hub.url}/hub/api/users/{hub.here.owner}/servers/{server}"
    body = {"user_options": options} if options is not None else None
    return httpx.post(url, json=body, headers={"Authorization": f"token {hub.server_token()}"}, timeout=30)


def test_refused_starts_in_a_row_do_not_end_the_hub(hub: RunningHub) -> None:
    before = hub.child("jupyterhub").pid
    answers = [start_directly(hub, f"refused-{n}").status_code for n in range(4)]
    assert answers == [409] * 4
    assert hub.child("jupyterhub").pid == before
    assert httpx.get(f"{hub.url}/hub/api/", timeout=20).status_code == 200


def test_options_that_the_form_would_refuse_are_refused_by_rest_with_the_field_and_no_error_is_counted(hub: RunningHub) -> None:
    before = hub.child("jupyterhub").pid
    for options in ({"compute": "share", "share": "999999"}, {"cpu": "NaN"}, {"memory": "-1"}):
        answer = start_directly(hub, "garbage", options)
        assert answer.status_code == 400, answer.text
        assert next(reversed(options)) in answer.json()["message"]
    # What no field is called is no way round the reservation either, and an empty dictionary is always taken.
    for harmless in ({"evil": 1, "profile": "gpu"}, {}):
        assert start_directly(hub, "garbage", harmless).status_code == 409
    assert hub.child("jupyterhub").pid == before
    assert "Received unhandled user_options" not in hub.log.read_text()


def test_who_waits_for_resources_fills_no_place_of_the_hub(hub: RunningHub) -> None:
    with hub.client() as client:
        total = max(c.total.get("cpu", 0) for c in client.capacity())
        first = started(client, ask(client, "small"))
        resources = {"cpu_millicores": total, "memory_mib": 256}
        waiting = []
        for name in ("big-one", "big-two"):
            spec = {"name": name, "kind": "workspace", "roles": [{"resources": resources}]}
            made = call(client, "POST", "workspaces", {"server_name": name, "spec": spec})
            assert made.status_code == 201, made.text
            waiting.append(client.task(made.json()["id"]))
        until(lambda: all(handle.refresh().reasons for handle in waiting), 30)
        assert [handle.task.phase for handle in waiting] == ["QUEUED", "QUEUED"]
        # One place for starts, two that wait, and a third who need not.
        assert started(client, ask(client, "another")).task.phase == "RUNNING"
        assert first.refresh().phase == "RUNNING"
        end_all(hub, None)


def test_a_workspace_is_found_under_its_servers_name_whatever_its_specification_is_called(hub: RunningHub) -> None:
    with hub.client() as client:
        spec = {"name": "my lab", "kind": "workspace", "roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 256}}]}
        refused = call(client, "POST", "workspaces", {"server_name": "workspace", "spec": spec})
        assert (refused.status_code, "default server" in refused.text) == (422, True), refused.text
        made = call(client, "POST", "workspaces", {"server_name": "named", "spec": spec})
        assert made.status_code == 201, made.text
        handle = started(client, made)
        assert handle.task.name == "named"
        end_all(hub, None)


def test_a_tenant_beyond_the_first_page_of_groups_is_one(hub: RunningHub) -> None:
    with hub.client("zoe") as zoe:
        me = zoe.me()
    assert me.tenants == ["last"]
