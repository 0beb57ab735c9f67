"""collect: what is in the cache is what the modules output; everything that works on a set works on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.rows import LayerRows
from clusterpaths.errors import CacheError, ConfigError, ModelError
from clusterpaths.sets.place import Placer
from clusterpaths.sets.published import PublishedSet
from tests.clusterpaths.pytorch.conftest import (
    CLASSES,
    COUNT,
    SIZE,
    Collect,
    loader_of,
    make_images,
    make_model,
    write_folder,
)

torch = pytest.importorskip("torch")


def stored(published: PublishedSet, layer: str) -> Any:
    """(n, values) of the cache, float32."""
    rows = LayerRows(published.cache, layer, published.ids)
    return np.concatenate([np.asarray(block[1], np.float32).reshape(len(block[1]), -1) for block in rows.blocks()])


def outputs_of(module: Any, model: Any, images: Any) -> Any:
    """(n, values) that a module outputs for all images at once."""
    kept: list[Any] = []
    handle = module.register_forward_hook(lambda module, args, output: kept.append(output.clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return kept[0].flatten(1).numpy()


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_the_cache_has_what_the_modules_output(
    run: Collect, model: Any, loader: Any, images: Any, cache_format: str
) -> None:
    paths = run(model, loader, cache_format=cache_format, cache_dtype="float32")
    assert paths.record.layers == ("blocks.0", "blocks.1", "pool")
    for layer in paths.record.layers:
        expected = outputs_of(model.get_submodule(layer), model, images)
        np.testing.assert_allclose(stored(paths, layer), expected, atol=1e-5)


def test_what_is_collected_has_maps_that_place_its_own_activations(run: Collect, model: Any, loader: Any) -> None:
    paths = run(model, loader, cache_dtype="float32")
    assert paths.maps
    for layer in paths.record.layers:
        found, placed = paths.maps.layer(layer), Placer(paths).place(stored(paths, layer), layer)
        np.testing.assert_array_equal(placed.points, found.points)
        np.testing.assert_array_equal(placed.residuals, found.residuals)


def test_float16_is_rounded_and_not_more(run: Collect, model: Any, loader: Any, images: Any) -> None:
    paths = run(model, loader)
    expected = outputs_of(model.pool, model, images)
    np.testing.assert_allclose(stored(paths, "pool"), expected, rtol=1e-3, atol=1e-6)
    assert paths.stored_dtypes()[0]["pool"] == "float16"


def test_a_value_that_is_computed_in_place_later_is_stored_as_it_was(
    run: Collect, model: Any, loader: Any, images: Any
) -> None:
    # Block.norm's output becomes relu's, in place
    paths = run(model, loader, layers=["blocks.0.norm"], cache_dtype="float32")
    model.blocks[0].relu = torch.nn.ReLU()
    expected = outputs_of(model.blocks[0].norm, model, images)
    assert expected.min() < 0
    np.testing.assert_allclose(stored(paths, "blocks.0.norm"), expected, atol=1e-5)


def test_predictions_labels_and_logits_are_kept(run: Collect, model: Any, loader: Any, images: Any) -> None:
    paths = run(model, loader)
    with torch.no_grad():
        logits = model(images)
    np.testing.assert_array_equal(paths.predictions, logits.argmax(1).numpy())
    np.testing.assert_array_equal(paths.labels, np.arange(COUNT) % CLASSES)
    frame = paths.to_frame("pyarrow")
    confidence = torch.softmax(logits.double(), 1).max(1).values
    np.testing.assert_allclose(frame["confidence"].to_numpy(), confidence, atol=1e-4)


def test_a_model_in_training_mode_is_run_in_evaluation_mode_and_restored(
    run: Collect, model: Any, loader: Any, images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = outputs_of(model.pool, model, images)
    model.train()
    model.blocks[1].eval()  # each module has a mode of its own
    before = {name: module.training for name, module in model.named_modules()}
    mean = model.blocks[0].norm.running_mean.clone()
    paths = run(model, loader)
    np.testing.assert_allclose(stored(paths, "pool"), expected, rtol=1e-3, atol=1e-6)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.blocks[0].norm.running_mean, mean)
    assert "training mode" in caplog.text


def test_no_hook_is_left(run: Collect, model: Any, loader: Any) -> None:
    run(model, loader)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_set_is_evaluated_and_explained_through_the_live_model(run: Collect, model: Any) -> None:
    from PIL import Image

    images = make_images(200)
    paths = run(model, loader_of(images, torch.arange(200) % CLASSES), evaluate=True)
    assert paths.metrics.num_images > 0
    assert {one.name for one in paths.metrics.perturbations} >= {"flip", "noise 0.02"}
    assert paths.metrics.strangers
    pixels = (images[5].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    found = paths.explain(Image.fromarray(pixels))
    assert found.path == tuple(paths.clusters[5].tolist())
    assert found.prediction.index == paths.predictions[5]


def test_the_report_the_page_and_exemplars_show_the_tensors(run: Collect, model: Any, loader: Any, images: Any) -> None:
    paths = run(model, loader)
    assert paths.report().is_file()
    assert "<svg" in paths._repr_html_()
    from clusterpaths.sets.images import find_images

    picture = find_images(paths, None)(paths.files[7].as_py())
    np.testing.assert_array_equal(np.asarray(picture), (images[7].permute(1, 2, 0) * 255).round().numpy())


def test_images_are_not_stored_unless_wanted(run: Collect, model: Any, loader: Any) -> None:
    paths = run(model, loader, images=False)
    assert not (paths.cache.path / "shown").exists()
    assert paths.report().is_file()


def test_a_model_that_was_trained_since_explains_nothing(run: Collect, model: Any, loader: Any) -> None:
    from PIL import Image

    paths = run(model, loader)
    picture = Image.new("RGB", (SIZE, SIZE))
    paths.explain(picture)
    with torch.no_grad():
        model.head.weight.mul_(1.1)
    with pytest.raises(ModelError, match="no longer those that were collected"):
        paths.explain(picture)


def test_a_model_that_is_gone_explains_nothing_and_takes_no_memory(run: Collect, loader: Any) -> None:
    import gc
    import weakref

    from PIL import Image

    model = make_model(7)
    there = weakref.ref(model)
    paths = run(model, loader)
    del model
    gc.collect()
    assert there() is None
    with pytest.raises(ModelError, match="not in this process"):
        paths.explain(Image.new("RGB", (SIZE, SIZE)))


def test_a_copy_that_is_gone_does_not_take_the_model_along(run: Collect, model: Any, loader: Any) -> None:
    import gc

    from PIL import Image

    copy = make_model()  # the same weights
    run(copy, loader)
    paths = run(model, loader)
    del copy
    gc.collect()
    assert paths.explain(Image.new("RGB", (SIZE, SIZE))).path


def test_files_are_shown_and_tell_how_images_are_prepared(run: Collect, model: Any, tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize(18), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    folder = ImageFolder(
        write_folder(tmp_path / "photos"), transforms.Compose([*steps, transforms.Normalize(mean, std)])
    )
    paths = run(model, torch.utils.data.DataLoader(folder, batch_size=16))
    prepared = paths.record.preprocessing
    assert (prepared.mean, prepared.std, prepared.shorter, prepared.size) == (mean, std, 18, (SIZE, SIZE))
    assert paths.files.to_pylist()[0] == "bright/000.png"
    assert paths.record.label_names == ("bright", "dark")  # the model has four classes
    # of the file: what the model takes is what the loader gave
    found = paths.explain(tmp_path / "photos" / paths.files.to_pylist()[3])
    assert found.path == tuple(paths.clusters[3].tolist())
    assert not (paths.cache.path / "shown").exists()


def test_a_transform_that_is_not_known_leaves_out_what_needs_it(
    run: Collect, model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Lambda(lambda x: x.sqrt())]
    folder = ImageFolder(write_folder(tmp_path / "photos", 160), transforms.Compose(steps))
    paths = run(model, torch.utils.data.DataLoader(folder, batch_size=16), evaluate=True)
    assert "How an image becomes the model's input is not known" in caplog.text
    assert any("perturbed images" in note for note in paths.metrics.notes)
    with pytest.raises(ModelError, match="preprocessing="):
        paths.explain(Image.new("RGB", (SIZE, SIZE)))


def test_a_preprocessing_that_is_not_the_loaders_is_refused(run: Collect, model: Any, loader: Any) -> None:
    with pytest.raises(ConfigError, match="not that of the loader"):
        run(model, loader_of(make_images() * 4 - 2), preprocessing="unit")
    assert (
        run(model, loader_of(make_images() * 2 - 1), preprocessing="symmetric").record.preprocessing.name == "symmetric"
    )


@dataclass
class Output:
    """As transformers' ModelOutput."""

    loss: Any
    logits: Any
    hidden_states: tuple[Any, ...]


