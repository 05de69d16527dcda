"""``python -m tests.cluster up|down|build``: the test cluster of this machine."""

from __future__ import annotations

import sys

from tests.cluster.gotools import tools
from tests.cluster.machine import Machine
from tests.cluster.parts import ClusterError, check, kubernetes, pause_image, runs_image, say
from tests.helm import images


def main(arguments: list[str]) -> int:
    """Do what the first argument says; return the exit status."""
    try:
        match arguments:
            case ["up"]:
                Machine().up()
            case ["down"]:
                Machine().down()
            case ["build"]:
                check()
                kubernetes(), tools(), pause_image(), runs_image()
            case _:
                say("usage: python -m tests.cluster up|down|build")
                return 2
    except (ClusterError, images.context.ContextError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
