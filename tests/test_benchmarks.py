"""Benchmarks are chosen by their group or their name; another word is answered with those that there are."""

from __future__ import annotations

import click
import pytest
from benchmarks.__main__ import GROUPS, chosen


def test_a_group_or_a_name_chooses() -> None:
    assert chosen("cluster") == list(GROUPS["cluster"])
    assert chosen("pauses") == ["benchmarks.vgpu.pauses"]
    assert len(chosen(None)) == sum(map(len, GROUPS.values()))


def test_another_word_is_answered_with_groups_and_names() -> None:
    with pytest.raises(click.BadParameter, match=r"no benchmark 'nosuch'; groups: hub, vgpu, cluster; benchmarks: api, .*pauses"):
        chosen("nosuch")