class TakesWords(torch.nn.Module):  # type: ignore[misc]
    """Batches as dicts, outputs as dataclasses: as transformers has them."""

    def __init__(self, how: str = "dataclass") -> None:
        super().__init__()
        self.inner, self.how = make_model(), how

    def forward(self, pixel_values: Any) -> Any:
        x = self.inner(pixel_values)
        return {
            "dataclass": Output(None, x, (x, x)),
            "dict": {"hidden": pixel_values, "logits": x},
            "tuple": (x, pixel_values),
            "list": [pixel_values, x],
        }[self.how]


@pytest.mark.parametrize(("how", "name"), [("dataclass", "logits"), ("dict", "logits"), ("tuple", "0"), ("list", "1")])
def test_outputs_and_batches_of_all_kinds(run: Collect, model: Any, images: Any, how: str, name: str) -> None:
    labels = torch.arange(COUNT) % CLASSES
    batches = [{"pixel_values": images[at : at + 20], "labels": labels[at : at + 20]} for at in range(0, COUNT, 20)]
    paths = run(TakesWords(how), batches, layers=["inner.pool"])
    assert paths.record.logits == name
    with torch.no_grad():
        np.testing.assert_array_equal(paths.predictions, model(images).argmax(1).numpy())
    np.testing.assert_array_equal(paths.labels, labels.numpy())


