"""Where public traces lie. They are data of others and no part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TESSERA_TRACES"
BESIDE = Path(__file__).parent.parent.parent / "shared" / "data"


def trace_folder(name: str) -> Path:
    """Return the folder of a trace, below ``$TESSERA_TRACES`` or ``../shared/data`` beside the repository.

    Raises:
        FileNotFoundError: it is not there; the message says what to set.
    """
    folder = Path(os.environ.get(VARIABLE) or BESIDE) / name
    if not folder.is_dir():
        raise FileNotFoundError(f"the trace {name!r} is not in {folder.parent}; set {VARIABLE} to the folder that holds it")
    return folder
