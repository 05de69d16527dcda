"""``tessera vgpu``: the agent of a node that shares its cards, what it has given, and simulated cards."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from tessera_hub.i18n import gettext as _
from tessera_vgpu.agent.delivery import LIBRARY, LIBRARY_FOLDER, DriverFiles
from tessera_vgpu.agent.process import SOCKET, Agent, Settings
from tessera_vgpu.agent.resizing import ask
from tessera_vgpu.apiserver import SERVICE_ACCOUNT
from tessera_vgpu.catalogue import BUILT_IN
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.plugin import Kubelet
from tessera_vgpu.simulate import LIBRARIES, make_machine, parse_cards, read_cards
from tessera_vgpu.status import STATE_FOLDER, ContainerCard, read_status
from tessera_vgpu.trial import parse_memory, slice_environment

from .output import print_json, print_table
from .partition import partition
from .refusal import Refused

_MIB_PER_GIB: Final = 1024
_HIGHEST_PORT: Final = 65535
_POD: Final = re.compile(r"[a-z0-9-]+/[a-z0-9.-]+")
FOLDER: Final = click.Path(path_type=Path)
API_SERVER: Final = "https://kubernetes.default.svc"


@click.group("vgpu")
def command() -> None:
    """Share the cards of this node, look at slices, change them, or simulate cards."""


@command.command("status")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=STATE_FOLDER, show_default=True, help="Folder of the node agent."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(state_dir: Path, as_json: bool) -> None:
    """Show what each container has of the cards, and what it says it uses."""
    try:
        found = read_status(state_dir)
    except VgpuError as error:
        raise Refused(error) from error
    if as_json:
        print_json([asdict(line) for line in found])
        return
    print_table(
        [
            _("Card"),
            _("Pod"),
            _("Container"),
            _("Share"),
            _("Limit"),
            _("Memory"),
            _("Reserved"),
            _("Driver"),
            _("Device time"),
            _("Waited"),
            _("Throttled"),
            _("Processes"),
            _("Remarks"),
        ],
        (_cells(line) for line in found),
        right=(3, 4, 5, 6, 7, 8, 9, 10, 11),
        empty=_("No container has a slice of a card on this node."),
    )


@command.command("agent")
@click.option("--node", required=True, envvar="NODE_NAME", help="Name of this node in Kubernetes; also $NODE_NAME.")
@click.option(
    "--state-dir",
    type=FOLDER,
    default=STATE_FOLDER,
    show_default=True,
    help="Folder of the node agent, at the same path on the node.",
)
@click.option(
    "--library-dir",
    type=FOLDER,
    default=LIBRARY_FOLDER,
    show_default=True,
    help="Folder for the library that enforces slices, at the same path on the node, not mounted noexec.",
)
@click.option("--library", type=FOLDER, default=LIBRARY, help="That library, if it is not the one of this installation.")
@click.option("--api-server", default=API_SERVER, show_default=True, help="Address of the Kubernetes API server.")
@click.option("--token-file", type=FOLDER, help="Token for it; by default that of the pod's service account.")
@click.option("--ca-file", type=FOLDER, help="Certificate to trust there; by default that of the pod's service account.")
@click.option(
    "--kubelet-plugins", type=FOLDER, default=Kubelet().plugins, show_default=True, help="The kubelet's folder for plugins."
)
@click.option(
    "--pod-resources",
    type=FOLDER,
    default=Kubelet().pod_resources,
    show_default=True,
    help="The kubelet's socket that lists devices.",
)
@click.option("--device-root", type=FOLDER, default="/dev", show_default=True, help="Folder of the cards' device nodes.")
@click.option(
    "--driver-dir",
    type=FOLDER,
    multiple=True,
    help="Folder of the driver's libraries on the node, which containers get; none: something else gives them. Repeatable.",
)
@click.option(
    "--driver-inside",
    type=FOLDER,
    default="/usr/lib/x86_64-linux-gnu",
    show_default=True,
    help="Where containers find the driver's libraries.",
)
@click.option(
    "--host-root",
    type=FOLDER,
    default="/",
    show_default=True,
    help="Where the agent sees the node's root, to find the driver's libraries.",
)
@click.option("--listen", default="127.0.0.1:9445", show_default=True, help="Address of /metrics.")
@click.option("--catalogue", type=FOLDER, multiple=True, help="Folder with further models of cards. Repeatable.")
@click.option(
    "--contexts",
    type=click.IntRange(1, 512),
    default=32,
    show_default=True,
    help="Processes per card that room is kept for; a slice may have its part of them.",
)
@click.option(
    "--context-mib", type=click.IntRange(0, 65536), help="What a process's context costs, in MiB; by default it is measured."
)
@click.option(
    "--tolerance-mib",
    type=click.IntRange(0, 65536),
    default=256,
    show_default=True,
    help="What a process may have beyond its books and its context, in MiB, before it is reported.",
)
@click.option(
    "--on-bypass",
    type=click.Choice(["report", "end"]),
    default="report",
    show_default=True,
    help="What to do with a process that goes around its limits.",
)
@click.option("--simulate-cards", metavar="NxMODEL", help="Share simulated cards, such as 2xA100-80G, on a node that has none.")
@click.option(
    "--look-s",
    type=click.FloatRange(0.01, 60),
    default=0.5,
    show_default=True,
    help="How often cards and processes are looked at, in seconds.",
)
@click.option(
    "--upkeep-s",
    type=click.FloatRange(0.01, 600),
    default=5.0,
    show_default=True,
    help="How often Kubernetes is asked, in seconds.",
)
def agent(
    node: str,
    state_dir: Path,
    library_dir: Path,
    library: Path,
    api_server: str,
    token_file: Path | None,
    ca_file: Path | None,
    kubelet_plugins: Path,
    pod_resources: Path,
    device_root: Path,
    driver_dir: tuple[Path, ...],
    driver_inside: Path,
    host_root: Path,
    listen: str,
    catalogue: tuple[Path, ...],
    contexts: int,
    context_mib: int | None,
    tolerance_mib: int,
    on_bypass: str,
    simulate_cards: str | None,
    look_s: float,
    upkeep_s: float,
) -> None:
    """Share the cards of this node among the containers of Kubernetes, until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host, _colon, port = listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise click.BadParameter(_("{value} is no address with a port.", value=listen), param_hint="--listen")
    token_file, ca_file = token_file or _of_account("token"), ca_file or _of_account("ca.crt")
    _check_readable(token_file, ca_file)
    simulated_driver = () if simulate_cards is None else (LIBRARIES,)
    settings = Settings(
        state=state_dir,
        library_folder=library_dir,
        library=library,
        node=node,
        api_server=api_server,
        token_file=token_file,
        ca_file=ca_file,
        kubelet=Kubelet(kubelet_plugins, pod_resources),
        device_root=device_root,
        driver_files=DriverFiles(driver_dir or simulated_driver, driver_inside, host_root),
        listen=(host.strip("[]"), int(port)),
        catalogues=(BUILT_IN, *catalogue),
        contexts=contexts,
        context_mib=context_mib,
        tolerance_mib=tolerance_mib,
        simulated=simulate_cards,
        end_bypass=on_bypass == "end",
        look_s=look_s,
        upkeep_s=upkeep_s,
    )
    try:
        Agent(settings).run()
    except VgpuError as error:
        raise Refused(error) from error
    except OSError as error:
        # A port that is taken, or a disk that is full.
        raise click.ClickException(_("The node agent cannot go on: {reason}", reason=error)) from error


