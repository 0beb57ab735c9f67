"""--cache-format none: without a cache of activations a run gives what it gives with one of the same dtype."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.stores import NpyStore, ZarrStore
from clusterpaths.clustering import identity as identity_module
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.extraction import plan as plan_module
from clusterpaths.extraction.begin import begin_extraction
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.pipeline import run
from clusterpaths.sets.published import PublishedSet
from tests.clusterpaths.conftest import Finished, make_plan, run_extraction, run_stages, write_cnn
from tests.runs import PROJECT, SAMPLE_MODEL

Configure = Callable[..., RunConfig]
DOCUMENTS = ("centroids.json", "paths.json", "paths.parquet")


def sample(photos: Path, root: Path, **options: Any) -> RunConfig:
    """The sample model on 203 faces, three shards of them."""
    given = {"model": SAMPLE_MODEL, "dataset": "folder", "data_root": photos, "cache_root": root, "shard_size": 80}
    given["workers"] = 1  # more would have smaller shards
    return RunConfig(**{"name": "none", "cache_format": "none", **given, **options})


@pytest.fixture(scope="module")
def stored(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """With a cache of float32 activations."""
    root = tmp_path_factory.mktemp("stored")
    return run_stages(sample(photos, root, name="stored", cache_format="npy", cache_dtype="float32"))


def assert_same_set(one: Finished, other: Finished) -> None:
    for name in DOCUMENTS:
        assert (one.published.path / name).read_bytes() == (other.published.path / name).read_bytes(), name
    assert one.published.record.fingerprint == other.published.record.fingerprint
    assert read_examples(one.storage).equals(read_examples(other.storage))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_the_tiny_cnn_gives_the_same_set_to_the_bit(
    configure: Configure, distance: str, cache_format: str, dtype: str
) -> None:
    stored = run_stages(configure(distance=distance, name="stored", cache_format=cache_format, cache_dtype=dtype))
    none = run_stages(configure(distance=distance, name="none", cache_format="none", cache_dtype=dtype))
    assert_same_set(stored, none)
    assert not (none.directory / "sample").exists()
    assert [path.name for path in none.directory.iterdir() if path.name in ("conv1", "conv2", "fc1")] == []


def test_the_sample_model_gives_the_same_set_choice_and_evaluation(photos: Path, tmp_path: Path) -> None:
    found: list[PublishedSet] = []
    for name, cache_format in (("stored", "npy"), ("none", "none")):
        config = sample(photos, tmp_path, name=name, cache_format=cache_format, cache_dtype="float32", k="auto")
        published = run(config.model_copy(update={"workers": 1})).published
        assert published
        found.append(published)
    for document in (*DOCUMENTS, "choice.json", "metrics.json"):
        assert (found[0].path / document).read_bytes() == (found[1].path / document).read_bytes(), document
    assert not (tmp_path / "none" / "sample").exists()  # evaluated on it, then removed


KILLED = """
import numpy as np
import os, signal, sys
from pathlib import Path
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.sample import plan_sample
job = ExtractionJob.model_validate_json(Path(sys.argv[1]).read_text())
shards = require_manifest(job.storage).shards
parts = plan_sample(job.storage, shards[0].planned_ids()) if sys.argv[2] == "other" else {}
parts = parts or plan_sample(job.storage, np.arange(203))
extract_shard(job, shards[1], (), parts.get(1))
done = []
def die(count):
    done.append(count)
    if len(done) == 3:  # 75 of shard 0's 80 examples: a chunk of 64 is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
