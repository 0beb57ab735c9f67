"""A few hundred cases of each kind; `make fuzz` runs thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.engine import fuzz

CASES = {"documents": 400, "models": 200, "images": 600, "labels": 300, "routes": 400}


@pytest.mark.parametrize("kind", CASES)
def test_each_case_is_read_or_refused_in_one_paragraph(kind: str, tmp_path: Path) -> None:
    outcome = fuzz(kind, CASES[kind], 7, tmp_path)
    assert outcome.cases == CASES[kind]
    assert not outcome.finds, outcome.text()