@command.command("resize")
@click.argument("pod", metavar="NAMESPACE/POD")
@click.option("--container", default="main", show_default=True, help="Container of the pod.")
@click.option("--memory", metavar="SIZE", help="Its memory of all its cards together, such as 8GiB.")
@click.option("--limit", type=int, help="Cap of its compute while others are idle, in hundredths of a card.")
@click.option("--weight", type=int, help="Its part of the idle time.")
@click.option("--state-dir", type=FOLDER, default=STATE_FOLDER, show_default=True, help="Folder of the node agent.")
def resize(pod: str, container: str, memory: str | None, limit: int | None, weight: int | None, state_dir: Path) -> None:
    """Change what a running container may use of its cards. For root on the node; what is not given stays."""
    namespace, _slash, name = pod.partition("/")
    if not _POD.fullmatch(pod):
        raise click.BadParameter(_("{value} is no pod; write it as namespace/name.", value=pod), param_hint="NAMESPACE/POD")
    if memory is None and limit is None and weight is None:
        raise click.UsageError(_("Say what to change: --memory, --limit or --weight."))
    try:
        fields = {
            key: value
            for key, value in (
                ("memory_mib", parse_memory(memory) if memory is not None else None),
                ("limit_centi_cards", limit),
                ("weight", weight),
            )
            if value is not None
        }
        found = ask(state_dir / SOCKET, namespace, name, container, fields)
    except VgpuError as error:
        raise Refused(error) from error
    print_table(
        [_("Card"), _("Share"), _("Limit"), _("Memory")],
        (
            [
                card["card"],
                f"{card['centi_cards'] / 100:.2f}",
                f"{card['limit_centi_cards'] / 100:.2f}",
                _gib(card["memory_mib"]),
            ]
            for card in found["cards"]
        ),
        right=(1, 2, 3),
        empty="",
    )


