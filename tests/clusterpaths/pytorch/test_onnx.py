"""The exported file and the live model: the same layers, the same activations, the same paths but for near ties."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import clusterpaths as cp
from clusterpaths.comparison.compare import compare_sets
from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.export.path_model import export_path_model
from clusterpaths.pytorch.collect import collect
from clusterpaths.pytorch.export import ExportedModel, export_onnx
from tests.architectures import SIZES, build
from tests.clusterpaths.pytorch.conftest import SIZE, Collect, loader_of, make_images, make_model, write_folder
from tests.clusterpaths.pytorch.test_collect import stored

torch = pytest.importorskip("torch")
transforms = pytest.importorskip("torchvision.transforms")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def celeba_cnn() -> Any:
    """CelebA's CNN: three convolutions and three dense layers; activations are modules, so that they can be tapped."""
    torch.manual_seed(0)
    nn = torch.nn

    class CelebA(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.conv3 = (
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, 16), (16, 32), (32, 64))
            )
            self.pool = nn.MaxPool2d(2)
            self.fc1 = nn.Sequential(nn.Linear(64 * 8 * 8, 128), nn.ReLU())
            self.fc2 = nn.Sequential(nn.Linear(128, 64), nn.ReLU())
            self.fc3 = nn.Linear(64, 5)

        def forward(self, x: Any) -> Any:
            x = self.pool(self.conv3(self.pool(self.conv2(self.pool(self.conv1(x))))))
            return self.fc3(self.fc2(self.fc1(x.flatten(1))))

    return CelebA().eval()


MODELS = {
    "resnet18": (lambda: build("resnet18"), ["layer*", "avgpool"]),
    "vit": (lambda: build("vit"), ["encoder.layers.*", "heads.head:input"]),
    "celeba": (celeba_cnn, ["conv*", "fc1", "fc2"]),
}


def folder_of(root: Path, size: int) -> Any:
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return ImageFolder(root, transforms.Compose(steps))