def test_an_option_names_another_output(run: Collect, images: Any) -> None:
    class Two(TakesWords):
        def forward(self, pixel_values: Any) -> Any:
            x = self.inner(pixel_values)
            return {"logits": x, "other": -x}

    paths = run(Two(), [{"pixel_values": images}], layers=["inner.pool"], output="other")
    with torch.no_grad():
        np.testing.assert_array_equal(paths.predictions, make_model()(images).argmin(1).numpy())
    with pytest.raises(ModelError, match=r"no tensor 'othr'.* Nearest: other"):
        run(Two(), [{"pixel_values": images}], output="othr", refresh=True)
    assert (
        run(Two(), [{"pixel_values": images}], layers=["inner.pool"], output="none", refresh=True).predictions == -1
    ).all()


def test_a_loader_without_labels_and_names_of_classes(run: Collect, model: Any, images: Any) -> None:
    paths = run(model, loader_of(images), class_names=["a", "b", "c", "d"])
    assert (paths.labels == -1).all()
    assert paths.record.class_names == ("a", "b", "c", "d")


def test_rows_of_zeros_and_ones_are_attributes(run: Collect, model: Any, images: Any) -> None:
    flags = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (COUNT, 3)))
    loader = loader_of(images, flags)
    loader.dataset.attr_names = ["Smiling", "Hat", "Tie", ""]
    paths = run(model, loader)
    assert paths.record.attributes == ("Smiling", "Hat", "Tie")
    frame = paths.to_frame("pyarrow")
    np.testing.assert_array_equal(np.asarray(frame["attribute.Hat"].to_pylist(), int) > 0, flags[:, 1].numpy() > 0)


