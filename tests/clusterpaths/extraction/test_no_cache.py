"""--cache-format none: all stages without a cache of activations give what they give with one of float32."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterpaths.clustering.cluster import cluster_layer, cluster_layers
from numpy.typing import NDArray
from pydantic import ValidationError

from clusterpaths.cache import fit_sample as order
from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.clustering import kmeans
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.extraction.begin import begin_extraction, mark_missing
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.running.stages import choose_settings
from tests.clusterpaths.conftest import Finished, make_plan, run_extraction, run_stages, write_cnn
from tests.runs import PROJECT, SAMPLE_MODEL

Configure = Callable[..., RunConfig]
DOCUMENTS = ("centroids.json", "paths.json", "paths.parquet")


def sample(photos: Path, root: Path, **options: Any) -> RunConfig:
    """The sample model on 203 faces, three shards of them."""
    given = {"model": SAMPLE_MODEL, "dataset": "folder", "data_root": photos, "cache_root": root, "shard_size": 80}
    return RunConfig(**{"name": "none", "cache_format": "none", **given, **options})


@pytest.fixture(scope="module")
def kept(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """With a cache of float32 activations."""
    root = tmp_path_factory.mktemp("kept")
    return run_stages(sample(photos, root, name="kept", cache_format="npy", cache_dtype="float32"))


def assert_same_set(one: Finished, other: Finished) -> None:
    for name in DOCUMENTS:
        assert (one.published.path / name).read_bytes() == (other.published.path / name).read_bytes(), name
    assert one.published.record.fingerprint == other.published.record.fingerprint
    assert read_examples(one.storage).equals(read_examples(other.storage))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_the_tiny_cnn_gives_the_same_set_to_the_bit(configure: Configure, distance: str, cache_format: str) -> None:
    kept = run_stages(configure(distance=distance, name="kept", cache_format=cache_format, cache_dtype="float32"))
    none = run_stages(configure(distance=distance, name="none", cache_format="none"))
    assert_same_set(kept, none)


def test_the_sample_model_gives_the_same_set_choice_and_evaluation(
    kept: Finished, photos: Path, tmp_path: Path
) -> None:
    none = run_stages(sample(photos, tmp_path))
    assert_same_set(kept, none)
    evaluations = [evaluate_set(done.published, done.job) for done in (kept, none)]
    assert evaluations[0] == evaluations[1]
    choices = [choose_settings(c.config.model_copy(update={"k": "auto"}), c.model, c.record) for c in (kept, none)]
    assert choices[0][1] == choices[1][1]
    assert choices[0][1] is not None


KILLED = """
import os, signal, sys
from pathlib import Path
from clusterpaths.extraction.extract import ExtractionJob, extract_shard
job = ExtractionJob.model_validate_json(Path(sys.argv[1]).read_text())
extract_shard(job, 1)
done = []
def die(count):
    done.append(count)
    if len(done) == 3:  # 75 of shard 0's 80 examples: a chunk of 64 is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