def write_classes(root: Path, count: int = 240) -> Path:
    """root/CLASS/NUMBER.png of four classes: a pattern of four colours each, and noise."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 256, (4, 2, 2, 3))
    for number in range(count):
        kind = number % 4
        (root / f"class{kind}").mkdir(parents=True, exist_ok=True)
        pixels = patterns[kind].repeat(35, 0).repeat(40, 1) + rng.integers(-30, 31, (70, 80, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"class{kind}" / f"{number:03d}.png")
    return root


@pytest.mark.parametrize("name", MODELS)
def test_activations_and_paths_equal_the_onnx_routes(
    name: str, tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make, layers = MODELS[name]
    model, size = make(), SIZES.get(name, 64)
    root = write_classes(tmp_path / "photos")
    loader = torch.utils.data.DataLoader(folder_of(root, size), batch_size=32)
    options: dict[str, Any] = {"k": 4, "evaluate": False, "cache_dtype": "float32"}
    live = collect(model, loader, layers=layers, out=tmp_path / "live", **options)

    x = next(iter(loader))[0][:4]
    exported = export_onnx(model, x, tmp_path / "model.onnx", layers=layers, preprocessing=live.record.preprocessing)
    assert exported.difference < 1e-4
    file = cp.run(model=exported, data=root, cache_root=tmp_path / "file", name="file", **options)

    assert file.record.layers == live.record.layers == exported.layers
    assert file.files.to_pylist() == live.files.to_pylist()
    for layer in live.record.layers:
        ours, theirs = stored(live, layer), stored(file, layer)
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max(), err_msg=layer)
    np.testing.assert_array_equal(live.predictions, file.predictions)
    assert compare_sets(live, file).num_examples == len(live.ids)  # files are the same by their content
    differ = (live.clusters != file.clusters).any(axis=1)
    with capsys.disabled():
        print(f"\n{name}: {int(differ.sum())} of {len(differ)} paths differ between collect and the ONNX route")
    assert differ.mean() <= 0.02
    for example in np.flatnonzero(differ):  # a near tie: the other's centroid is as near
        for at, layer in enumerate(live.record.layers):
            if live.clusters[example, at] != file.clusters[example, at]:
                row = stored(live, layer)[example]
                centroids = live.read_centroids()[layer]
                cosines = centroids @ row / np.linalg.norm(centroids, axis=1) / np.linalg.norm(row)
                mine, other = cosines[live.clusters[example, at]], cosines[file.clusters[example, at]]
                assert mine - other < 1e-4


def test_run_taps_the_exported_layers_and_no_others(tmp_path: Path) -> None:
    model = make_model()
    exported = cp.export_onnx(
        model, make_images()[:4], tmp_path / "m.onnx", layers=["blocks.0", "blocks.1.norm", "pool"], class_names="abcd",
        preprocessing="unit",
    )  # fmt: skip
    root = write_folder(tmp_path / "photos", 60)
    paths = cp.run(model=exported, data=root, cache_root=tmp_path / "cache", k=3, evaluate=False)
    assert paths.record.layers == ("blocks.0", "blocks.1.norm", "pool")
    assert paths.record.tensors == {layer: layer for layer in paths.record.layers}
    assert paths.record.outputs.class_names == ("a", "b", "c", "d")
    assert (paths.record.preprocessing.name, paths.record.preprocessing.size) == ("unit", (SIZE, SIZE))
    other = cp.run(
        model=exported, data=root, cache_root=tmp_path / "cache", name="other", k=3, evaluate=False, layers="auto:2"
    )
    assert other.record.layers == ("blocks.1", "pool")  # any other layer of the graph can be named


def test_the_file_is_an_onnx_model_of_any_batch_without_traces(tmp_path: Path) -> None:
    exported = export_onnx(make_model(), make_images()[:2], tmp_path / "sub" / "m.onnx", layers=["pool"])
    assert os.fspath(exported) == str(tmp_path / "sub" / "m.onnx")
    assert "equal torch's on 2 examples" in repr(exported)
    proto = onnx.load(str(exported.path))
    assert [output.name for output in proto.graph.output] == ["logits", "pool"]
    assert str(Path.cwd()) not in str(proto)
    assert {entry.key for entry in proto.metadata_props} == {"clusterpaths.layers", "clusterpaths.torch"}
    assert json.loads(proto.metadata_props[0].value) == {"pool": "pool"}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    images = make_images(7)
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(["logits"], {"input": images.numpy()})[0], make_model()(images), atol=1e-5
        )


def test_a_value_that_is_computed_in_place_later_is_exported_as_it_was(tmp_path: Path) -> None:
    exported = export_onnx(make_model(), make_images()[:2], tmp_path / "m.onnx", layers=["blocks.0.norm"])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (values,) = session.run(["blocks.0.norm"], {"input": make_images(5).numpy()})
    assert values.min() < 0  # before the ReLU


def test_a_collected_set_is_explained_and_exported_with_the_file(run: Collect, tmp_path: Path) -> None:
    model, images = make_model(), make_images()
    paths = run(model, loader_of(images))
    exported = export_onnx(model, images[:4], tmp_path / "m.onnx", layers=["blocks.*", "pool"])
    picture = Image.fromarray((images[8].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    from_file, live = paths.explain(picture, model=exported), paths.explain(picture)
    assert from_file.path == live.path == tuple(paths.clusters[8].tolist())
    assert from_file.prediction.index == live.prediction.index
    record = export_path_model(paths, exported.path, tmp_path / "paths.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(record.path, providers=["CPUExecutionProvider"])
    (computed,) = session.run(["path"], {"input": images.numpy()})
    assert (computed != paths.clusters).any(axis=1).mean() <= 0.02


def test_another_models_file_does_not_explain_a_set(run: Collect, tmp_path: Path) -> None:
    paths = run(make_model(), loader_of(make_images()))
    other = export_onnx(make_model(1), make_images()[:4], tmp_path / "m.onnx", layers=["blocks.*", "pool"])
    with pytest.raises(ModelError, match="is not the model of this set"):
        paths.explain(Image.new("RGB", (SIZE, SIZE)), model=other)


def test_models_that_take_and_give_dicts(tmp_path: Path) -> None:
    from tests.clusterpaths.pytorch.test_collect import TakesWords

    exported = export_onnx(
        TakesWords(), {"pixel_values": make_images()[:3], "labels": torch.zeros(3)}, tmp_path / "m.onnx",
        layers=["inner.pool"],
    )  # fmt: skip
    proto = onnx.load(str(exported.path))
    assert [one.name for one in proto.graph.input] == ["pixel_values"]
    assert [one.name for one in proto.graph.output] == ["logits", "inner.pool"]


def test_the_models_own_mode_and_hooks_are_restored(tmp_path: Path) -> None:
    model = make_model().train()
    export_onnx(model, make_images()[:2], tmp_path / "m.onnx")
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (lambda: make_images()[:1], {}, "at least two images"),
        (lambda: torch.zeros(2, 5), {}, "at least two images"),
        (lambda: make_images()[:2], {"layers": ["pooI"]}, r"no module 'pooI'.* Nearest: pool"),
        (lambda: make_images()[:2], {"class_names": ["a"]}, "1 names and the output 'logits' has 4 classes"),
        (lambda: make_images()[:2], {"preprocessing": 3}, "preprocessing cannot be used"),
    ],
)
def test_bad_input(tmp_path: Path, example: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=message):
        export_onnx(make_model(), example(), tmp_path / "m.onnx", **options)
    assert not (tmp_path / "m.onnx").exists()


def test_what_the_exporter_cannot_convert_is_said(tmp_path: Path) -> None:
    class Data(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, x: Any) -> Any:
            return self.inner(x) if x.sum().item() > 0 else self.inner(-x)

    with pytest.raises(ModelError, match=r"exporter cannot convert Data to ONNX: .*clusterpaths.collect"):
        export_onnx(Data(), make_images()[:2], tmp_path / "m.onnx", layers=["inner.pool"])


def test_metadata_that_names_no_tensor(tmp_path: Path) -> None:
    from clusterpaths.models.check import check_model

    exported = export_onnx(make_model(), make_images()[:2], tmp_path / "m.onnx", layers=["pool"])
    proto = onnx.load(str(exported.path))
    for text in ('{"pool": "gone"}', "[1]", "{"):
        proto.metadata_props[0].value = text
        onnx.save(proto, str(tmp_path / "other.onnx"))
        with pytest.raises(ModelError, match=r"metadata entry 'clusterpaths.layers', which cannot be used"):
            check_model(tmp_path / "other.onnx")


def test_a_configuration_takes_the_exported_model() -> None:
    model = ExportedModel(Path("m.onnx"), ("pool",), "logits", 0.0, 2)
    assert RunConfig(model=os.fspath(model), dataset="folder").model == Path("m.onnx")


@pytest.mark.parametrize("name", ["celeba", "vit"])
def test_interventions_in_the_live_model_give_what_they_give_in_the_file(name: str, tmp_path: Path) -> None:
    make, layers = MODELS[name]
    model, size = make(), SIZES.get(name, 64)
    root = write_classes(tmp_path / "photos", 160)
    loader = torch.utils.data.DataLoader(folder_of(root, size), batch_size=32)
    options: dict[str, Any] = {"k": 4, "cache_dtype": "float32"}
    layers = layers if name == "celeba" else ["encoder.layers.encoder_layer_1*", "heads.head:input"]
    if name == "celeba":  # random weights decide on one class for all
        with torch.no_grad():
            model.fc3.bias -= torch.cat([model(x) for x, _ in loader]).mean(0)
    live = collect(model, loader, layers=layers, out=tmp_path / "live", **options)
    first = next(iter(loader))[0][:4]
    exported = export_onnx(model, first, tmp_path / "m.onnx", layers=layers, preprocessing=live.record.preprocessing)
    file = cp.run(model=exported, data=root, cache_root=tmp_path / "file", name="file", **options)

    ours, theirs = read_evaluation(live), read_evaluation(file)
    assert ours is not None
    assert theirs is not None
    assert [one.layer for one in ours.steering] == [one.layer for one in theirs.steering] == list(live.record.layers)
    for one, other in zip(ours.steering, theirs.steering, strict=True):
        for what in ("steered", "random", "patched", "before", "changed"):
            assert getattr(one, what).value == pytest.approx(getattr(other, what).value, abs=0.04), (one.layer, what)
    for kept, also in zip(ours.necessity, theirs.necessity, strict=True):
        assert kept.cluster.value == pytest.approx(also.cluster.value, abs=0.04)
        assert kept.onwards.value == pytest.approx(also.onwards.value, abs=0.04)
    picture = next(root.rglob("*.png"))
    found, again = live.explain(picture).counterfactual, file.explain(picture).counterfactual
    assert (found is None) == (again is None)
    if found is not None and again is not None:
        assert [one.layer for one in found.changes] == [one.layer for one in again.changes]
        assert [one.amount for one in found.changes] == pytest.approx([one.amount for one in again.changes], abs=0.02)
