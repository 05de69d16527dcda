"""``python -I courier.pyz PART``: the parts of a courier, each its own process, or all in one container."""

from __future__ import annotations

import argparse
from pathlib import Path

from tessera_hub.proxy.courier import mpi
from tessera_hub.proxy.courier.delivering import deliver
from tessera_hub.proxy.courier.launching import Several, launch, serve
from tessera_hub.proxy.courier.places import Places
from tessera_hub.proxy.courier.preparing import prepare
from tessera_hub.proxy.courier.settings import Settings
from tessera_hub.proxy.courier.single import single


def main(arguments: list[str], heard: list[int]) -> int:
    """Do one part and return the status to exit with.

    Args:
        heard: signals that came before anybody here could listen, for who launches.
    """
    if arguments[:1] == ["rsh"]:  # its arguments are those of ssh
        return mpi.start_there(Places(Path(arguments[1])), arguments[2:])
    parser = argparse.ArgumentParser(prog="courier", description="Take a run's bytes to and from the service.")
    parser.add_argument("part", choices=("prepare", "launch", "serve", "deliver", "single", "listen"))
    parser.add_argument("--root", type=Path, required=True, help="folder that the parts share")
    parser.add_argument("--settings", type=Path, help="what to do, with the run's token; not for launch, serve and listen")
    parser.add_argument("--claimant", default="", help="who claims the run: unique for each start of it")
    parser.add_argument("--runner", type=Path, help="the runner's zip file")
    parser.add_argument("--order", type=Path, help="file with the Proxy's present order")
    parser.add_argument("--company", type=Path, help="file with the list of the run's parts, where there are several")
    parser.add_argument("--uid", default="", help="our name in that list")
    parser.add_argument("--framework", default="none", help="whose variables a program of several parts reads")
    parser.add_argument("--slots", type=int, default=1, help="processes that each part has room for")
    parser.add_argument("--report", type=Path, default=Path("/dev/termination-log"), help="where the engine keeps the last words")
    parser.add_argument("--confined", action="store_true", help="take from user code the right to gain privileges")
    given = parser.parse_args(arguments)
    places = Places(given.root)
    if given.part == "listen":
        return mpi.listen(places, given.company, given.uid)
    if given.part == "launch":
        several = Several.of(given.company, given.uid, given.framework, given.slots)
        return launch(places, given.runner, given.order, heard, several, confined=given.confined)
    if given.part == "serve":
        return serve(places, given.runner, given.order, heard)
    settings = Settings.read(given.settings)
    if given.part == "single":
        return single(Places(given.root, settings.user), settings, given.settings, given.claimant, given.runner)
    if given.part == "prepare":
        return prepare(places, settings, given.claimant, given.report)
    return deliver(places, settings, given.report)
