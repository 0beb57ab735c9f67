"""Results that were damaged since: the shard that it met is extracted again, no other, and the set is the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache import fit_sample
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.records import CacheFormat
from clusterpaths.running import stages
from tests.clusterpaths.conftest import Recording
from tests.runs import Run, assert_same_documents, run_pipeline

SHARD = 16  # of 40 images: shards 0, 1 and a smaller one


@pytest.fixture(scope="module")
def clean(cnn: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[CacheFormat], Run]:
    """A run that nothing disturbed, of each format; not to be written to."""
    made: dict[CacheFormat, Run] = {}

    def of(cache_format: CacheFormat) -> Run:
        if cache_format not in made:
            made[cache_format] = run_pipeline(
                configured(cnn, faces, tmp_path_factory.mktemp(cache_format), cache_format)
            )
        return made[cache_format]

    return of


def configured(cnn: Path, faces: Path, root: Path, cache_format: CacheFormat) -> RunConfig:
    return RunConfig(
        model=cnn, data_root=faces, cache_root=root, name="T", k=3, preprocessing="unit", cache_format=cache_format,
        shard_size=SHARD, batch_size=8, evaluate=False, check_preprocessing=False,
    )  # fmt: skip


@pytest.fixture
def damaged(
    clean: Callable[[CacheFormat], Run], cnn: Path, faces: Path, tmp_path: Path
) -> Callable[..., tuple[Run, dict[str, list[Any]]]]:
    """Runs again on a copy of a cache, without its set, that a function was let loose on; with what was submitted.

    Whatever was done, the set is the same, and two batches went through the model: those of one shard.
    """

    def run(cache_format: CacheFormat, harm: Callable[[Path], None], batches: int = 2) -> tuple[Run, Any]:
        before = clean(cache_format)
        cache = Path(shutil.copytree(before.cache, tmp_path / "T"))
        shutil.rmtree(cache / "set_01")
        harm(cache)
        recording = Recording()
        again = run_pipeline(configured(cnn, faces, tmp_path, cache_format), recording)
        assert again.batches == batches
        assert_same_documents(before.folder, again.folder)
        return again, recording.submitted

    return run


@pytest.mark.parametrize("bits", [0x3C01, 0x7E00, 0x7C00], ids=["another value", "NaN", "infinity"])
@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_a_shard_whose_bytes_were_damaged_is_made_again(damaged: Any, layer: str, bits: int) -> None:
    def harm(cache: Path) -> None:
        path = cache / layer / "30.npy"  # the 21st image
        values = np.load(path)
        values.view(np.uint16).reshape(-1)[7] = bits
        np.save(path, values)

    run, _ = damaged("npy", harm)
    assert any(line.startswith("WARNING") and "shard 1" in line and "checksum" in line for line in run.log)


@pytest.mark.parametrize("damage", ["flipped", "refused", "cut", "emptied"])
def test_a_damaged_zarr_chunk_is_made_again(damaged: Any, damage: str) -> None:
    def harm(cache: Path) -> None:
        chunk = next(path for path in sorted((cache / "conv2" / "c").rglob("*")) if path.is_file())
        content = bytearray(chunk.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 0xFF
        if damage == "refused":
            content[:8] = b"\xff" * 8  # no Blosc header
        chunk.write_bytes(content[: {"cut": len(content) // 2, "emptied": 0}.get(damage, len(content))])

    run, _ = damaged("zarr", harm)
    if damage == "flipped":  # the others are missed before anything is read
        assert any(line.startswith("WARNING") and "The shard is extracted again" in line for line in run.log), run.log


@pytest.mark.parametrize("lost", ["conv2/30.npy", "fc1", "examples/00001.parquet"])
def test_removing_files_of_one_shard_makes_just_that_shard_again(damaged: Any, lost: str) -> None:
    def harm(cache: Path) -> None:
        if (cache / lost).is_file():
            (cache / lost).unlink()
            return
        for path in sorted((cache / lost).iterdir(), key=lambda path: int(path.stem))[SHARD : 2 * SHARD]:
            path.unlink()

    _, submitted = damaged("npy", harm)
    assert [args[1].index for args in submitted["extract_shard"]] == [1]


def harmed_table(content: bytes, harm: str) -> bytes:
    """A parquet file as a power cut leaves it: of its length, its beginning, or nothing; or with one bit changed."""
    if harm == "a bit":
        at = len(content) // 4  # of a page, not of the footer
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    return {"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content))}[harm]


@pytest.mark.parametrize("cache_format", ["npy", "none"])
@pytest.mark.parametrize("harm", ["empty", "cut", "zeros", "a bit", "of another shard"])
def test_a_part_of_the_examples_that_was_damaged_is_made_again_with_its_shard(
    damaged: Any, cache_format: CacheFormat, harm: str
) -> None:
    def harmed(cache: Path) -> None:
        part, other = cache / "examples" / "00001.parquet", cache / "examples" / "00000.parquet"
        part.write_bytes(other.read_bytes() if harm == "of another shard" else harmed_table(part.read_bytes(), harm))

    _, submitted = damaged(cache_format, harmed, batches=5 if cache_format == "none" else 2)
    assert [args[1].index for args in submitted["extract_shard"]] == [1]


def test_a_part_of_the_examples_that_is_damaged_during_the_run_is_made_again(
    cnn: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_pipeline(configured(cnn, faces, tmp_path / "clean", "npy"))
    part = tmp_path / "harmed" / "T" / "examples" / "00000.parquet"
    recording = Recording()
    before_stage(monkeypatch, "fit_layer", lambda: part.write_bytes(b""), 1)
    run = run_pipeline(configured(cnn, faces, tmp_path / "harmed", "npy"), recording)
    assert_same_documents(before.folder, run.folder)
    assert [args[1].index for args in recording.submitted["extract_shard"]].count(0) == 2
    assert any(line.startswith("WARNING") and "The examples of shard 0 in" in line for line in run.log)


def test_kept_images_that_were_damaged_are_made_again_and_no_others(
    damaged: Any, clean: Callable[[CacheFormat], Run], tmp_path: Path
) -> None:
    kept = {path.name: path.read_bytes() for path in (clean("none").cache / "pixels").iterdir()}
    written: dict[str, int] = {}

    def harm(cache: Path) -> None:
        content = kept["00002.rgb"]
        (cache / "pixels" / "00002.rgb").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        written.update({path.name: path.stat().st_mtime_ns for path in (cache / "pixels").iterdir()})

    run, submitted = damaged("none", harm, batches=5)  # every image once more: there are no activations
    pixels = tmp_path / "T" / "pixels"
    assert {path.name for path in pixels.iterdir() if path.stat().st_mtime_ns != written[path.name]} == {"00002.rgb"}
    assert {path.name: path.read_bytes() for path in pixels.iterdir()} == kept
    [told] = [line for line in run.log if line.startswith("WARNING") and "images of shard 2 in" in line]
    assert "checksum" in told
    assert [args[1].index for args in submitted["extract_shard"]] == [2]


# Layers fitted on 24 of the 40 images: shards 0 and 1; shard 2 is extracted and assigned at once.
# Another k for what is there, and a shard of the others that is damaged then: test_pipeline_fused.py.


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 24)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 1)


def change(path: Path) -> None:
    """Change a byte of a file's values, each time to another one."""
    content = bytearray(path.read_bytes())
    at = len(content) - 1 if path.suffix == ".npy" else len(content) // 2
    content[at] = (content[at] + 1) % 256
    path.write_bytes(content)


