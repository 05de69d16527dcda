"""``python -m tests.helm``: build the chart's images, which takes longer than a test may."""

from __future__ import annotations

import sys

from tests.cluster.parts import ClusterError, check, say
from tests.helm.images import context, image


def main() -> int:
    """Build what is not there; return the exit status."""
    try:
        check()
        for name in context.image_names():
            image(name)
    except (ClusterError, context.ContextError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