extract_shard(job.model_copy(update={"batch_size": 25}), 0, die)
"""


def test_killed_in_the_middle_and_resumed_the_set_is_the_same(kept: Finished, photos: Path, tmp_path: Path) -> None:
    config = sample(photos, tmp_path)
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{KILLED}",
        tmp_path / "job.json",
    ]
    assert subprocess.run(command, check=False, cwd=PROJECT).returncode == -signal.SIGKILL
    assert (config.cache_dir.path / "pixels" / "00000.rgb").stat().st_size == 64 * 12_288
    made = config.cache_dir.path / "pixels" / "00001.rgb"
    before = made.stat().st_mtime_ns
    resumed = run_stages(config.model_copy(update={"shard_size": 50}))
    assert resumed.plan.pending == (0, 2)
    assert made.stat().st_mtime_ns == before
    assert_same_set(kept, resumed)


def test_a_flipped_byte_is_found_and_its_shard_made_again(kept: Finished, photos: Path, tmp_path: Path) -> None:
    config = sample(photos, tmp_path)
    none = run_stages(config)
    path = none.directory / "pixels" / "00001.rgb"
    sound = path.read_bytes()
    content = bytearray(sound)
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CorruptedShardError, match="checksum differs") as caught:
        cluster_layer(none.record, none.identity, "fc1")
    assert caught.value.shard == 1
    mark_missing(none.storage, caught.value.shard)
    extract_shard(none.job, caught.value.shard)
    assert path.read_bytes() == sound
    shutil.rmtree(none.published.path)
    assert_same_set(kept, run_stages(config))


def test_only_more_images_are_read_and_all_are_clustered(kept: Finished, photos: Path, tmp_path: Path) -> None:
    run_extraction(sample(photos, tmp_path, subset=80))
    again = run_stages(sample(photos, tmp_path, cache_format=None))
    assert (again.plan.manifest.format, again.plan.cached, again.plan.pending) == ("none", 80, (1, 2))
    assert_same_set(kept, again)


def test_other_batches_change_at_most_what_rounding_changes(kept: Finished, photos: Path, tmp_path: Path) -> None:
    """Batches are recorded a shard: a resumed run with others mixes them, as a cache of activations would."""
    run_extraction(sample(photos, tmp_path, subset=80))
    mixed = run_stages(sample(photos, tmp_path, batch_size=9))
    assert [shard.batch for shard in require_manifest(mixed.storage).shards] == [32, 9, 9]
    assert (mixed.published.path / "paths.json").read_bytes() == (kept.published.path / "paths.json").read_bytes()


def test_a_model_that_was_moved_runs_from_its_new_place(configure: Configure, tmp_path: Path) -> None:
    model = write_cnn(tmp_path / "old.onnx")
    run_extraction(configure(cache_format="none", model=model))
    moved = run_stages(configure(model=model.rename(tmp_path / "new.onnx")))
    assert moved.plan.pending == ()
    kept = run_stages(configure(model=tmp_path / "new.onnx", name="kept", cache_format="npy", cache_dtype="float32"))
    assert_same_set(kept, moved)


@pytest.mark.parametrize("fit_rows", [8192, 60])
def test_layers_together_are_clustered_as_each_alone_with_fewer_runs_of_the_model(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit_rows: int
) -> None:
    """Also where centroids are fitted on a sample, which then has shards of its own."""
    monkeypatch.setattr(order, "FIT_ROWS", fit_rows)
    monkeypatch.setattr(kmeans, "LEAST_FIT_ROWS", 10)
    kept = run_stages(sample(photos, tmp_path, name="kept", cache_format="zarr", cache_dtype="float32"))
    none = run_stages(sample(photos, tmp_path))
    assert_same_set(kept, none)

    seen: list[int] = []
    run = TapSession.run

    def counted(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        seen.append(len(images))
        return run(session, images)

    monkeypatch.setattr(TapSession, "run", counted)
    together = cluster_layers(none.record, none.identity, list(none.identity.layers), workers=2)
    found = {record.layer: none.storage.read(record.file) for record in together}
    # The sample for sketches and again for first centroids, the rows to fit on, and all of them to assign.
    assert sum(seen) == (3 * 60 + 203 if fit_rows == 60 else 4 * 203)
    again = cluster_layers(none.record, none.identity, list(none.identity.layers))
    assert [record.found for record in again] == [True] * len(together)
    shutil.rmtree(none.directory / "clusterings")
    for layer in none.identity.layers:
        alone = cluster_layer(none.record, none.identity, layer)
        assert none.storage.read(alone.file) == found[layer]


def test_what_does_not_fit_together_is_told(configure: Configure) -> None:
    with pytest.raises(ValidationError, match="stores no activations to round"):
        configure(cache_format="none", cache_dtype="float16")
    run_extraction(configure(cache_format="none"))
    with pytest.raises(CacheError, match="cache format: stored none, required zarr"):
        make_plan(configure(cache_format="zarr"))
    with pytest.raises(CacheError, match="cache dtype: stored float32, required float16"):
        make_plan(configure(cache_dtype="float16"))
