"""Tessera in JupyterLab: the server extension, the notebook runner and the magics.

Importing this package imports nothing else, so that the runner and a kernel stay light.
"""

from __future__ import annotations

from typing import Any

LABEXTENSION = "@tessera/lab"
"""Name of the front end's package."""


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from tessera_lab.app import TesseraExtension

    return [{"module": "tessera_lab", "app": TesseraExtension}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": LABEXTENSION}]


def load_ipython_extension(shell: Any) -> None:
    """Give ``%tessera`` and ``%%tessera`` to an IPython shell.

    ``etc/ipython/ipython_config.py`` of an environment does so for every kernel, so nothing is imported before the first use.
    """

    def line(line: str) -> Any:
        """Run a notebook or script as a job: ``%tessera train.ipynb --param epochs=3 --cards 0.5 --follow``."""
        from tessera_lab.magics import submit_line

        return submit_line(line)

    def cell(line: str, cell: str) -> Any:
        """Run this cell as a job: ``%%tessera --cpu 2 --memory 4GiB --follow``; variables of this kernel are not there."""
        from tessera_lab.magics import submit_cell

        return submit_cell(line, cell)

    shell.register_magic_function(line, magic_kind="line", magic_name="tessera")
    shell.register_magic_function(cell, magic_kind="cell", magic_name="tessera")
