"""Starts a program of Jupyter nearly a second of processor time sooner: ``python -m tessera_hub.launcher jupyterhub …``.

``jsonschema``, which Jupyter's event log loads, offers a check of the format ``iri``; the package behind it, ``rfc3987_syntax``,
compiles its grammar when it is imported. No schema of Jupyter uses that format, so here the package counts as not installed,
which jsonschema allows for.
"""

from __future__ import annotations

import runpy
import sys
from typing import Final

UNUSED: Final = ("rfc3987_syntax",)


def main() -> None:
    """Run the module named by the first argument as a program with the others."""
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails now
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
