"""The Chinese catalogue of the Lab extension holds every text of its source, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2] / "extensions"
CATALOGUE = ROOT / "tessera_lab/locale/zh_CN/LC_MESSAGES/tessera.json"
CALL = re.compile(r"trans\s*\.(?:__|_n)\(\s*'((?:[^'\\]|\\.)*)'")
PLURAL = re.compile(r"trans\s*\._n\(\s*'((?:[^'\\]|\\.)*)'")
PLACE = re.compile(r"%\d")


def texts_of_the_source(call: re.Pattern[str] = CALL) -> set[str]:
    source = [path.read_text("utf-8") for path in (ROOT / "labextension/src").rglob("*.ts*")]
    return {text for code in source for text in call.findall(code)}


def test_every_text_is_translated_and_no_translation_is_left_over() -> None:
    catalogue = json.loads(CATALOGUE.read_text("utf-8"))
    # Lab looks its texts up by the browser's form of the name.
    assert catalogue.pop("")["language"] == "zh-CN"
    assert texts_of_the_source() == set(catalogue)


def test_no_translation_is_empty_or_names_a_place_that_has_no_value() -> None:
    catalogue = json.loads(CATALOGUE.read_text("utf-8"))
    catalogue.pop("")
    for text, forms in catalogue.items():
        assert forms, text
        assert all(forms), text
        for form in forms:
            # A plural form may use the number, %1, where the English singular spells it out.
            assert set(PLACE.findall(form)) <= set(PLACE.findall(text)) | {"%1"}, text


def test_lab_takes_an_entry_for_a_number_only_with_two_forms() -> None:
    catalogue = json.loads(CATALOGUE.read_text("utf-8"))
    catalogue.pop("")
    plural = texts_of_the_source(PLURAL)
    assert plural
    assert {text for text, forms in catalogue.items() if len(forms) == 2} == plural
