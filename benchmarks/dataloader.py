"""The same result with the usual tools, as a skilled user of PyTorch and scikit-learn would write it.

A DataLoader with two workers decodes; the model runs in batches of 64 with forward hooks on its five ReLUs, one .npy file
per layer and batch; MiniBatchKMeans is fitted over the files and predicts over the files. benchmarks/celeba.py compares the
flow with it. The network is a torch copy of the ONNX file, with its weights.

    python benchmarks/dataloader.py MODEL IMAGES OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

LAYERS = {"conv1": "relu1", "conv2": "relu2", "conv3": "relu3", "fc1": "relu4", "fc2": "relu5"}
BATCH, WORKERS, K = 64, 2, 5
PREPARE = transforms.Compose(
    [
        transforms.Resize((64, 64)),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


class Network(nn.Module):
    """CelebA_CNN; also the network of the sample."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()
        self.fc1, self.relu4 = nn.Linear(4096, 128), nn.ReLU()
        self.fc2, self.relu5 = nn.Linear(128, 64), nn.ReLU()
        self.fc3, self.pool = nn.Linear(64, len(weights["fc3.bias"])), nn.MaxPool2d(2)
        self.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 64, 64) to (n, classes)."""
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.pool(self.relu2(self.conv2(x)))
        x = self.pool(self.relu3(self.conv3(x))).flatten(1)
        return self.fc3(self.relu5(self.fc2(self.relu4(self.fc1(x)))))


class Images(Dataset[Tensor]):
    """Images of a directory in the order of their names."""

    def __init__(self, directory: Path) -> None:
        self.files = sorted(directory.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return PREPARE(Image.open(self.files[index]).convert("RGB"))


def load_network(model: Path) -> Network:
    """The network with the weights of the ONNX file."""
    initializers = onnx.load(str(model)).graph.initializer
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in initializers}
    return Network({name: tensor for name, tensor in weights.items() if name.endswith((".weight", ".bias"))}).eval()


def hook_layers(network: Network) -> dict[str, np.ndarray]:
    """Of every batch that the network is run on from now on: layer -> activations (n, *shape)."""
    activations: dict[str, np.ndarray] = {}

    def keep(layer: str) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
            activations[layer] = output.numpy()

        getattr(network, LAYERS[layer]).register_forward_hook(hook)

    for layer in LAYERS:
        keep(layer)
    return activations


def main(model: Path, images: Path, out: Path) -> None:
    """Leave conv1/000000.npy … and paths.json in `out`."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network, data = load_network(model), Images(images)
    activations = hook_layers(network)
    for layer in LAYERS:
        (out / layer).mkdir(parents=True)
    with torch.inference_mode():
        for index, batch in enumerate(DataLoader(data, BATCH, num_workers=WORKERS)):
            network(batch)
            for layer, values in activations.items():
                np.save(out / layer / f"{index:06d}.npy", values.reshape(len(batch), -1))
    labels = []
    for layer in LAYERS:
        files = sorted((out / layer).glob("*.npy"))
        kmeans = MiniBatchKMeans(K, random_state=0, n_init=1)
        for file in files:
            kmeans.partial_fit(np.load(file))
        labels.append(np.concatenate([kmeans.predict(np.load(file)) for file in files]))
    (out / "paths.json").write_text(json.dumps(np.stack(labels, axis=1).tolist()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