extract_shard(job.model_copy(update={"batch_size": 25}), shards[0], (), parts[0], die)
"""


@pytest.mark.parametrize("left", ["sample", "other"])
def test_killed_in_the_middle_and_resumed_the_set_is_the_same(
    stored: Finished, photos: Path, tmp_path: Path, left: str
) -> None:
    """Also where the run that was killed has left a sample of other examples."""
    config = sample(photos, tmp_path)
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{KILLED}"
    command = [sys.executable, "-c", code, tmp_path / "job.json", left]
    assert subprocess.run(command, check=False, cwd=PROJECT).returncode == -signal.SIGKILL
    assert (config.cache_dir.path / "pixels" / "00000.rgb").stat().st_size == 64 * 12_288
    made = config.cache_dir.path / "pixels" / "00001.rgb"
    before = made.stat().st_mtime_ns
    resumed = run_stages(config.model_copy(update={"shard_size": 50}))
    assert resumed.plan.pending == (0, 2)
    assert made.stat().st_mtime_ns == before
    assert_same_set(stored, resumed)


def test_a_flipped_byte_is_found_and_its_shard_made_again(stored: Finished, photos: Path, tmp_path: Path) -> None:
    config = sample(photos, tmp_path)
    none = run_stages(config)
    path = none.directory / "pixels" / "00001.rgb"
    sound = path.read_bytes()
    content = bytearray(sound)
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    again = run_stages(config.model_copy(update={"k": 4}))
    assert path.read_bytes() == sound
    assert_same_set(run_stages(stored.config.model_copy(update={"k": 4})), again)


def test_only_more_images_are_read_and_all_are_clustered(stored: Finished, photos: Path, tmp_path: Path) -> None:
    run_extraction(sample(photos, tmp_path, subset=160))
    again = run_stages(sample(photos, tmp_path, cache_format=None))
    assert (again.plan.manifest.format, again.plan.cached, again.plan.pending) == ("none", 160, (2,))
    assert_same_set(stored, again)


def test_other_batches_change_at_most_what_rounding_changes(stored: Finished, photos: Path, tmp_path: Path) -> None:
    """Batches are recorded a shard: a resumed run with others mixes them, as a cache of activations would."""
    run_extraction(sample(photos, tmp_path, subset=160))
    mixed = run_stages(sample(photos, tmp_path, batch_size=9))
    assert [shard.batch for shard in require_manifest(mixed.storage).shards] == [32, 32, 9]
    assert (mixed.published.path / "paths.json").read_bytes() == (stored.published.path / "paths.json").read_bytes()


def test_a_model_that_was_moved_runs_from_its_new_place(configure: Configure, tmp_path: Path) -> None:
    model = write_cnn(tmp_path / "old.onnx")
    run_extraction(configure(cache_format="none", model=model))
    moved = run_stages(configure(model=model.rename(tmp_path / "new.onnx")))
    assert moved.plan.pending == ()
    stored = run_stages(
        configure(model=tmp_path / "new.onnx", name="stored", cache_format="npy", cache_dtype="float32")
    )
    assert_same_set(stored, moved)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run of a model is given; blank ones are none of the data."""
    seen: list[int] = []
    run = TapSession.run

    def counted(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        if not (images == 0.5).all():
            seen.append(len(images))
        return run(session, images)

    monkeypatch.setattr(TapSession, "run", counted)
    return seen


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Layer -> ids whose activations are read back."""
    seen: dict[str, list[int]] = {}
    for store in (NpyStore, ZarrStore):
        monkeypatch.setattr(store, "read", _noting(store.read, seen))
    return seen


def _noting(read: Callable[..., NDArray[Any]], seen: dict[str, list[int]]) -> Callable[..., NDArray[Any]]:
    def noted(store: Any, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        seen.setdefault(layer, []).extend(ids.tolist())
        return read(store, layer, ids, rows)

    return noted


FORMATS = ("npy", "zarr", "none")


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("fit", [60, 4096])
def test_a_fresh_run_runs_the_model_once_an_image_and_reads_back_the_sample_only(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: str, fit: int, images: list[int],
    read: dict[str, list[int]],
) -> None:  # fmt: skip
    for module in (plan_module, identity_module):
        monkeypatch.setattr(module, "fit_size", lambda _k: fit)
    done = run_stages(sample(photos, tmp_path, cache_format=cache_format))
    chosen = done.plan.sample_ids()
    assert len(chosen) == min(fit, 203)
    assert sum(images) == 203
    assert set(read) == set(done.identity.layers)
    for ids in read.values():
        assert set(ids) == set(chosen.tolist())


@pytest.mark.parametrize("cache_format", FORMATS)
def test_another_k_runs_the_model_only_where_no_activations_are_stored(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: str, images: list[int]
) -> None:
    for module in (plan_module, identity_module):
        monkeypatch.setattr(module, "fit_size", lambda _k: 60)
    config = sample(photos, tmp_path, cache_format=cache_format)
    run_stages(config)
    images.clear()
    other = run_stages(config.model_copy(update={"k": 4}))
    # none: the sample, to fit; then all others, once for all layers
    assert sum(images) == (203 if cache_format == "none" else 0)
    assert other.published.record.set == "set_02"
    images.clear()
    assert run(config.model_copy(update={"k": 4, "evaluate": False, "check_preprocessing": False})).new is False
    assert images == []  # the set is there


def test_a_layer_fitted_on_a_sample_is_as_with_a_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (plan_module, identity_module):
        monkeypatch.setattr(module, "fit_size", lambda _k: 60)
    stored = run_stages(sample(photos, tmp_path, name="stored", cache_format="zarr", cache_dtype="float32"))
    none = run_stages(sample(photos, tmp_path))
    assert_same_set(stored, none)
    assert {fit.num_fitted for fit in none.fits} == {60}
    stored, none = (run_stages(done.config.model_copy(update={"k": 4})) for done in (stored, none))
    assert_same_set(stored, none)


def test_what_does_not_fit_together_is_told(configure: Configure) -> None:
    with pytest.raises(ValidationError, match="--fit all reads every activation several times"):
        configure(cache_format="none", fit="all")
    run_extraction(configure(cache_format="none"))
    with pytest.raises(ConfigError, match=r"is one of images\. --fit all reads every activation several times"):
        make_plan(configure(fit="all"))  # the format is that of the cache
    with pytest.raises(CacheError, match="cache format: stored none, required zarr"):
        make_plan(configure(cache_format="zarr"))
    with pytest.raises(CacheError, match="cache dtype: stored float32, required float16"):
        make_plan(configure(cache_dtype="float16"))
