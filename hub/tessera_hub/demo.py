"""``tessera demo``: the whole tour without a browser, on a fresh data directory, timed step by step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import httpx

from tessera_hub.client import TesseraClient
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language_from_environment, speak
from tessera_hub.installation import Installation, free_port

READY_SECONDS: Final = 120.0
TASK_SECONDS: Final = 180.0
EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
T = TypeVar("T")


class DemoError(click.ClickException):
    """A step of the tour failed; the message names it."""


@dataclass(slots=True)
class Tour:
    """What was done and seen."""

    quiet: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def step(self, name: str, action: Callable[[], T], say: Callable[[T], str]) -> T:
        """Do one step, time it and say what it gave.

        Raises:
            DemoError: it failed.
        """
        begun = time.monotonic()
        try:
            value = action()
        except Exception as error:
            seconds = round(time.monotonic() - begun, 3)
            self.steps.append({"step": name, "seconds": seconds, "ok": False, "error": str(error)})
            raise DemoError(_("Step {name} failed: {problem}", name=name, problem=error)) from error
        seconds = round(time.monotonic() - begun, 3)
        text = say(value)
        self.steps.append({"step": name, "seconds": seconds, "ok": True, "saw": text})
        if not self.quiet:
            click.echo(f"{seconds:8.2f} s  {name}: {text}")
        return value


def start_hub(data_dir: Path, port: int, cards: str | None) -> subprocess.Popen[bytes]:
    """Start ``tessera up`` and wait until it says that it is ready.

    Raises:
        RuntimeError: it ended, or did not become ready in time; the message has the end of its output.
    """
    command = [sys.executable, "-m", "tessera_hub.cli", "up", "--data-dir", str(data_dir), "--port", str(port)]
    if cards:
        command += ["--simulate-cards", cards]
    output = data_dir / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # our own argv, no shell
            command, stdout=log, stderr=log, env={**os.environ, "TESSERA_LANGUAGE": "en"}, start_new_session=True
        )
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        text = output.read_text("utf-8", "replace")
        if "is ready after" in text:
            return process
        if process.poll() is not None:
            raise RuntimeError(text[-2000:])
        time.sleep(0.1)
    process.terminate()
    raise RuntimeError(output.read_text("utf-8", "replace")[-2000:])


def token_of(here: Installation, name: str | None = None, scopes: Sequence[str] = ()) -> str:
    """Sign in as *name* (the owner if None), as a browser does, and create a token with *scopes* (none: a person's).

    Raises:
        RuntimeError: the hub refused.
    """
    from tessera_hub.hub_pages import PERSON_SCOPES
    from tessera_hub.passwords import password_of

    person = name or here.owner
    with httpx.Client(base_url=here.url, timeout=20.0, follow_redirects=False) as browser:
        browser.get("/hub/login")
        form = {
            "username": person,
            "password": password_of(here.secret("sign-in-key"), person),
            "_xsrf": browser.cookies.get("_xsrf", path="/hub/") or "",
        }
        signed = browser.post("/hub/login", data=form)
        if signed.status_code != 302:
            raise RuntimeError(f"sign-in: {signed.status_code}")
        browser.get("/hub/token")
        xsrf = browser.cookies.get("_xsrf", path="/hub/") or ""
        headers = {"X-XSRFToken": xsrf, "Referer": f"{here.url}/hub/token"}
        body = {"note": "tessera demo", "expires_in": 86_400, "scopes": list(scopes) or PERSON_SCOPES}
        made = browser.post(f"/hub/api/users/{person}/tokens", json=body, headers=headers)
        if made.status_code != 201:
            raise RuntimeError(f"token: {made.status_code} {made.text[:300]}")
        token: str = made.json()["token"]
        return token


def follow(task: Any, tour: Tour) -> dict[str, Any]:
    """Follow a task to its end and return when the first cell was done and how much it printed.

    Raises:
        RuntimeError: it did not succeed.
    """
    begun, first, printed = time.monotonic(), None, 0
    for update in task.follow():
        if update.kind == "log":
            text = str(update.data.get("text", ""))
            printed += len(text)
            if not tour.quiet:
                for line in text.splitlines():
                    click.echo(f"{'':12}| {line}")
        if first is None and task.task.progress.cells_done > 0:
            first = time.monotonic() - begun
        if time.monotonic() - begun > TASK_SECONDS:
            raise RuntimeError(f"still {task.task.phase} after {TASK_SECONDS:.0f} s")
    if task.task.phase != "SUCCEEDED":
        raise RuntimeError(f"{task.task.phase}: {'; '.join(r.message for r in task.task.reasons)}")
    return {"phase": str(task.task.phase), "first_cell_seconds": first, "printed": printed}


@click.command("demo")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="A fresh folder; a temporary one by default.")
@click.option("--simulate-cards", "cards", metavar="NxMODEL", help="Pretend to have cards, such as 2xA100-80G.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: steps with seconds, bill, notebook.")
def command(data_dir: Path | None, cards: str | None, as_json: bool) -> None:
    """Take the whole tour without a browser: start, submit, follow, bill, executed notebook."""
    speak(language_from_environment())
    folder = (data_dir or Path(tempfile.mkdtemp(prefix="tessera-demo-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tour = Tour(quiet=as_json)
    result: dict[str, Any] = {"data_dir": str(folder)}
    process: subprocess.Popen[bytes] | None = None
    try:
        port = free_port(set())
        process = tour.step("up", lambda: start_hub(folder, port, cards), lambda _p: f"http://127.0.0.1:{port}")
        here = Installation.load(folder)
        token = tour.step("token", lambda: token_of(here), lambda _t: _("signed in as {name}", name=here.owner))
        with TesseraClient(here.service_url, token) as client:
            result |= tour_of(client, tour, folder)
        result["ok"] = True
    except DemoError as error:
        result |= {"ok": False, "error": error.message}
        if not as_json:
            raise
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        result |= {"steps": tour.steps, "seconds": round(time.monotonic() - tour.began, 3)}
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(_("Done in {seconds} s. Everything is in {path}.", seconds=f"{result['seconds']:.1f}", path=folder))
    if not result["ok"]:
        sys.exit(1)


def tour_of(client: TesseraClient, tour: Tour, folder: Path) -> dict[str, Any]:
    """Go through the service by its SDK and return what is worth keeping."""
    notebook = EXAMPLES / "digits.ipynb"
    tour.step("who am I", client.me, lambda me: f"{me.name}, {', '.join(me.tenants)}, {me.currency}")
    tour.step("capacity", lambda: wait_for_cluster(client), ", ".join)
    options: dict[str, Any] = {"parameters": {"epochs": 8}, "cpu": 1, "memory": "1GiB"}
    task = tour.step("submit", lambda: client.submit(notebook, **options), lambda t: f"{t.task.name} {t.id}")
    seen = tour.step("follow", lambda: follow(task, tour), _first)
    bill = tour.step("bill", task.bill, lambda b: f"{b.amount_micro / 1_000_000:.6f} {b.currency}, {b.seconds} s")
    places = tour.step("download", lambda: task.download(folder / "results"), lambda p: ", ".join(x.name for x in p))
    executed = next((p for p in places if p.suffix == ".ipynb"), None)
    if executed is None:
        executed = folder / "results" / "digits.ipynb"
        executed.parent.mkdir(parents=True, exist_ok=True)
        executed.write_text(json.dumps(task.notebook(), indent=1), "utf-8")
    script = tour.step(
        "submit a script", lambda: client.submit(EXAMPLES / "digits.py", parameters={"epochs": 3}), lambda t: str(t.id)
    )
    tour.step("follow the script", lambda: follow(script, tour), lambda s: str(s["phase"]))
    return {"bill": bill.model_dump(mode="json"), "notebook": str(executed), "task": str(task.id), **seen}


def _first(seen: dict[str, Any]) -> str:
    first = seen["first_cell_seconds"]
    return _("{phase}, first cell after {seconds} s", phase=seen["phase"], seconds="–" if first is None else f"{first:.2f}")


def wait_for_cluster(client: TesseraClient) -> list[str]:
    """Return the names of the connected clusters, waiting for the first contact.

    Raises:
        RuntimeError: none came within a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = [c.name for c in client.capacity() if c.state == "ok" and c.total]
        if names:
            return names
        time.sleep(0.2)
    raise RuntimeError(_("no cluster is connected"))
