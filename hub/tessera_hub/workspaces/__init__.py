"""Workspaces: from the reservation to the running server and back.

A workspace is a task like any other: it waits in the queue, holds quota, is metered. When the scheduler has reserved its
resources, ``keeper.py`` asks JupyterHub to start the server; the spawner fetches the reservation (``reservations.py``),
starts the process and reports start and end, which are metered there.
"""

from .keeper import run

__all__ = ["run"]
