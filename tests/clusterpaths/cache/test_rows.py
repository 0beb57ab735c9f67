from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.cache import rows as rows_module
from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows, stored_rows, to_float32
from clusterpaths.cache.stores import ZarrStore
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.extraction import plan as plan_module
from tests.clusterpaths.conftest import LAYERS, NUMBERS, Extracted, read_rows, run_extraction, write_celeba

Configure = Callable[..., RunConfig]


@pytest.fixture(params=["npy", "zarr", "none"])
def extracted(request: pytest.FixtureRequest, configure: Configure) -> Extracted:
    return run_extraction(configure(cache_format=request.param, shard_size=7))


def all_rows(extracted: Extracted, layer: str, ids: np.ndarray | None = None) -> np.ndarray:
    rows = LayerRows(extracted.storage, layer, extracted.ids if ids is None else ids)
    result = np.full((len(rows), rows.width), np.nan, np.float32)
    for where, block in rows.blocks():
        assert np.isnan(result[where]).all()
        result[where] = block
    return result


@pytest.mark.parametrize("layer", LAYERS)
def test_blocks_are_the_rows_at_any_positions_and_what_was_written(
    extracted: Extracted, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = all_rows(extracted, layer)
    monkeypatch.setattr(rows_module, "MAX_BLOCK_ROWS", 3)
    np.testing.assert_array_equal(all_rows(extracted, layer), whole)
    rows = LayerRows(extracted.storage, layer, extracted.ids)
    assert [len(block) for _, block in rows.blocks()] == [3] * 13 + [1]
    some = np.array([0, 6, 7, 8, 30, 39])
    assert [where.tolist() for where, _ in rows.blocks(some)] == [[0, 6, 7], [8, 30, 39]]  # type: ignore[union-attr]
    np.testing.assert_array_equal(read_rows(extracted, layer, some), whole[some])
    np.testing.assert_array_equal(read_rows(extracted, layer, np.array([3])), whole[3:4])
    assert len(read_rows(extracted, layer, some[:0])) == 0
    if (file := extracted.directory / layer / "3.npy").exists():
        np.testing.assert_array_equal(np.load(file).ravel().astype(np.float32), whole[extracted.ids.tolist().index(3)])


def test_blocks_may_be_changed_in_place_without_harm(extracted: Extracted) -> None:
    before = all_rows(extracted, "conv1")
    rows = LayerRows(extracted.storage, "conv1", extracted.ids)
    for _, block in rows.blocks():
        block *= 0
    np.testing.assert_array_equal(all_rows(extracted, "conv1"), before)


def test_some_ids_give_their_rows_and_no_checksum_alarm(extracted: Extracted) -> None:
    whole = all_rows(extracted, "conv2")
    np.testing.assert_array_equal(all_rows(extracted, "conv2", extracted.ids[5:23:3]), whole[5:23:3])


def chunk_or_file(extracted: Extracted, layer: str, shard: int, example: int) -> Path:
    directory = stored_rows(extracted.storage).path
    file = directory / layer / f"{example}.npy"
    return file if file.exists() else directory / layer / "c" / str(shard) / "0" / "0" / "0"


@pytest.mark.parametrize("at", [-1.0, 0.0, 0.5])
def test_flipped_byte_is_found_and_its_shard_named(extracted: Extracted, at: float) -> None:
    example = int(extracted.ids[17])  # of shard 2: 14 … 20
    path = chunk_or_file(extracted, "conv1", 2, example)
    content = bytearray(path.read_bytes())
    chunk = [4, len(content) // 2][at > 0]
    content[chunk if path.suffix != ".npy" else 128 + int((len(content) - 129) * abs(at))] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(CorruptedShardError, match=r"layer conv1 in shard 2 .*The shard is extracted again") as caught:
        all_rows(extracted, "conv1")
    assert caught.value.shard == 2
    assert len(all_rows(extracted, "fc1")) == 40


@pytest.mark.parametrize("harm", ["gone", "short"])
def test_lost_bytes_are_damage_and_not_a_crash(extracted: Extracted, harm: str) -> None:
    path = chunk_or_file(extracted, "conv1", 2, int(extracted.ids[17]))
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptedShardError):
        all_rows(extracted, "conv1")


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_grown_cache_is_still_read_in_order_of_id(configure: Configure, tmp_path: Path, cache_format: str) -> None:
    data = write_celeba(tmp_path / "faces", NUMBERS[::2])
    run_extraction(configure(cache_format=cache_format, data_root=data))
    write_celeba(data, NUMBERS)
    grown = run_extraction(configure(cache_format=cache_format, data_root=data))
    assert grown.ids.tolist() == [number - 1 for number in NUMBERS]
    shards = read_examples(grown.storage, ["shard"])["shard"].to_pylist()
    assert shards != sorted(shards)
    fresh = run_extraction(configure(cache_format=cache_format, data_root=data, name="fresh"))
    for layer in LAYERS:
        np.testing.assert_allclose(all_rows(grown, layer), all_rows(fresh, layer), rtol=2e-3, atol=1e-3)


def test_damage_between_two_passes_is_found_by_the_second(extracted: Extracted) -> None:
    rows = LayerRows(extracted.storage, "fc1", extracted.ids)
    assert sum(len(block) for _, block in rows.blocks()) == 40
    directory = stored_rows(extracted.storage).path
    file = directory / "fc1" / f"{extracted.ids[17]}.npy"
    path = file if file.exists() else directory / "fc1" / "c" / "2" / "0"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptedShardError) as caught:
        list(rows.blocks())
    assert caught.value.shard == 2


