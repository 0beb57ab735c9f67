"""All stages in a row, without Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths import chain
from clusterpaths.config import RunConfig
from clusterpaths.errors import ModelError
from tests.clusterpaths.conftest import run_stages
from tests.runs import DOCUMENTS, SAMPLE_MODEL


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> RunConfig:
    return RunConfig(
        dataset="folder", model=SAMPLE_MODEL, data_root=photos, cache_root=tmp_path, name="T", layers="conv3,fc1", k=3,
        shard_size=20, subset=50,
    )  # fmt: skip


def test_it_publishes_what_the_stages_one_by_one_publish_and_finds_it_again(config: RunConfig, tmp_path: Path) -> None:
    published, job = chain.run_stages(config)
    assert Path(job.directory) == tmp_path / "T"
    by_hand = run_stages(config.model_copy(update={"name": "by_hand"})).published
    for name in DOCUMENTS:
        assert (published.path / name).read_bytes() == (by_hand.path / name).read_bytes()
    again, _ = chain.run_stages(config)
    assert again.path == published.path
    other, _ = chain.run_stages(config.model_copy(update={"seed": 1}))
    assert other.record.set == "set_02"


def test_what_is_to_be_chosen_is_chosen(config: RunConfig) -> None:
    published, _ = chain.run_stages(config.model_copy(update={"k": "auto", "distance": "auto"}))
    assert published.record.choice.startswith("Chosen: ")
    assert (published.path / "choice.json").is_file()


def test_a_mistake_is_told_before_anything_is_made(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 'cnv3'"):
        chain.run_stages(config.model_copy(update={"layers": ("cnv3",)}))
    assert list(tmp_path.iterdir()) == []
