"""docs/security.md: each claim names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FILES = sorted({file for file, _ in NAMED})


@pytest.mark.parametrize("file", FILES)
def test_the_tests_that_the_page_names_exist(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for where, name in NAMED if where == file} - there == set()


def test_every_claim_that_something_cannot_happen_names_a_test() -> None:
    """A paragraph or an item that says "no", "within limits", "escaped" or "refused", but for what it calls not covered."""
    parts = [part for block in PAGE.split("\n\n") for part in re.split(r"\n(?=- )", block)]
    claims = [part for part in parts if re.search(r": (no|within limits|escaped)\b|\brefused\b", part)]
    assert len(claims) >= 9
    assert [part[:60] for part in claims if "`tests/" not in part] == []


def test_no_library_of_operators_is_loaded() -> None:
    """Only the options of a session can, and no source asks for it."""
    sources = [file for top in ("clusterpaths", "tasks", "flows", "deployments") for file in (ROOT / top).rglob("*.py")]
    assert [str(file) for file in sources if "register_custom_ops" in file.read_text(encoding="utf-8")] == []


def test_every_name_of_a_test_on_the_page_is_read_by_these_tests() -> None:
    assert len(NAMED) > 40
    assert PAGE.count("`tests/") - PAGE.count("`tests/test_security_page.py`") == len(
        re.findall(r"`tests/[\w/]+\.py::\w+`", PAGE)
    )
