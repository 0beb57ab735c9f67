"""What is there is not computed again, an interrupted call continues, and other models or examples are never taken for these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.manifest import require_manifest
from clusterpaths.errors import CacheError, ExtractionError
from clusterpaths.pytorch import shards
from tests.clusterpaths.pytorch.conftest import (
    CLASSES,
    COUNT,
    Collect,
    loader_of,
    make_images,
    make_model,
    write_folder,
)

torch = pytest.importorskip("torch")


class Counted(torch.nn.Module):  # type: ignore[misc]
    """Counts the examples that it is run on; raises at a number of them."""

    def __init__(self, stops: int | None = None) -> None:
        super().__init__()
        self.inner = make_model()
        self.ran, self.stops = 0, stops

    def forward(self, x: Any) -> Any:
        if self.stops is not None and self.ran + len(x) > self.stops:
            raise KeyboardInterrupt
        self.ran += len(x)
        return self.inner(x)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 30)  # two batches of 20


LAYERS = ["inner.blocks.*", "inner.pool"]
FIRST = 2 * 20  # examples: where some are stored, the first batch is looked at, and compared with them


def content(root: Path) -> dict[str, bytes]:
    """Every file of the cache, but for logs and times."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "set_" not in str(path) and path.name not in (".lock", ".lock.holder", "metadata.json")
    }


def test_a_second_call_runs_the_first_batch_only(run: Collect, loader: Any) -> None:
    model = Counted()
    first = run(model, loader, layers=LAYERS)
    model.ran = 0
    assert run(model, loader, layers=LAYERS).path == first.path
    assert model.ran == FIRST
    again = run(model, loader, layers=LAYERS, k=2)  # another k clusters the same activations
    assert again.path != first.path
    assert model.ran == 2 * FIRST


def test_fewer_layers_of_a_cache_are_there(run: Collect, loader: Any) -> None:
    model = Counted()
    run(model, loader, layers=LAYERS)
    model.ran = 0
    assert run(model, loader, layers=["inner.pool"]).record.layers == ("inner.pool",)
    assert model.ran == FIRST
    with pytest.raises(CacheError, match=r"required also inner.stem"):
        run(model, loader, layers=["inner.stem"])


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
@pytest.mark.parametrize("known", [True, False])
def test_an_interrupted_call_continues_with_the_same_bytes(
    run: Collect, loader: Any, tmp_path: Path, known: bool, cache_format: str
) -> None:
    def source() -> Any:
        return loader if known else list(loader)

    whole = run(Counted(), source(), layers=LAYERS, out=tmp_path / "whole" / "mine", cache_format=cache_format)
    with pytest.raises(KeyboardInterrupt):
        run(Counted(stops=20 + 60), source(), layers=LAYERS, cache_format=cache_format)  # the first shard is complete
    manifest = require_manifest(whole.cache.parent.parent / "cache" / "mine")
    assert [shard.rows for shard in manifest.shards] == ([40, None, None] if known else [40])
    model = Counted()
    paths = run(model, source(), layers=LAYERS, cache_format=cache_format)
    assert model.ran == FIRST + 50  # the first batch, and the shards that were missing
    np.testing.assert_array_equal(paths.clusters, whole.clusters)
    ours, theirs = content(paths.cache.path), content(whole.cache.path)
    assert {name for name in ours if ours[name] != theirs.get(name)} <= {"manifest.json"}
    assert set(ours) == set(theirs)


def test_a_larger_cache_is_continued_with_all_of_its_layers(run: Collect, loader: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counted(stops=80), loader, layers=LAYERS, reduce="inner.blocks.0=gap")
    run(Counted(), loader, layers=["inner.pool"])
    model = Counted()
    paths = run(model, loader, layers=LAYERS, reduce="inner.blocks.0=gap")
    assert model.ran == FIRST
    assert len(paths.record.layers) == 3


def test_more_examples_are_appended(run: Collect) -> None:
    images = make_images(130)
    model = Counted()
    run(model, loader_of(images[:COUNT]), layers=LAYERS)
    model.ran = 0
    paths = run(model, loader_of(images), layers=LAYERS)
    assert len(paths.ids) == 130
    assert model.ran == FIRST + 50  # examples 80 to 89 are in a batch with new ones
    with pytest.raises(CacheError, match=r"has 90 examples, and .* activations of 130"):
        run(model, loader_of(images[:COUNT]), layers=LAYERS)