def test_reduce_is_that_of_a_run(run: Collect, model: Any, loader: Any, images: Any) -> None:
    paths = run(model, loader, layers=["blocks.*"], reduce="blocks.0=gap,blocks.1=max", cache_dtype="float32")
    assert paths.record.tensors == {"blocks.0": "blocks.0|gap", "blocks.1": "blocks.1|max"}
    full = outputs_of(model.blocks[0], model, images).reshape(COUNT, 8, -1)
    np.testing.assert_allclose(stored(paths, "blocks.0"), full.mean(2), atol=1e-5)
    full = outputs_of(model.blocks[1], model, images).reshape(COUNT, 8, -1)
    np.testing.assert_allclose(stored(paths, "blocks.1"), full.max(2), atol=1e-5)


def test_autocast_is_another_model(run: Collect, model: Any, loader: Any, images: Any) -> None:
    paths = run(model, loader, autocast="bfloat16", cache_dtype="float32")
    exact = outputs_of(model.blocks[1].conv2, model, images)
    assert stored(paths, "pool").dtype == np.float32
    assert np.isfinite(exact).all()
    with pytest.raises(CacheError, match="model: stored Small"):
        run(model, loader)
    with pytest.raises(ConfigError, match="autocast should be True"):
        run(model, loader, autocast="int8", refresh=True)


def test_forward_calls_the_model_in_another_way(run: Collect, model: Any, images: Any) -> None:
    paths = run(model, loader_of(images / 2), forward=lambda model, x: model(x * 2))
    with torch.no_grad():
        np.testing.assert_array_equal(paths.predictions, model(images).argmax(1).numpy())


class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Examples without a number of them."""

    def __iter__(self) -> Any:
        return iter(make_images())


@pytest.mark.parametrize("kind", ["stream", "batch sampler", "no batches", "subset"])
def test_loaders_of_all_kinds(run: Collect, model: Any, images: Any, kind: str) -> None:
    data = torch.utils.data
    tensors = data.TensorDataset(images)
    loader = {
        "stream": lambda: data.DataLoader(Stream(), batch_size=25),
        "batch sampler": lambda: data.DataLoader(
            tensors, batch_sampler=[list(range(at, at + 9)) for at in range(0, 90, 9)]
        ),
        "no batches": lambda: data.DataLoader([images[:40], images[40:]], batch_size=None),
        "subset": lambda: data.DataLoader(data.Subset(tensors, list(range(89, -1, -1))), batch_size=25),
    }[kind]
    first = run(model, loader())
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    np.testing.assert_array_equal(first.predictions, expected[::-1] if kind == "subset" else expected)
    assert run(model, loader()).path == first.path


def test_texts_have_no_images(run: Collect) -> None:
    class Words(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = torch.nn.Embedding(50, 12), torch.nn.Linear(12, 3)

        def forward(self, input_ids: Any) -> Any:
            return self.head(self.embed(input_ids).mean(1))

    words = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (60, 7)))
    paths = run(Words(), [{"input_ids": words[:30]}, {"input_ids": words[30:]}], layers=["embed"], reduce="tokens-mean")
    assert len(paths.ids) == 60
    assert paths.report().is_file()


def test_data_parallel_is_unwrapped(run: Collect, model: Any, loader: Any) -> None:
    wrapped = torch.nn.DataParallel(model)
    first = run(wrapped, loader, layers=["module.pool"])
    assert run(model, loader, layers=["pool"]).path == first.path  # the same model, the same activations


def test_collect_imports_no_prefect(run: Collect, model: Any, loader: Any) -> None:
    run(model, loader)
    assert "prefect" not in sys.modules or "tasks" in sys.modules  # another test of this process may have
