"""The scheduler's reasons are those that have texts."""

from __future__ import annotations

import pytest

from tessera_hub.i18n import language
from tessera_hub.scheduling import Code
from tessera_hub.scheduling.reasons import because
from tessera_hub.schemas.reasons import Reason
from tessera_hub.tasks.reasons import REASONS, localised


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.token)
def test_each_code_has_its_tier_and_a_text(code: Code) -> None:
    shown = Reason.model_validate(because(code, queue="q").as_json())
    assert REASONS[code.token][0] == shown.tier == code.tier
    assert localised(shown).message == REASONS[code.token][1]
    assert shown.detail == {"queue": "q"}


@pytest.mark.parametrize(
    ("code", "detail", "english", "chinese"),
    [
        (
            "cell.error",
            {"cell": 2, "cells_total": 3, "ename": "E", "evalue": "{x}"},
            "Cell 2 of 3: E: {x}",
            "第 2/3 个单元格：E: {x}",
        ),
        (
            "kernel.died",
            {"signal": "SIGKILL", "status": -9, "cell": 2},
            "by SIGKILL in cell 2.",
            "被 SIGKILL 终止。",
        ),
        ("kernel.died", {"signal": None, "status": 1, "cell": 2}, "with status 1 in cell 2.", "以状态 1 结束。"),
        ("script.exit", {"exit_code": 7, "signal": None, "last_line": ""}, "Exit status 7.", "退出状态 7。"),
        ("limit.memory", {"limit_mib": 128, "peak_mib": 277}, "The limit is 128 MiB; at most 277", "限制为 128 MiB"),
    ],
)
def test_details_are_told_in_the_readers_language(code: str, detail: dict[str, object], english: str, chinese: str) -> None:
    told = Reason(tier=REASONS[code][0], code=code, detail=detail, message="the engine's own words")
    for speaks, words in (("en", english), ("zh_CN", chinese)):
        with language(speaks):
            message = localised(told).message
        assert words in message
        assert "own words" not in message


@pytest.mark.parametrize("detail", [{}, {"cell": [1], "cells_total": 2, "ename": "E", "evalue": "x"}])
def test_words_of_an_engine_stay_where_the_details_say_nothing(detail: dict[str, object]) -> None:
    told = Reason(tier=REASONS["cell.error"][0], code="cell.error", detail=detail, message="own words")
    assert localised(told).message == "A cell raised an error. own words"
