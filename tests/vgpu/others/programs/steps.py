"""What the programs here share: each step is a line of JSON with what it gave or why it stopped."""

import json
import sys
from collections.abc import Callable


def step(name: str, call: Callable[[], object]) -> None:
    """Do one thing with a foreign library and say what came of it."""
    try:
        said = {"step": name, "value": str(call())}
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is what is asked for
        said = {"step": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
