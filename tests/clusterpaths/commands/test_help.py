"""`--help`: every option is in one panel, and found."""

from __future__ import annotations

from collections import Counter

import pytest

from clusterpaths.commands.help import COMMON, EXAMPLES, PANELS, examples, hidden
from clusterpaths.config import RunConfig


def test_every_option_of_a_run_is_in_one_panel() -> None:
    counts = Counter(field for fields in PANELS.values() for field in fields)
    assert {field: counts[field] for field in RunConfig.model_fields if counts[field] != 1} == {}


def test_half_of_the_options_of_a_run_are_shown_at_first_and_all_of_a_short_command() -> None:
    fields = set(RunConfig.model_fields)
    assert 15 <= len(fields - hidden(fields)) <= 22
    assert {"model", "k", "cache_root"} & hidden(fields) == set()
    assert hidden({"first", "second", "top", "alert_below"}) == set()
    assert {field for fields in PANELS.values() for field in fields} >= COMMON


@pytest.mark.parametrize("command", list(EXAMPLES))
def test_there_are_three_examples_each_a_command(command: str) -> None:
    lines = examples(command).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"  clusterpaths {command}") for line in lines)
