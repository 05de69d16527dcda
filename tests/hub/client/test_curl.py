"""The shell blocks of the how-to page, one after another in one shell, against tasks that really run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.centre import Centre

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "use-the-api.md"


def test_the_page_does_what_it_says(centre: Centre, tmp_path: Path) -> None:
    first, *blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert "export TESSERA_URL=" in first
    marked = "\n".join(f"echo '=== {number}'\n{block}" for number, block in enumerate(blocks))
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=marked,
        env={**os.environ, "TESSERA_URL": centre.service.url, "TESSERA_TOKEN": centre.token, "LC_ALL": "C.UTF-8"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _before, submitted, followed, asked, results, refused = re.split(r"=== \d\n", done.stdout)
    assert not submitted.strip()
    assert "event: end" in followed
    assert "six times seven is 42" in followed
    assert asked.splitlines() == ["SUCCEEDED", "six times seven is 42"]
    outputs, amount = results.rsplit("\n", 2)[:2]
    assert outputs == "[]"
    assert int(amount) > 0
    assert refused.strip() == "这里没有该对象，或者您无权查看。"
