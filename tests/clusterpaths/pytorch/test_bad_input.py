"""What cannot be collected is refused in one paragraph that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusterpaths.errors import ConfigError, DatasetError, ExtractionError, InputError, ModelError
from clusterpaths.pytorch.collect import collect
from tests.clusterpaths.pytorch.conftest import CLASSES, COUNT, Collect, loader_of, make_images, make_model

torch = pytest.importorskip("torch")


class Odd(torch.nn.Module):  # type: ignore[misc]
    """Modules that cannot be layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.twice = torch.nn.ReLU()
        self.unused = torch.nn.Linear(2, 2)
        self.words = Words()
        self.sequence = Transposed()
        self.sized = Sized()

    def forward(self, x: Any) -> Any:
        self.words(x)
        self.sequence(x)
        self.sized(x)
        return self.inner(self.twice(self.twice(x)))


class Words(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> str:  # noqa: ARG002
        return "no tensor"


class Transposed(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x.flatten(2).permute(2, 0, 1)


class Sized(torch.nn.Module):  # type: ignore[misc]
    """As many columns as the first example's brightest pixel says."""

    def forward(self, x: Any) -> Any:
        return x.flatten(1)[:, : 3 + int(x[0, 0, 0, 0] > 0.5)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["inner.blocks.O"], r"no module 'inner.blocks.O'.* Nearest: .*inner.blocks.0"),
        (["layer*"], r"matches the pattern 'layer\*'.*between dots"),
        (["unused"], "unused was not reached"),
        (["twice"], "called 2 times in one pass"),
        (["words"], "its output is a str without a tensor"),
        (["sequence"], r"shape \(256, 20, 3\) for 20 examples.*batch_first=False"),
        (["auto:0"], "number N of layers >= 1"),
        ([], "layers should name at least one"),
    ],
)
def test_layers(run: Collect, loader: Any, layers: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(Odd(), loader, layers=layers)


def test_a_pattern_leaves_out_what_cannot_be_a_layer(
    run: Collect, loader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    paths = run(Odd(), loader, layers=["*"])
    assert set(paths.record.layers) == {"inner", "sized"}
    assert "leaves out 4 modules" in caplog.text


def test_a_shape_that_changes(run: Collect) -> None:
    images = make_images()
    images[:, 0, 0, 0] = 0
    images[40, 0, 0, 0] = 1
    with pytest.raises(ModelError, match=r"(?s)Layer sized outputs shape \(4,\) per example of this batch, and \(3,\)"):
        run(Odd(), loader_of(images), layers=["sized"])


def test_a_batch_without_the_layer(run: Collect, loader: Any) -> None:
    class Skips(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.extra = make_model(), torch.nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.inner(self.extra(x) if len(x) == 20 else x)

    with pytest.raises(ModelError, match="Layer extra was not reached for this batch"):
        run(Skips(), loader, layers=["extra"])


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "Layer blocks.0 outputs values that are not finite"), (float("inf"), "not finite")],
)
def test_values_that_are_not_finite(run: Collect, value: float, message: str) -> None:
    images = make_images()
    images[33, 1, 2, 2] = value
    with pytest.raises(ExtractionError, match=rf"(?s){message}.*example 33 \(number 33 of the loader\)"):
        run(make_model(), loader_of(images))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "The loader is empty"),
        ([["a", "b"]], "gives batches of list of str, str"),
        ([{"labels": torch.zeros(2)}], "gives batches of dict of labels"),
        ([{"x": torch.zeros(2, 3), "y2": torch.zeros(3, 3)}], "differ in their rows: x 2, y2 3"),
        ("photos/", "The loader is a str"),
        (3, "The loader is a int"),
    ],
)
def test_loaders(run: Collect, batches: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        run(make_model(), batches)


def test_a_loader_of_an_empty_data_set(run: Collect) -> None:
    with pytest.raises(DatasetError, match="The loader is empty"):
        run(make_model(), loader_of(torch.zeros(0, 3, 16, 16)))


@pytest.mark.parametrize("sampler", ["shuffle", "weighted", "own"])
def test_a_loader_that_shuffles(run: Collect, images: Any, sampler: str) -> None:
    data = torch.utils.data

    class Own(data.Sampler):  # type: ignore[misc]
        def __iter__(self) -> Any:
            return iter(torch.randperm(COUNT).tolist())

        def __len__(self) -> int:
            return COUNT

    options = {
        "shuffle": {"shuffle": True},
        "weighted": {"sampler": data.WeightedRandomSampler(torch.ones(COUNT), COUNT)},
        "own": {"sampler": Own()},
    }[sampler]
    with pytest.raises(DatasetError, match="The loader shuffles"):
        run(make_model(), loader_of(images, **options))


def test_a_loader_that_leaves_out_the_last_examples(
    run: Collect, images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(run(make_model(), loader_of(images, drop_last=True)).ids) == 80
    assert "leaves out the last 10 examples" in caplog.text


def test_a_collate_that_leaves_some_out(run: Collect, images: Any) -> None:
    loader = loader_of(images, collate_fn=lambda rows: torch.stack([row[0] for row in rows][1:]))
    with pytest.raises(DatasetError, match="19 examples where the loader's sampler names 20"):
        run(make_model(), loader)


def test_labels_that_are_none(run: Collect, images: Any, caplog: pytest.LogCaptureFixture) -> None:
    paths = run(make_model(), loader_of(images, torch.rand(COUNT)))
    assert (paths.labels == -1).all()
    assert caplog.text.count("is not used: labels are one whole number per example") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "b"]}, "2 names and the output 'logits' has 4 classes"),
        ({"output_kind": "binary-logit"}, "has 4 values per example"),
        ({"reduce": "pool=cls"}, "pool cannot be reduced by cls"),
        ({"reduce": "pools=mean"}, "names the layer 'pools'"),
        ({"k": {"pools": 3}}, "--k names pools"),
        ({"kk": 3}, r"collect\(\) has no option 'kk'. Nearest: k"),
        ({"k": 0}, r"collect\(\) cannot use these options: k"),
        ({"cache_format": "none"}, "cache_format should be npy or zarr"),
        ({"out": "s3://bucket/mine"}, "out should be a directory on this machine"),
        ({"preprocessing": "imagnet"}, "none of the presets imagenet"),
        ({"preprocessing": {"mean": 3}}, "preprocessing cannot be used"),
        ({"k": 91}, "90 examples cannot make 91 clusters"),
    ],
)
def test_options(run: Collect, loader: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(make_model(), loader, **options)


def test_a_model_without_values(run: Collect, loader: Any) -> None:
    with pytest.raises(ModelError, match="on the meta device"):
        run(make_model().to("meta"), loader)


def test_something_that_is_no_model(run: Collect, loader: Any) -> None:
    with pytest.raises(ConfigError, match=r"The model is a str, expected a torch.nn.Module.*clusterpaths.run"):
        run("resnet18.onnx", loader)


def test_a_directory_of_a_run(loader: Any, tmp_path: Path) -> None:
    import numpy as np

    from clusterpaths.activations.run import from_activations
    from clusterpaths.errors import CacheError

    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    from_activations({"conv1": rows}, name="mine", cache_root=str(tmp_path), k=2, evaluate=False)
    with pytest.raises(CacheError, match=r"data set: stored activations, required collected"):
        collect(make_model(), loader, layers=["pool"], out=tmp_path / "mine")


def test_what_needs_a_file_says_so(run: Collect, loader: Any) -> None:
    from clusterpaths.errors import CacheError
    from clusterpaths.explanation.uploaded import Explainer
    from clusterpaths.sets.find import set_config
    from clusterpaths.sets.places import find_model

    paths = run(make_model(), loader)
    with pytest.raises(ConfigError, match=r"clusterpaths.export_onnx"):
        find_model(paths, None)
    with pytest.raises(CacheError, match=r"clusterpaths.collect with the settings that you want"):
        set_config(paths)
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    with pytest.raises(ModelError, match=r"clusterpaths.export_onnx"):
        Explainer().explain(paths.index, file.getvalue(), "a.png")
    assert paths.record.outputs.classes == CLASSES