@command.command("simulate", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--cards", required=True, metavar="NxMODEL", help="Cards to simulate, such as 2xA100-80G.")
@click.option("--memory", metavar="SIZE", help="Give the program a slice of so much memory of each card, such as 8GiB.")
@click.option("--compute", type=click.IntRange(1, 100), metavar="PERCENT", help="Give it at most so much of each card's time.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def simulate(cards: str, memory: str | None, compute: int | None, program: tuple[str, ...]) -> None:
    """Run a program that finds simulated NVIDIA cards, and end with its exit status."""
    folder = Path(tempfile.mkdtemp(prefix="tessera-simulated-"))
    try:
        machine = make_machine(folder / "machine", parse_cards(cards, read_cards()))
        wanted = None if memory is None else parse_memory(memory)
        limited = wanted is not None or compute is not None
        status = machine.run(program, slice_environment(machine, wanted, compute or 100) if limited else None)
    except VgpuError as error:
        raise Refused(error) from error
    except OSError as error:
        raise click.ClickException(_("{name} cannot be started: {reason}", name=program[0], reason=error.strerror)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # A program that a signal ended: what a shell says.
    sys.exit(status if status >= 0 else 128 - status)


def _of_account(name: str) -> Path | None:
    """Return a file of the pod's service account, None outside of a pod."""
    path = SERVICE_ACCOUNT / name
    return path if path.exists() else None


def _check_readable(token_file: Path | None, ca_file: Path | None) -> None:
    """Look at the two files before anything starts: later nothing would say which of them is wrong.

    Raises:
        ClickException: one cannot be read, or is no certificate.
    """
    option, file = "--token-file", token_file
    try:
        if file is not None:
            file.read_text("utf-8")
        option, file = "--ca-file", ca_file
        if file is not None:
            ssl.create_default_context(cafile=str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = _("it holds no certificate") if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or error
        raise click.ClickException(
            _("{file} of {option} cannot be used: {reason}.", file=file, option=option, reason=reason)
        ) from error


def _cells(line: ContainerCard) -> list[str]:
    return [
        line.card,
        f"{line.namespace}/{line.pod}",
        line.container,
        f"{line.centi_cards / 100:.2f}",
        f"{line.limit_centi_cards / 100:.2f}",
        _gib(line.memory_mib),
        _gib(line.reserved_mib),
        _gib(line.driver_mib) if line.driver_mib is not None else "",
        f"{line.device_time_s:.1f} s",
        f"{line.waiting_s:.1f} s",
        f"{line.throttled_s:.1f} s",
        str(line.processes),
        ", ".join(line.remarks),
    ]


def _gib(memory_mib: int) -> str:
    return f"{memory_mib / _MIB_PER_GIB:.2f} GiB"


command.add_command(partition)
