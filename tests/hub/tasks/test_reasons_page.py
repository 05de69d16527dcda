"""``docs/reference/reasons.md`` lists the reasons of the code; ``python -m tests.hub.tasks.test_reasons_page`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from tessera_hub.tasks.reasons import REASONS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "reasons.md"


def render() -> str:
    """Return the page's text."""
    head = ["# Reasons", "", "Why a task waits or ended. The codes are stable; a lower tier is named first.", ""]
    table = ["| code | tier | text |", "|---|---|---|"]
    rows = [
        f"| `{code}` | {tier.value} {tier.name.lower().replace('_', ' ')} | {text} |" for code, (tier, text) in REASONS.items()
    ]
    return "\n".join([*head, *table, *rows, ""])


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
