"""A simple implementation of the same result, as one would write it in an afternoon: one image at a time.

For every image: decode, resize, run the model, np.save each layer. Then for every layer: MiniBatchKMeans over the
files, and predict over the files. benchmarks/celeba.py compares the flow with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.cluster import MiniBatchKMeans

LAYERS = {"conv1": "relu", "conv2": "relu_1", "conv3": "relu_2", "fc1": "relu_3", "fc2": "relu_4"}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 100


def main(model: Path, images: Path, out: Path) -> None:
    """Leave conv1/0.npy … and paths.json in `out`."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    files = sorted(images.glob("*.jpg"))
    for layer in LAYERS:
        (out / layer).mkdir(parents=True)
    for index, file in enumerate(files):
        pixels = np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR), np.float32)
        x = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
        for layer, values in zip(LAYERS, session.run(list(LAYERS.values()), {"input": x}), strict=True):
            np.save(out / layer / f"{index}.npy", values[0])
    paths: list[list[int]] = [[] for _ in files]
    for layer in LAYERS:
        kmeans = MiniBatchKMeans(5, random_state=0, n_init=1)
        batches = [range(start, min(start + BATCH, len(files))) for start in range(0, len(files), BATCH)]
        for batch in batches:
            kmeans.partial_fit(np.stack([np.load(out / layer / f"{index}.npy").ravel() for index in batch]))
        for batch in batches:
            labels = kmeans.predict(np.stack([np.load(out / layer / f"{index}.npy").ravel() for index in batch]))
            for index, label in zip(batch, labels.tolist(), strict=True):
                paths[index].append(label)
    (out / "paths.json").write_text(json.dumps(paths))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
