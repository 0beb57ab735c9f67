"""JSON files beside a model, in the dialects of Hugging Face and torchvision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.transforms._presets import ImageClassification

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model
from clusterpaths.models.sidecar import find_sidecar, read_sidecar
from clusterpaths.preprocessing.prepare import normalise, preset_preprocessing, resolve_preprocessing
from clusterpaths.records import Preprocessing
from tests.runs import SAMPLE_MODEL

VIT = {
    "image_processor_type": "ViTImageProcessor", "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2, "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}  # fmt: skip
RESNET = {
    "crop_pct": 0.875, "do_normalize": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": {"shortest_edge": 224},
}  # fmt: skip
CLIP = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28], "resample": 3, "size": 256,
}  # fmt: skip
RAW = {"do_normalize": False, "do_rescale": False, "do_resize": True, "size": {"height": 32, "width": 48}}


def read(tmp_path: Path, content: Any, size: tuple[int, int] | None = None) -> Preprocessing | None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(content))
    return read_sidecar(path, size)


@pytest.mark.parametrize(
    ("content", "size", "resize", "shorter", "mean"),
    [
        (VIT, (224, 224), "bilinear", None, 0.5),
        (RESNET, (224, 224), "bicubic", 256, 0.485),
        (CLIP, (224, 224), "bicubic", 256, 0.48),
        (RAW, (32, 48), "bilinear", None, 0.0),
    ],
)
def test_hugging_face(
    content: dict[str, Any], size: tuple[int, int], resize: str, shorter: int | None, mean: float, tmp_path: Path
) -> None:
    found = read(tmp_path, content)
    assert found is not None
    assert (found.size, found.resize, found.shorter, found.mean[0]) == (size, resize, shorter, mean)
    assert found.scale == pytest.approx(1.0 if content is RAW else 1 / 255)


def test_torchvision_as_its_own_transform_says(tmp_path: Path) -> None:
    transform = ImageClassification(crop_size=224, resize_size=232)
    own = {
        "crop_size": transform.crop_size, "resize_size": transform.resize_size, "mean": transform.mean,
        "std": transform.std, "interpolation": str(transform.interpolation), "antialias": transform.antialias,
    }  # fmt: skip
    found = read(tmp_path, own)
    assert found is not None
    assert (found.size, found.shorter, found.resize, found.antialias) == ((224, 224), 232, "bilinear", True)
    assert found.mean == (0.485, 0.456, 0.406)


def test_a_model_of_another_size_sees_the_same_part_of_the_image(tmp_path: Path) -> None:
    found = read(tmp_path, CLIP, (112, 112))
    assert found is not None
    assert (found.size, found.shorter) == ((112, 112), 128)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_mean": [0.5], "image_std": [0.5], "size": 224}, "three numbers each, got 1 and 1"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "neither the model nor the file gives a size"),
        ({**VIT, "resample": 77}, "77 is not a valid Resampling"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "crop_size": 64, "interpolation": "cubist"}, "resize"),
        ({"do_normalize": True, "size": 224}, "image_mean"),
    ],
)
def test_what_is_not_understood_is_said_with_what_to_do(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        read(tmp_path, content)
    assert "use --preprocessing, --mean, --std" in str(raised.value)


def test_other_json_files_are_left_alone(tmp_path: Path) -> None:
    assert read(tmp_path, {"epochs": 12}) is None
    assert read(tmp_path, [1, 2]) is None
    (tmp_path / "model.json").write_text("{ no json")
    assert read_sidecar(tmp_path / "model.json", None) is None
    (tmp_path / "preprocessor_config.json").write_text("{ no json")
    with pytest.raises(ModelError, match="is not JSON"):
        read_sidecar(tmp_path / "preprocessor_config.json", None)


def test_the_models_own_file_comes_first_and_its_metadata_before_that(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    shutil.copyfile(SAMPLE_MODEL, model)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT))
    assert find_sidecar(model) == tmp_path / "preprocessor_config.json"
    (tmp_path / "net.json").write_text(json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], "resize_size": 64}))
    assert find_sidecar(model) == tmp_path / "net.json"
    assert resolve_preprocessing(check_model(model))[1].endswith("from the model's own metadata.")

    import onnx

    proto = onnx.load(str(model))
    del proto.metadata_props[:]
    onnx.save(proto, str(model))
    chosen, source = resolve_preprocessing(check_model(model))
    assert source.endswith("from net.json beside the model.")
    assert (chosen.size, chosen.std) == ((64, 64), (1, 1, 1))


def test_a_mean_of_0_to_255_is_taken_as_that(tmp_path: Path) -> None:
    """As mmlab's configurations have it; otherwise every input is about -2,000."""
    given = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
    found = read(tmp_path, given, (32, 32))
    assert found is not None
    imagenet = preset_preprocessing("imagenet", (32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(normalise(pixels, found), normalise(pixels, imagenet), atol=1e-5)
    assert found.scale == 1


def test_a_mean_in_the_order_of_bgr_goes_to_its_channels(tmp_path: Path) -> None:
    found = read(tmp_path, {"mean": [103.5, 116.3, 123.7], "std": [1.0, 1.0, 1.0], "to_rgb": False}, (1, 1))
    assert found is not None
    x = normalise(np.array([[[[200, 100, 50]]]], np.uint8), found)  # red, green, blue
    np.testing.assert_allclose(x.ravel(), [50 - 103.5, 100 - 116.3, 200 - 123.7], rtol=1e-5)


def test_a_mean_and_a_deviation_of_different_ranges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="are of different ranges"):
        read(tmp_path, {"mean": [123.7, 116.3, 103.5], "std": [0.229, 0.224, 0.225]}, (32, 32))


def test_a_model_of_another_size_cuts_the_same_part_of_a_square(tmp_path: Path) -> None:
    deit = {**CLIP, "image_processor_type": "DeiTImageProcessor"}
    found = read(tmp_path, deit, (112, 112))
    assert found is not None
    assert (found.size, found.resize_to, found.shorter) == ((112, 112), (128, 128), None)
