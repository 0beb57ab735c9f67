"""A model of transformers: batches as dicts, outputs as ModelOutput, class names in its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterpaths.pytorch.export import export_onnx
from tests.clusterpaths.pytorch.conftest import Collect, make_images

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def vit() -> Any:
    torch.manual_seed(0)
    names = ["cat", "dog", "fox"]
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


class Pairs(torch.utils.data.Dataset):  # type: ignore[misc]
    """Examples as dicts, which the default collate joins."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"pixel_values": self.images[at], "labels": at % 3, "image_id": at}


def test_it_is_collected_explained_and_exported(run: Collect, vit: Any, tmp_path: Path) -> None:
    images = make_images(80)
    loader = torch.utils.data.DataLoader(Pairs(images), batch_size=20)
    paths = run(vit, loader, layers="auto:3")
    assert paths.record.logits == "logits"
    assert paths.record.class_names == ("cat", "dog", "fox")
    assert len(paths.record.layers) == 3
    with torch.no_grad():
        expected = vit(pixel_values=images).logits.argmax(1).numpy()
    np.testing.assert_array_equal(paths.predictions, expected)
    np.testing.assert_array_equal(paths.labels, np.arange(80) % 3)

    tensors = [tensor.partition("|")[0] for tensor in paths.record.tensors.values()]
    exported = export_onnx(vit, {"pixel_values": images[:4]}, tmp_path / "vit.onnx", layers=tensors)
    picture = Image.fromarray((images[9].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    from_file = paths.explain(picture, model=exported)
    assert from_file.path == paths.explain(picture).path == tuple(paths.clusters[9].tolist())
    assert from_file.prediction.name == ("cat", "dog", "fox")[expected[9]]