@pytest.mark.parametrize("known", [True, False])
def test_other_inputs_are_not_taken_for_these(run: Collect, images: Any, known: bool) -> None:
    run(make_model(), loader_of(images))
    changed = images.clone()
    changed[85] += 0.01
    loader = loader_of(changed)
    with pytest.raises(CacheError, match=r"of example 85 .* its input is another one"):
        run(make_model(), loader if known else list(loader))
    assert len(run(make_model(), loader, refresh=True).ids) == COUNT


def test_a_changed_example_between_those_that_are_read_again_is_found_by_full(run: Collect, monkeypatch: Any) -> None:
    images = make_images(800)
    run(make_model(), loader_of(images))
    images[250] += 0.01
    run(make_model(), loader_of(images))  # eight batches are read again
    with pytest.raises(CacheError, match="of example 250"):
        run(make_model(), loader_of(images), fingerprint="full")


def test_other_labels_are_not_taken_for_these(run: Collect, images: Any) -> None:
    run(make_model(), loader_of(images, torch.arange(COUNT) % CLASSES))
    with pytest.raises(CacheError, match="its label is another one"):
        run(make_model(), loader_of(images, torch.arange(COUNT) % 2))


def test_a_file_that_changed_is_noticed(run: Collect, tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image
    from torchvision.datasets import ImageFolder

    root = write_folder(tmp_path / "photos")
    to_tensor = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])

    def source() -> Any:
        return torch.utils.data.DataLoader(ImageFolder(root, to_tensor), batch_size=2)

    run(make_model(), source())
    Image.new("RGB", (24, 20)).save(root / "dark" / "017.png")
    with pytest.raises(CacheError, match=r"dark/017.png\) its file was changed"):
        run(make_model(), source())


def test_another_model_is_not_taken_for_this(run: Collect, loader: Any) -> None:
    run(make_model(), loader)
    other = make_model()
    with torch.no_grad():
        other.head.bias[0] += 1
    with pytest.raises(CacheError, match="model: stored Small"):
        run(other, loader)
    structure = make_model()
    structure.blocks[0].relu = torch.nn.GELU()  # the same weights
    with pytest.raises(CacheError, match="model: stored Small"):
        run(structure, loader)


def test_a_forward_that_changed_is_noticed(run: Collect, loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counted()
    run(model, loader, layers=LAYERS)
    forward = Counted.forward
    monkeypatch.setattr(Counted, "forward", lambda self, x: forward(self, x.flip(1)))  # the same weights and modules
    with pytest.raises(CacheError, match=r"computes other activations .* layer inner.blocks.0"):
        run(model, loader, layers=LAYERS)


def test_a_random_transform_is_said(run: Collect, images: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Random(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, at: int) -> Any:
            return images[at] + 0.1 * torch.rand(())

    loader = torch.utils.data.DataLoader(Random(), batch_size=20)
    run(make_model(), loader)
    assert "other inputs each time" in caplog.text
    with pytest.raises(CacheError, match="random transform"):
        run(make_model(), loader)


def test_values_that_float16_cannot_hold_are_stored_as_float32(run: Collect, loader: Any) -> None:
    model = make_model()
    with torch.no_grad():
        model.blocks[1].conv2.weight.mul_(1e9)
    paths = run(model, loader)
    dtypes = paths.stored_dtypes()[0]
    assert (dtypes["blocks.0"], dtypes["blocks.1"]) == ("float16", "float32")
    assert len(paths.ids) == COUNT


def test_a_generator_is_read_once(run: Collect, loader: Any, tmp_path: Path) -> None:
    def batches() -> Iterator[Any]:
        yield from loader

    paths = run(make_model(), batches())
    assert len(paths.ids) == COUNT
    model = make_model()
    with torch.no_grad():
        model.blocks[1].conv2.weight.mul_(1e9)
    with pytest.raises(ExtractionError, match="cannot be read a second time"):
        run(model, batches(), out=tmp_path / "other")


def test_a_damaged_shard_is_collected_again(run: Collect, loader: Any) -> None:
    model = Counted()
    first = run(model, loader, layers=LAYERS)
    file = first.cache.path / "inner.pool" / "85.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    model.ran = 0
    paths = run(model, loader, layers=LAYERS, k=2)
    assert model.ran == 2 * FIRST + 10  # the first batch twice, and the shard of examples 80 to 89
    assert file.read_bytes() != damaged
    assert len(paths.ids) == COUNT


def test_workers_read_the_rest_in_the_same_order(run: Collect, images: Any) -> None:
    # a forked worker of a process with threads, as this one, may fail
    loader = loader_of(images, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(KeyboardInterrupt):
        run(Counted(stops=80), loader, layers=LAYERS)
    paths = run(Counted(), loader, layers=LAYERS)
    with torch.no_grad():
        np.testing.assert_array_equal(paths.predictions, make_model()(images).argmax(1).numpy())
