"""Files of Hugging Face, as `transformers`' own image processors carry them out on photographs of several shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images

from clusterpaths.errors import ModelError
from clusterpaths.models.sidecar import read_sidecar
from clusterpaths.preprocessing.prepare import fit, normalise

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
ON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
CUT = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}

CASES: dict[str, dict[str, Any]] = {
    "ViT": ON | HALF | {"resample": 2, "size": {"height": 224, "width": 224}},
    "ViT, one number": ON | HALF | {"resample": 2, "size": 224},
    "ViT, as it is": ON | HALF | {"do_rescale": False, "do_normalize": False, "size": {"height": 64, "width": 96}},
    "ViT, not scaled": ON | HALF | {"do_rescale": False, "size": {"height": 64, "width": 96}, "resample": 3},
    "ViT, not normalised": ON | HALF | {"do_normalize": False, "size": {"height": 64, "width": 96}, "resample": 2},
    "ViT, another factor": ON | HALF | {"rescale_factor": 1 / 127.5, "size": {"height": 64, "width": 96}},
    "DeiT": ON | IMAGENET | CUT | {"resample": 3, "size": {"height": 256, "width": 256}},
    "DeiT, one number": ON | IMAGENET | {"do_center_crop": True, "crop_size": 224, "resample": 3, "size": 256},
    "DeiT, not cut": ON | IMAGENET | CUT | {"do_center_crop": False, "resample": 3, "size": {"height": 256, "width": 250}},
    "Beit": ON | HALF | CUT | {"resample": 2, "size": {"height": 256, "width": 256}},
    "ConvNext": ON | IMAGENET | {"resample": 3, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
    "ConvNext, another share": ON | IMAGENET | {"resample": 3, "size": {"shortest_edge": 224}, "crop_pct": 0.95},
    "ConvNext, share left out": ON | IMAGENET | {"resample": 3, "size": {"shortest_edge": 224}},
    "ConvNext, 384": ON | IMAGENET | {"resample": 3, "size": {"shortest_edge": 384}, "crop_pct": 0.875},
    "CLIP": ON | CLIP | CUT | {"resample": 3, "size": {"shortest_edge": 224}, "do_convert_rgb": True},
    "CLIP, one number": ON | CLIP | {"do_center_crop": True, "crop_size": 224, "resample": 3, "size": 224},
    "Bit": ON | IMAGENET | CUT | {"resample": 3, "size": {"shortest_edge": 256}, "do_convert_rgb": True},
    "MobileNetV2": ON | HALF | CUT | {"resample": 2, "size": {"shortest_edge": 256}},
    "PoolFormer": ON | IMAGENET | CUT | {"resample": 3, "size": {"shortest_edge": 224}, "crop_pct": 0.9},
    "Levit": ON | IMAGENET | CUT | {"resample": 3, "size": {"shortest_edge": 224}},
    "EfficientNet": ON | IMAGENET | {"resample": 2, "size": {"height": 300, "width": 300}, "include_top": True},
    "EfficientNet, offset": ON | IMAGENET | {
        "resample": 2, "size": {"height": 300, "width": 300}, "include_top": False, "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
    },
    "MobileViT": {
        "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 2, "do_flip_channel_order": True,
        "size": {"shortest_edge": 288}, "do_center_crop": True, "crop_size": {"height": 256, "width": 256},
    },
}  # fmt: skip

SHAPES = [(0, 0, 640, 427), (100, 20, 401, 421), (10, 10, 350, 266), (0, 0, 256, 256)]


def images() -> list[Image.Image]:
    photo = Image.fromarray(load_sample_images().images[0])
    return [photo.crop(box) for box in SHAPES]


@pytest.mark.parametrize("backend", ["Pil", ""])  # the second: torchvision
@pytest.mark.parametrize("case", CASES)
def test_the_models_input_is_what_transformers_makes_of_the_image(tmp_path: Path, case: str, backend: str) -> None:
    kind = f"{case.partition(',')[0]}ImageProcessor"
    content = CASES[case]
    theirs = getattr(transformers, kind + backend)(**content)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(content | {"image_processor_type": kind}))
    found = read_sidecar(path, None)
    assert found is not None
    grey_level = found.scale / np.asarray(found.std)[:, None, None]  # of each channel, in the model's input
    if found.channels == "BGR":
        grey_level = grey_level[::-1]
    for image in images():
        wanted = np.asarray(theirs(images=image, return_tensors="pt")["pixel_values"][0], np.float32)
        got = normalise(fit(image, found)[None], found)[0]
        assert got.shape == wanted.shape
        off = np.abs(got - wanted) / grey_level
        most = 0.01 if backend else 2.01
        assert np.quantile(off, 0.9999 if backend else 0.999) <= most  # torch rounds otherwise than Pillow
        assert off.mean() < (0.001 if backend else 0.5)


def test_a_file_that_the_processor_writes_itself_is_read(tmp_path: Path) -> None:
    transformers.DeiTImageProcessor(**CASES["DeiT"]).save_pretrained(tmp_path)
    found = read_sidecar(tmp_path / "preprocessor_config.json", None)
    assert found is not None
    assert (found.size, found.resize_to, found.resize) == ((224, 224), (256, 256), "bicubic")


def test_images_that_are_not_to_be_resized_but_cut_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(CASES["CLIP"] | {"do_resize": False}))
    with pytest.raises(ModelError, match="do_center_crop without do_resize"):
        read_sidecar(path, (224, 224))


def test_images_that_are_not_to_be_resized_take_the_models_size(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(CASES["ViT"] | {"do_resize": False}))
    found = read_sidecar(path, (64, 48))
    assert found is not None
    image = Image.fromarray(load_sample_images().images[0]).crop((0, 0, 48, 64))
    np.testing.assert_array_equal(fit(image, found), np.asarray(image))
