"""Every text that a BillingError may show has its Chinese one, and no text is left over."""

import ast
from pathlib import Path
from string import Formatter

import pytest

import tessera_billing
from tessera_hub.i18n import LOCALE_DIRECTORY, read_catalogue

pytestmark = pytest.mark.billing

CHINESE = read_catalogue(LOCALE_DIRECTORY / "zh_CN/LC_MESSAGES/billing.po")


def texts():
    for path in Path(tessera_billing.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BillingError":
                yield from (ast.literal_eval(argument) for argument in node.args[1:])


def places(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_each_text_is_translated_and_none_is_left_over():
    assert {text for text in CHINESE if text} == set(texts())


@pytest.mark.parametrize("text", sorted(set(texts())))
def test_a_translation_has_the_places_of_its_text(text):
    assert places(CHINESE[text]) == places(text)
