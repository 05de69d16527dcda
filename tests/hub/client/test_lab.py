"""What kernels take over from JupyterLab."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_hub.client import spoken_language

SETTING = '{\n    // Language of JupyterLab\n    // "locale": "en",\n    "locale": "%s"\n}\n'


@pytest.mark.parametrize(
    ("chosen", "kernel", "own", "spoken"),
    [
        ("zh_CN", True, None, "zh_CN"),
        ("zh_CN", True, "en", "en"),
        ("zh_CN", False, None, "en"),
        ("default", True, None, "en"),
        (None, True, None, "en"),
    ],
)
def test_a_kernel_speaks_as_jupyterlab_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, kernel: bool, own: str | None, spoken: str
) -> None:
    if chosen is not None:
        path = tmp_path / "lab" / "user-settings" / "@jupyterlab" / "translation-extension" / "plugin.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(SETTING % chosen)
    for name in ("LC_ALL", "LC_MESSAGES", "TESSERA_LANGUAGE", "JPY_PARENT_PID", "JUPYTERLAB_SETTINGS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    if kernel:
        monkeypatch.setenv("JPY_PARENT_PID", "1")
    if own is not None:
        monkeypatch.setenv("TESSERA_LANGUAGE", own)
    assert spoken_language() == spoken
