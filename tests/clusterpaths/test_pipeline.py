"""All stages in a row, without Prefect: what the pipeline decides itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths import pipeline
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ModelError
from clusterpaths.running import stages
from clusterpaths.running.report import Outcome
from clusterpaths.running.runner import InProcess, run_pieces
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import Recording, write_cnn
from tests.runs import DOCUMENTS, SAMPLE_MODEL


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> RunConfig:
    return RunConfig(
        dataset="folder", model=SAMPLE_MODEL, data_root=photos, cache_root=tmp_path, name="T", layers="conv3,fc1", k=3,
        shard_size=20, subset=50, evaluate=False,
    )  # fmt: skip


def published(outcome: Outcome) -> PublishedSet:
    assert outcome.published
    return outcome.published


def documents(outcome: Outcome) -> dict[str, bytes]:
    return {name: (published(outcome).path / name).read_bytes() for name in DOCUMENTS}


def test_a_set_is_published_and_found_again(config: RunConfig, tmp_path: Path) -> None:
    first = pipeline.run(config)
    assert Path(first.job.directory) == tmp_path / "T"
    assert first.new
    assert first.report == published(first).path / "report.html"
    assert first.report.is_file()
    again = pipeline.run(config)
    assert (published(again).path, again.new) == (published(first).path, False)
    assert published(pipeline.run(config.model_copy(update={"seed": 1}))).record.set == "set_02"


@pytest.mark.parametrize("workers", [2, 5])
def test_threads_make_the_same_bytes_as_one(config: RunConfig, workers: int) -> None:
    one = pipeline.run(config.model_copy(update={"name": "one", "workers": 1}))
    many = pipeline.run(config.model_copy(update={"name": "many", "workers": workers}))
    assert documents(many) == documents(one)


def test_what_is_to_be_chosen_is_chosen(config: RunConfig) -> None:
    outcome = pipeline.run(config.model_copy(update={"k": "auto", "distance": "auto"}))
    assert outcome.choice
    assert published(outcome).record.choice == outcome.choice.sentence
    assert (published(outcome).path / "choice.json").is_file()


def test_a_set_is_evaluated_where_that_is_asked_for(config: RunConfig) -> None:
    outcome = pipeline.run(config.model_copy(update={"evaluate": True}))
    assert (published(outcome).path / "metrics.json").is_file()
    assert not (published(pipeline.run(config.model_copy(update={"seed": 1}))).path / "metrics.json").exists()


def test_a_mistake_is_reported_before_anything_is_made(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 'cnv3'"):
        pipeline.run(config.model_copy(update={"layers": ("cnv3",)}))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_replaced_since_it_was_announced_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has changed"):
        pipeline.run(config.model_copy(update={"model_sha256": "0" * 64}))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_extracts_nothing(config: RunConfig, tmp_path: Path) -> None:
    outcome = pipeline.run(config.model_copy(update={"plan": True}))
    assert outcome.published is None
    assert outcome.plan.missing == 50
    assert list(tmp_path.rglob("*.npy")) == []


def test_a_cache_that_another_run_uses_is_waited_for_and_then_refused(config: RunConfig) -> None:
    with config.cache_dir.lock(0), pytest.raises(CacheError, match="is in use by process"):
        pipeline.run(config.model_copy(update={"wait": 0.0}))


def flip(path: Path) -> None:
    """Another value in the last place of an activation."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("more", [{}, {"k": "auto"}, {"evaluate": True}], ids=["cluster", "choose", "evaluate"])
def test_a_corrupted_shard_is_extracted_again_and_no_other(
    config: RunConfig, tmp_path: Path, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clean = pipeline.run(config.model_copy(update=more))
    expected = documents(clean)
    for name in ("set.json", "metrics.json"):
        (published(clean).path / name).unlink(missing_ok=True)
    for path in published(clean).path.iterdir():
        path.unlink()
    published(clean).path.rmdir()
    flip(tmp_path / "T" / "fc1" / "25.npy")
    recording = Recording()
    again = pipeline.run(config.model_copy(update=more), recording)
    assert documents(again) == expected
    assert [args[1].index for args in recording.submitted["extract_shard"]] == [1]
    assert "shard 1" in caplog.text
    assert "checksum" in caplog.text


def test_a_shard_that_is_corrupted_again_ends_the_run(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = stages.extract_shard

    def on_a_bad_disk(job: Any, shard: Any, *more: Any) -> Any:
        record = extract(job, shard, *more)
        if shard.index == 0:  # the shard of example 5; others may end before its file is there
            flip(tmp_path / "T" / "fc1" / "5.npy")
        return record

    on_a_bad_disk.__name__ = extract.__name__
    monkeypatch.setattr(stages, "extract_shard", on_a_bad_disk)
    with pytest.raises(CacheError, match=r"Shard 0 of .* extracted again, and is corrupted again"):
        pipeline.run(config)


def test_a_layer_that_float16_cannot_hold_is_stored_as_float32(
    configure: Callable[..., RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loud = write_cnn(tmp_path / "loud.onnx", factor=1e6)
    outcome = pipeline.run(configure(model=loud, cache_dtype="float16", evaluate=False))
    dtypes = {name: layer.dtype for name, layer in require_manifest(open_storage(outcome.job.directory)).layers.items()}
    assert set(dtypes.values()) == {"float16", "float32"} or set(dtypes.values()) == {"float32"}
    wide = [name for name, dtype in dtypes.items() if dtype == "float32"]
    assert np.load(Path(outcome.job.directory) / wide[0] / "0.npy").dtype == np.float32
    assert "values that float16 cannot hold" in caplog.text


class Counting(InProcess):
    """Counts pieces that run at once."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def piece(self, number: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.01)
        with self.lock:
            self.now -= 1
        return number


def test_no_more_pieces_are_submitted_than_there_are_workers_and_all_come_back() -> None:
    with Counting(8) as runner:
        runner.workers = 3
        calls = {i: lambda i=i: runner.submit(runner.piece, i) for i in range(20)}
        found: dict[int, int] = {}
        run_pieces(runner, calls, lambda key, future: found.update({key: future.result()}))
        assert found == {i: i for i in range(20)}
        assert runner.most == 3


def test_pieces_that_run_are_waited_for_when_one_fails() -> None:
    def fail() -> None:
        raise ValueError("broken")

    ended: list[int] = []
    with InProcess(2) as runner:
        calls = {0: lambda: runner.submit(fail)} | {
            i: lambda i=i: runner.submit(lambda: (threading.Event().wait(0.05), ended.append(i))) for i in range(1, 9)
        }
        with pytest.raises(ValueError, match="broken"):
            run_pieces(runner, calls, lambda _, future: future.result())
        before = len(ended)
    assert before == len(ended) < 8  # nothing goes on afterwards, and not everything was begun