def test_without_activations_only_the_samples_are_read(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "fit_size", lambda _k: 12)
    done = run_extraction(configure(cache_format="none"))
    sample = done.plan.sample_ids()
    assert len(all_rows(done, "conv1", sample)) == 12
    with pytest.raises(CacheError, match=r"lacks the activations of 28 of 40 examples\. Run the flow again"):
        LayerRows(done.storage, "conv1", done.ids)
    (done.storage / "sample").remove_tree()
    with pytest.raises(CacheError, match="is missing"):
        LayerRows(done.storage, "conv1", sample)


def test_layer_that_the_cache_lacks_is_told(extracted: Extracted) -> None:
    with pytest.raises(CacheError, match="has no layer 'fc9'"):
        LayerRows(extracted.storage, "fc9", extracted.ids)


def test_every_float16_becomes_exactly_its_float32() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 16)  # subnormals and both zeros among them
    np.testing.assert_array_equal(
        to_float32(every).view(np.uint32), every.astype(np.float32).view(np.uint32), strict=True
    )


def test_float32_comes_back_as_it_is() -> None:
    values = np.array([[1e-40, 3e38]], np.float32)
    assert to_float32(values) is values


def test_rows_of_float32_caches_are_not_rounded(configure: Configure) -> None:
    wide = run_extraction(configure(cache_dtype="float32", name="wide"))
    narrow = run_extraction(configure(name="narrow"))
    for layer in LAYERS:
        exact = all_rows(wide, layer)
        assert not np.array_equal(exact, all_rows(narrow, layer))
        np.testing.assert_array_equal(exact.astype(np.float16), all_rows(narrow, layer))
    assert {layer.dtype for layer in require_manifest(wide.storage).layers.values()} == {"float32"}


@pytest.mark.parametrize("block", [4096, 3])
def test_rows_of_alternating_shards_are_read_chunk_by_chunk(
    configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """A sample that has grown: every other id is in another shard. However small the blocks, a chunk is read once."""
    plain = run_extraction(configure(name="plain", cache_format="npy"))
    monkeypatch.setattr(plan_module, "nested_samples", lambda ids, _: [ids[::2], ids[1::2]])
    mixed = run_extraction(configure(name="mixed", cache_format="zarr"))
    monkeypatch.setattr(rows_module, "block_rows", lambda _: block)
    reads: list[int] = []
    read = ZarrStore.read

    def counted(store: ZarrStore, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        reads.append(len(ids))
        return read(store, layer, ids, rows)

    monkeypatch.setattr(ZarrStore, "read", counted)
    np.testing.assert_array_equal(read_rows(mixed, "conv2"), read_rows(plain, "conv2"))
    assert sorted(reads) == [4, 4, 16, 16]  # shards of 16, each in a chunk of its own
