"""Runs over data sets of every kind: folders of classes, torchvision's, arrays; reduced layers; images that changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import CacheError
from clusterpaths.explanation.explain import explain_image
from clusterpaths.export.path_model import export_path_model
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import SetRecord
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.cifar10 import CLASSES, write_cifar10
from tests.runs import SAMPLE_MODEL, published, run_pipeline


def succeed(**options: Any) -> tuple[Path, SetRecord, list[str]]:
    """The set's folder and record, and what was logged."""
    defaults: dict[str, Any] = {"dataset": "folder", "check_preprocessing": False, "evaluate": False}
    run = run_pipeline(RunConfig(**defaults | options))
    return run.folder, published(run), run.log


@pytest.fixture(scope="module")
def by_class(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawn faces, one folder a hair colour, as torchvision's ImageFolder wants them."""
    root = tmp_path_factory.mktemp("by_class")
    table = open_celeba(photos.parent).examples()
    for file, label in list(zip(table.files, table.labels.tolist(), strict=True))[:60]:
        folder = root / table.class_names[label]
        folder.mkdir(exist_ok=True)
        shutil.copy2(photos / file, folder / file)
    return root


def test_a_folder_of_classes_through_a_model_gives_a_set_and_resumes(by_class: Path, tmp_path: Path) -> None:
    options = {"model": SAMPLE_MODEL, "data_root": by_class, "cache_root": tmp_path, "layers": "conv*,fc1", "k": 3}
    path, record, _ = succeed(**options)
    assert path.parent.name == f"SampleFaces_CNN-{by_class.name}"
    assert (record.dataset, record.num_examples, record.layers) == ("folder", 60, ("conv1", "conv2", "conv3", "fc1"))
    assert record.class_names == ("Bald", "Black", "Blond", "Brown", "Gray")
    assert record.purity_labels is not None
    assert len(record.dataset_fingerprint) == 64
    assert (path / "report.html").is_file()
    again, _, log = succeed(**options)
    assert again == path
    assert any("already has this result" in line for line in log)


def test_cifar10_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_cifar10(root, monkeypatch)
    path, record, _ = succeed(
        dataset="torchvision:CIFAR10", model=SAMPLE_MODEL, data_root=root, cache_root=tmp_path, layers="fc1", k=2
    )
    assert path.parent.name == "SampleFaces_CNN-CIFAR10"
    assert (record.num_examples, record.dataset) == (36, "torchvision:CIFAR10")
    assert record.label_names == tuple(CLASSES)
    assert record.class_names == ("Bald", "Black", "Blond", "Brown", "Gray")  # the model's own: it knows no frogs
    assert set(pq.read_table(path / "paths.parquet")["split"].to_pylist()) == {"train", "test"}


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "digits.npz", images=rng.integers(0, 256, (12, 20, 20, 3), dtype=np.uint8), labels=np.arange(12) % 3
    )
    path, record, _ = succeed(
        dataset="arrays",
        model=SAMPLE_MODEL,
        data_root=tmp_path / "digits.npz",
        cache_root=tmp_path / "c",
        layers="fc1",
        k=2,
    )
    assert path.parent.name == "SampleFaces_CNN-digits.npz"
    assert record.num_examples == 12


def test_reduced_layers_are_part_of_what_a_cache_is(by_class: Path, tmp_path: Path) -> None:
    options = {"model": SAMPLE_MODEL, "data_root": by_class, "cache_root": tmp_path, "layers": "conv3", "k": 2}
    path, _, log = succeed(**options, reduce="conv3=gap")
    manifest = read_manifest(open_storage(path.parent))
    assert manifest is not None
    assert manifest.layers["conv3"].shape == (64,)
    assert manifest.providers == ("CPUExecutionProvider",)
    assert any("conv3 64 (gap of 64x16x16)" in line for line in log)
    with pytest.raises(CacheError, match="layer conv3"):
        succeed(**options, reduce="conv3=max")


