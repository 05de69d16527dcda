"""The Python SDK: everything a person can do in Tessera, from a program.

    from tessera_hub.client import TesseraClient

    with TesseraClient() as client:
        task = client.submit("train.ipynb", parameters={"epochs": 3}, cards=0.5)
        print(task.wait().phase, task.bill().amount_micro)

:class:`AsyncTesseraClient` has the same methods as coroutines. Both need only httpx and pydantic; pandas is imported when a
frame is asked for.
"""

from .asynchronous import AsyncTaskHandle, AsyncTesseraClient
from .calls import DryRun
from .connection import Connection, find_connection, normal_url, read_settings, settings_file, write_settings
from .errors import TesseraError
from .following import TaskUpdate
from .lab import spoken_language
from .listing import Listing
from .quantities import card_request, mebibytes, millicores
from .recurring import AsyncSchedules, Schedules
from .snapshot import DEFAULT_LIMIT_BYTES, Include, Snapshot, survey
from .submission import Submission, SubmitOptions, TaskOptions, prepare
from .sync import TaskHandle, TesseraClient

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "AsyncSchedules",
    "AsyncTaskHandle",
    "AsyncTesseraClient",
    "Connection",
    "DryRun",
    "Include",
    "Listing",
    "Schedules",
    "Snapshot",
    "Submission",
    "SubmitOptions",
    "TaskHandle",
    "TaskOptions",
    "TaskUpdate",
    "TesseraClient",
    "TesseraError",
    "card_request",
    "find_connection",
    "mebibytes",
    "millicores",
    "normal_url",
    "prepare",
    "read_settings",
    "settings_file",
    "spoken_language",
    "survey",
    "write_settings",
]
