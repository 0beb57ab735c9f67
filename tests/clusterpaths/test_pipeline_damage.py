"""Results that were damaged since: the shard that it met is extracted again, no other, and the set is the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.records import CacheFormat
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
