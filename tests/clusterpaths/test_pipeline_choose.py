"""--k auto and --distance auto through the pipeline, on drawn faces: what is kept, said and shown, and asked again."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.clustering.choice import Choice
from clusterpaths.config import RunConfig
from tests.clusterpaths.conftest import Recording
from tests.runs import SAMPLE_MODEL, Run, assert_same_documents, published, run_pipeline

LAYERS = ("conv3", "fc1", "fc2")
SHARD = 64


@pytest.fixture(scope="module")
def config(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """200 faces, in shards of 64; what is chosen is scored by the model's decisions."""
    return RunConfig(
        dataset="folder", model=SAMPLE_MODEL, data_root=photos, cache_root=tmp_path_factory.mktemp("chosen"), name="T",
        layers=LAYERS, subset=200, shard_size=SHARD, k="auto", distance="auto", evaluate=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def chosen(config: RunConfig) -> Run:
    return run_pipeline(config)


def choice_of(run: Run) -> Choice:
    return Choice.model_validate_json((run.folder / "choice.json").read_text())


def test_the_set_carries_the_numbers_and_the_sentence_and_the_whole_sweep(chosen: Run) -> None:
    record, choice = published(chosen), choice_of(chosen)
    assert record.k_per_layer == choice.k_per_layer
    assert record.distance == choice.distance
    assert record.choice == choice.sentence
    assert f"INFO {choice.sentence}" in chosen.log
    assert choice.scored_by == "decisions"
    assert choice.sampled == 200
    assert {point.layer for point in choice.points} == set(LAYERS)
    assert {point.distance for point in choice.points} == {"cosine", "euclidean"}
    centroids = json.loads((chosen.folder / "centroids.json").read_text())
    assert {layer: len(rows) for layer, rows in centroids.items()} == choice.k_per_layer


def test_the_set_remembers_that_it_was_asked_to_choose(chosen: Run) -> None:
    config = published(chosen).config
    assert (config["k"], config["distance"]) == ("auto", "auto")


def test_the_report_shows_the_sweep(chosen: Run) -> None:
    page = unescape((chosen.folder / "report.html").read_text())
    assert 'id="chosen"' in page
    assert choice_of(chosen).sentence in page


def test_the_same_question_is_answered_by_the_same_set(chosen: Run, config: RunConfig) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in chosen.folder.iterdir() if path.name != "report.html"}
    recording = Recording()
    again = run_pipeline(config, recording)
    assert again.path == chosen.path
    assert again.batches == 0
    assert {name: (chosen.folder / name).stat().st_mtime_ns for name in before} == before
    assert "choose_settings" in recording.given
    assert recording.submitted == {}


def test_giving_the_chosen_numbers_asks_the_same_question(chosen: Run, config: RunConfig) -> None:
    record, recording = published(chosen), Recording()
    k = ",".join(f"{layer}={number}" for layer, number in record.k_per_layer.items())
    given = run_pipeline(config.model_copy(update={"k": k, "distance": record.distance}), recording)
    assert given.path == chosen.path
    assert "choose_settings" not in recording.given


@pytest.mark.parametrize("bits", [0x3C01, 0x7E00, 0x7C00], ids=["another value", "NaN", "infinity"])
def test_a_shard_found_damaged_while_choosing_is_made_again(
    chosen: Run, config: RunConfig, tmp_path: Path, bits: int
) -> None:
    cache = Path(shutil.copytree(chosen.cache, tmp_path / "T"))
    for folder in cache.glob("set_*"):
        shutil.rmtree(folder)
    values = np.load(cache / "fc1" / "130.npy")
    values.view(np.uint16).reshape(-1)[7] = bits
    np.save(cache / "fc1" / "130.npy", values)
    recording = Recording()
    options: dict[str, Any] = {"cache_root": str(tmp_path)}
    run = run_pipeline(config.model_copy(update=options), recording)
    assert run.batches == SHARD // config.batch_size
    assert any("shard 2" in line and "checksum" in line for line in run.log)
    assert [args[1].index for args in recording.submitted["extract_shard"]] == [2]
    assert_same_documents(chosen.folder, run.folder)
    assert choice_of(run) == choice_of(chosen)