def before_stage(monkeypatch: pytest.MonkeyPatch, stage: str, work: Callable[[], None], calls: int) -> None:
    """Do some work before each of the first calls of a stage."""
    function, left = getattr(stages, stage), [calls]

    def worked(*args: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            work()
        return function(*args)

    worked.__name__ = stage
    monkeypatch.setattr(stages, stage, worked)


def activations_of(cache: Path, cache_format: CacheFormat) -> Path:
    """A file of shard 0; without activations, of those of the sample."""
    if cache_format == "npy":
        return cache / "fc1" / "3.npy"
    chunks = ((cache / "sample" if cache_format == "none" else cache) / "fc1" / "c").rglob("*")
    return next(path for path in sorted(chunks) if path.is_file())


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize(("stage", "extracted"), [("fit_layer", [0, 1, 0, 2]), ("assign_shard", [0, 1, 2, 0])])
def test_activations_of_the_sample_that_are_damaged_within_a_run_are_extracted_and_fitted_again(
    cnn: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: CacheFormat, stage: str,
    extracted: list[int],
) -> None:  # fmt: skip
    """Before the fit, and between fit and assignment."""
    before = run_pipeline(configured(cnn, faces, tmp_path / "clean", cache_format))
    cache, recording = tmp_path / "harmed" / "T", Recording()
    before_stage(monkeypatch, stage, lambda: change(activations_of(cache, cache_format)), 1)
    run = run_pipeline(configured(cnn, faces, cache.parent, cache_format), recording)
    assert [args[1].index for args in recording.submitted["extract_shard"]] == extracted
    assert_same_documents(before.folder, run.folder)
    assert any(line.startswith("WARNING") and "shard 0" in line and "extracted again" in line for line in run.log)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("stage", ["fit_layer", "assign_shard"])
def test_a_shard_that_is_damaged_again_and_again_ends_the_run_with_one_paragraph(
    cnn: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: CacheFormat, stage: str
) -> None:
    cache, recording = tmp_path / "T", Recording()
    before_stage(monkeypatch, stage, lambda: change(activations_of(cache, cache_format)), 100)
    with pytest.raises(CacheError, match=r"Shard 0 of .* was corrupted, extracted again, and is corrupted again"):
        run_pipeline(configured(cnn, faces, tmp_path, cache_format), recording)
    assert [args[1].index for args in recording.submitted["extract_shard"]].count(0) == 2


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("cache_format", ["npy", "none"])
@pytest.mark.parametrize(
    ("harmed", "found", "assigned"),
    [
        ("fc1-*/00002.npz", 3, [2]),
        ("fc1-*/00000.npz", 3, [0]),
        ("fc1-*/centroids.npy", 2, []),
        ("fc1-*/fit.json", 2, []),
    ],
)
def test_labels_or_centroids_that_were_damaged_since_a_run_was_stopped_are_made_again(
    cnn: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: CacheFormat, harmed: str,
    found: int, assigned: list[int],
) -> None:  # fmt: skip
    """Nothing else is: the same centroids have the labels that are there."""
    before = run_pipeline(configured(cnn, faces, tmp_path / "clean", cache_format))
    config = configured(cnn, faces, tmp_path / "harmed", cache_format)
    with monkeypatch.context() as patch:
        before_stage(patch, "trace_paths", stop, 1)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config)
    [path] = (tmp_path / "harmed" / "T" / "clusterings").glob(harmed)
    change(path)
    recording = Recording()
    run = run_pipeline(config, recording)
    assert_same_documents(before.folder, run.folder)
    assert "extract_shard" not in recording.submitted
    assert [args[1].index for args in recording.submitted.get("assign_shard", [])] == assigned
    assert sum(fit.found for fit in recording.given["trace_paths"][0][2]) == found
    assert run.batches == (2 if cache_format == "none" and assigned == [2] else 0)  # shard 0 has activations


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("harmed", ["fc1-*/00002.npz", "fc1-*/centroids.npy"])
def test_labels_or_centroids_that_are_damaged_before_they_are_read_end_the_run_and_the_next_repairs_them(
    cnn: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmed: str
) -> None:
    before = run_pipeline(configured(cnn, faces, tmp_path / "clean", "npy"))
    config = configured(cnn, faces, tmp_path / "harmed", "npy")
    clusterings = tmp_path / "harmed" / "T" / "clusterings"
    with monkeypatch.context() as patch:
        before_stage(patch, "trace_paths", lambda: change(next(clusterings.glob(harmed))), 1)
        with pytest.raises(CacheError, match="Run the flow again"):
            run_pipeline(config)
    run = run_pipeline(config)
    assert_same_documents(before.folder, run.folder)
    assert run.folder.name == "set_01"
    assert run.batches == 0


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("shard", [0, 2])
def test_images_that_were_damaged_are_extracted_again_for_another_k(
    cnn: Path, faces: Path, tmp_path: Path, shard: int
) -> None:
    """Found where the sample's activations are made again, or where a shard is assigned."""
    fresh = run_pipeline(configured(cnn, faces, tmp_path / "fresh", "none").model_copy(update={"k": 4}))
    config = configured(cnn, faces, tmp_path / "harmed", "none")
    run_pipeline(config)
    change(tmp_path / "harmed" / "T" / "pixels" / f"{shard:05d}.rgb")
    recording = Recording()
    run = run_pipeline(config.model_copy(update={"k": 4}), recording)
    assert_same_documents(fresh.folder, run.folder)
    assert [args[1].index for args in recording.submitted["extract_shard"]] == [shard]
    assert run.batches == 5  # 16, 8 and 16 images, each once
