"""Class names from a file: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.models.check import check_model
from clusterpaths.models.class_names import GIVEN, read_names
from clusterpaths.sets.published import open_set
from tests.runs import SAMPLE_MODEL, run_pipeline

FIVE = ("bald", "black", "blond", "brown", "gray")


@pytest.mark.parametrize(
    "text",
    [
        "bald\nblack\nblond\nbrown\ngray\n",
        "\ufeffbald\r\n black \r\nblond\r\nbrown\r\ngray",
        '["bald", "black", "blond", "brown", "gray"]',
        '{"1": "black", "0": "bald", "2": "blond", "4": "gray", "3": "brown"}',
    ],
    ids=["lines", "Windows", "list", "numbered"],
)
def test_names_are_read_in_the_order_of_the_outputs(text: str, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text(text, encoding="utf-8")
    assert read_names(file) == FIVE
    meaning = check_model(SAMPLE_MODEL, class_names=file).outputs
    assert (meaning.class_names, meaning.class_names_source) == (FIVE, GIVEN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no names"),
        ("bald\n\ngray", "has no name for class 1"),
        ("[1, 2", "that can be parsed"),
        ('{"1": "black", "2": "blond"}', "that can be parsed"),
        ("bald\ngray", "names 2 classes, and the output 'logits' has 5"),
    ],
)
def test_files_that_do_not_name_the_classes_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        check_model(SAMPLE_MODEL, class_names=file)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_model(SAMPLE_MODEL, class_names=tmp_path / "missing.txt")


def test_a_run_with_names_publishes_them_as_another_set_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))  # where faces are drawn
    file = tmp_path / "names.txt"
    names = tuple(f"{name} hair" for name in FIVE)
    file.write_text("\n".join(names))
    settings = {
        "sample": True, "sample_size": 40, "model": SAMPLE_MODEL, "cache_root": str(tmp_path / "cache"),
        "evaluate": False, "check_preprocessing": False,
    }  # fmt: skip
    plain = run_pipeline(RunConfig(**settings)).folder
    named = run_pipeline(RunConfig(**settings, class_names=file)).folder
    assert run_pipeline(RunConfig(**settings, class_names=file)).folder == named
    assert run_pipeline(RunConfig(**settings)).folder == plain != named
    record = open_set(named).record
    assert record.class_names == names
    assert record.config["class_names"] == str(file)
