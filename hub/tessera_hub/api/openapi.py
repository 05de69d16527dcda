"""The service's OpenAPI document in the form in which it is kept beside the Lab extension.

``python -m tessera_hub.api.openapi FILE`` writes it, without FILE to standard output; ``npm run types`` in
``extensions/labextension`` makes TypeScript types of it. Wording is left out, so that the file changes when the API does
and not when a sentence of its reference does; the service itself serves the whole document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from tessera_hub.api.app import create_app
from tessera_hub.api.context import Settings

_WORDING: Final = frozenset({"description", "summary"})


def _shape(node: Any, inside: str = "") -> Any:
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, dict):
        return node
    # The standard demands a description of every response; a property that is called so is no string here.
    wording = frozenset() if inside.isdigit() else _WORDING
    return {key: _shape(value, key) for key, value in node.items() if not (key in wording and isinstance(value, str))}


def document() -> str:
    """Return the document as JSON with sorted keys, so that a comparison shows what has changed and nothing else."""
    # Nothing is opened before the application starts, so neither address nor folder is touched here.
    app = create_app(Settings(database_url="sqlite+aiosqlite://", data_dir=Path()), background=False)
    return json.dumps(_shape(app.openapi()), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(document(), "utf-8")
    else:
        sys.stdout.write(document())
