"""The service process of the fault tests: the real application on a real port, given a database, timers and a directory.

``python -m tests.faults.service PORT DATA_DIR DATABASE_URL TIMERS_JSON``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvicorn

from tessera_hub.api.app import create_app
from tessera_hub.api.context import Settings
from tessera_hub.schemas.protocol import Timers
from tessera_hub.service import configure_logging
from tessera_hub.store.migrate import upgrade


def main(port: str, data_dir: str, database_url: str, timers: str) -> None:
    """Serve until a signal."""
    configure_logging()
    upgrade(database_url)
    settings = Settings(
        database_url=database_url,
        data_dir=Path(data_dir),
        hub_api_url="http://127.0.0.1:1/hub/api",
        hub_token="unused",
        secret=b"s" * 32,
        timers=Timers.model_validate(json.loads(timers)),
        schedule_interval=0.1,
    )
    uvicorn.run(create_app(settings), host="127.0.0.1", port=int(port), log_config=None, access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
