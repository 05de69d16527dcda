"""What a person chose in JupyterLab, for programs in its kernels: the language of messages, the theme of charts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tessera_hub.i18n import choose_language, language_from_environment

PATH_LABEL: Final = "workspace-path"
"""Label of a task that says which file of a workspace it came from, so that its outputs find the way back."""
ROOT_VARIABLE: Final = "TESSERA_WORKSPACE_ROOT"
"""Set by the Lab server for kernels and terminals: the folder that its file browser shows."""


def workspace_path(entry: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what the file browser calls *entry*; None outside a workspace and for a file that is not below its folder."""
    root = environment.get(ROOT_VARIABLE)
    if not root:
        return None
    try:
        return entry.resolve().relative_to(Path(root).resolve()).as_posix()
    except ValueError:
        return None


def lab_setting(plugin: str, name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the text that was chosen for a setting of JupyterLab.

    None outside a kernel (Jupyter sets ``JPY_PARENT_PID`` for it), and where nothing was chosen. Lab stores what was chosen, not
    the defaults, as JSON with comments; the line is looked for instead of parsed.
    """
    if not environment.get("JPY_PARENT_PID"):
        return None
    if chosen := environment.get("JUPYTERLAB_SETTINGS_DIR"):
        folder = Path(chosen)
    else:
        configuration = environment.get("JUPYTER_CONFIG_DIR")
        folder = (Path(configuration) if configuration else Path.home() / ".jupyter") / "lab" / "user-settings"
    try:
        text = (folder / f"{plugin}.jupyterlab-settings").read_text("utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(rf'^[^/\n]*"{re.escape(name)}"\s*:\s*"([^"\n]*)"', text, re.MULTILINE)
    return found[1] if found else None


def spoken_language(environment: Mapping[str, str] = os.environ) -> str:
    """Return the language of messages, ``en`` or ``zh_CN``: ``TESSERA_LANGUAGE``, in a kernel Lab's, else the terminal's."""
    if not environment.get("TESSERA_LANGUAGE"):
        chosen = lab_setting("@jupyterlab/translation-extension/plugin", "locale", environment)
        if chosen and chosen != "default":
            return choose_language(None, chosen)
    return language_from_environment()


def dark_theme(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether JupyterLab was dark when asked; a theme that follows the system counts as light."""
    return "dark" in (lab_setting("@jupyterlab/apputils-extension/themes", "theme", environment) or "").lower()