def test_a_reduced_layer_is_reduced_in_the_path_model_and_when_one_image_is_explained(
    by_class: Path, tmp_path: Path
) -> None:
    options = {"model": SAMPLE_MODEL, "data_root": by_class, "cache_root": tmp_path / "c", "layers": "relu_1,conv3"}
    path, record, _ = succeed(**options, k=3, reduce="conv3=gap")
    assert record.tensors["conv3"].endswith("|gap")
    exported = export_path_model(open_set(path), SAMPLE_MODEL, tmp_path / "paths.onnx")
    rows = pq.read_table(path / "paths.parquet")
    table = np.column_stack([rows[layer].to_numpy() for layer in record.layers])
    pixels = [fit(open_rgb(by_class / file), record.preprocessing) for file in rows["file"].to_pylist()]
    images = normalise(np.stack(pixels), record.preprocessing)
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    _, found, distances, _ = session.run(None, {exported.input: images})
    assert np.array_equal(found, table)
    stored = np.column_stack([rows[f"distance.{layer}"].to_numpy() for layer in record.layers])
    np.testing.assert_allclose(distances, stored, atol=1e-3)
    one = explain_image(by_class / rows["file"][7].as_py(), open_set(path), SAMPLE_MODEL)
    assert list(one.path) == table[7].tolist()


def test_a_cache_of_more_layers_stays_whole_when_images_come(by_class: Path, tmp_path: Path) -> None:
    options = {"model": SAMPLE_MODEL, "data_root": by_class, "cache_root": tmp_path, "k": 2, "reduce": "conv3=gap"}
    succeed(**options, layers="conv3,fc1", subset=20)
    path, record, _ = succeed(**options | {"reduce": "auto"}, layers="fc1", subset=30)
    assert (record.layers, record.num_examples) == (("fc1",), 30)
    again, both, _ = succeed(**options, layers="conv3,fc1", subset=30)
    assert both.num_examples == 30
    manifest = read_manifest(open_storage(again.parent))
    assert manifest is not None
    assert {layer: kept.shape for layer, kept in manifest.layers.items()} == {"conv3": (64,), "fc1": (128,)}
    assert again != path


@pytest.mark.parametrize("fingerprint", ["quick", "full"])
def test_an_image_of_another_content_and_the_same_size_is_noticed(
    fingerprint: str, by_class: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(by_class, photos)
    options = {"model": SAMPLE_MODEL, "data_root": photos, "cache_root": tmp_path, "layers": "fc1", "k": 2}
    before_path, _, _ = succeed(**options)
    image = sorted(photos.rglob("*.jpg"))[3]
    before = image.stat()
    content = bytearray(image.read_bytes())
    content[-10] ^= 0xFF
    image.write_bytes(content)
    if fingerprint == "full":  # even where the time says nothing
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    path, _, log = succeed(**options, fingerprint=fingerprint)
    assert any("60 examples (59 in the cache, 1 to extract" in line for line in log)
    first, second = open_set(before_path), open_set(path)
    name = image.relative_to(photos).as_posix()
    assert set(second.ids.tolist()) - set(first.ids.tolist()) == {60}
    assert second.files.to_pylist()[-1] == name


def test_a_copy_with_other_times_is_the_same_data(by_class: Path, tmp_path: Path) -> None:
    options = {"model": SAMPLE_MODEL, "cache_root": tmp_path / "c", "name": "photos", "layers": "fc1", "k": 2}
    first, _, _ = succeed(**options, data_root=by_class)
    copy = tmp_path / "copy"
    shutil.copytree(by_class, copy, copy_function=shutil.copyfile)
    again, _, _ = succeed(**options, data_root=copy)
    assert again == first


def test_a_model_that_does_not_say_takes_the_default_with_a_warning(by_class: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(SAMPLE_MODEL))
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "bare.onnx"))
    options = {"data_root": by_class, "cache_root": tmp_path, "subset": 5, "layers": "fc1", "k": 2}
    _, _, log = succeed(**options, model=tmp_path / "bare.onnx")
    assert any(line.startswith("WARNING Preprocessing imagenet, 64x64 bilinear, from the default") for line in log)
    _, _, log = succeed(**options, model=SAMPLE_MODEL)
    assert not any(line.startswith("WARNING") for line in log)


def test_pictures_of_another_kind_are_turned_upright(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((30, 40), number * 40, np.uint8)).save(folder / f"{number}.png")
    _, record, _ = succeed(model=SAMPLE_MODEL, data_root=folder, cache_root=tmp_path / "c", layers="fc1", k=2)
    assert (record.num_examples, record.num_failed) == (6, 0)
