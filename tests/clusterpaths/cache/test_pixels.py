from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from clusterpaths.cache.manifest import ShardRecord, require_manifest
from clusterpaths.cache.pixels import PixelStore, ShardPixels, image_bytes, stored_size
from clusterpaths.cache.stores import activations_on_disk, open_store, size_on_disk
from clusterpaths.config import RunConfig
from clusterpaths.errors import CorruptedShardError
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import run_extraction
from tests.runs import SAMPLE_MODEL

SIZE = (2, 3)
IDS = np.arange(5)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def recorded(index: int, pixels: np.ndarray, start: int = 64) -> ShardRecord:
    digest = xxhash.xxh3_64(pixels.data).hexdigest()
    return ShardRecord(index=index, ids="0-4", start=start, rows=len(pixels), checksums={"pixels": digest})


@pytest.fixture
def pixels() -> np.ndarray:
    return images(5)


@pytest.fixture
def shard(tmp_path: Path, pixels: np.ndarray) -> ShardPixels:
    """Five images, written in two pieces."""
    store = PixelStore(open_storage(tmp_path), SIZE)
    store.reserve(5)
    shard = store.shard(recorded(3, pixels))
    shard.write("pixels", IDS[:2], 64, pixels[:2])
    shard.write("pixels", IDS[2:], 66, pixels[2:])
    return shard


def test_what_is_written_comes_back_and_takes_its_pixels_bytes(
    tmp_path: Path, shard: ShardPixels, pixels: np.ndarray
) -> None:
    shard.check()
    np.testing.assert_array_equal(shard.read(0, 5), pixels)
    np.testing.assert_array_equal(shard.read(1, 3), pixels[1:3])
    assert (tmp_path / "pixels" / "00003.rgb").read_bytes() == pixels.tobytes()


def test_what_a_killed_run_left_is_written_over(shard: ShardPixels, tmp_path: Path) -> None:
    fewer = images(3, seed=1)
    again = PixelStore(open_storage(tmp_path), SIZE).shard(recorded(3, fewer))
    again.write("pixels", IDS[:3], 64, fewer)
    again.check()
    with pytest.raises(CorruptedShardError):
        shard.check()


@pytest.mark.parametrize("harm", ["gone", "short", "long", "flipped"])
def test_damage_is_found_and_its_shard_named(tmp_path: Path, shard: ShardPixels, pixels: np.ndarray, harm: str) -> None:
    path = tmp_path / "pixels" / "00003.rgb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"short": content[:-1], "long": content + b"x"}.get(harm, content))
    if harm == "gone":
        path.unlink()
    with pytest.raises(
        CorruptedShardError, match=r"images of shard 3 in .*00003\.rgb .*The shard is extracted again"
    ) as caught:
        shard.check()
    assert caught.value.shard == 3
    assert PixelStore(open_storage(tmp_path), SIZE).complete([recorded(3, pixels)]) == (
        {3} if harm == "flipped" else set()
    )
    if harm in ("gone", "short"):
        with pytest.raises(CorruptedShardError):
            shard.read(0, 5)


def test_a_shard_without_a_readable_image_needs_no_file(tmp_path: Path) -> None:
    empty = recorded(0, images(0))
    assert PixelStore(open_storage(tmp_path), SIZE).complete([empty]) == {0}


def test_removing_leaves_nothing(tmp_path: Path, shard: ShardPixels, pixels: np.ndarray) -> None:
    store = PixelStore(open_storage(tmp_path), SIZE)
    store.remove()
    assert list(tmp_path.iterdir()) == []
    assert not shard.is_complete()
    assert store.complete([recorded(3, pixels)]) == set()


def test_such_a_cache_has_no_store_of_activations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="should be npy or zarr, got none"):
        open_store(open_storage(tmp_path), "none", {})


def test_an_image_of_the_sample_takes_twelve_kilobytes_as_planned(
    configure: Callable[..., RunConfig], photos: Path
) -> None:
    done = run_extraction(
        configure(model=SAMPLE_MODEL, dataset="folder", data_root=photos, cache_format="none", shard_size=70)
    )
    manifest = require_manifest(done.storage)
    assert image_bytes(manifest.preprocessing.size) == 64 * 64 * 3 == 12_288
    assert activations_on_disk(done.storage) == stored_size(manifest, [64, 64, 64, 11]) == (4, 203 * 12_288)
    # and, while layers are fitted, the activations of the sample: of all, as they are few
    files, size = size_on_disk("zarr", manifest.layers, 203)
    assert (done.plan.files, done.plan.bytes) == (4 + files, 203 * 12_288 + size)
    assert (
        "29 more files, about 44.5 MB more as images and, during the run, activations of the sample, in"
        in done.plan.text()
    )
    assert not any((done.directory / layer).exists() for layer in manifest.layers)
