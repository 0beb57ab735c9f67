"""The bare work: what no program can leave out on this machine, whatever it does with the activations.

Decode (simplejpeg), resize (Pillow, bilinear, to the model's size), normalise, and run the tapped model in batches of 32, in two
threads with a session of one thread each. All outputs are computed, none is stored. Prints a checksum of the logits, which is the
same in each run.

    python benchmarks/bare.py MODEL IMAGES
"""

from __future__ import annotations

import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import simplejpeg
from PIL import Image

BATCH, WORKERS = 32, 2
MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
SCALE, SHIFT = 1 / (255 * STD), MEAN / STD


def main(model: Path, images: Path) -> None:
    """Print the number of images and the checksum."""
    files = sorted(images.glob("*.jpg"))
    print(len(files), repr(run(model, files)))


def run(model: Path, files: list[Path]) -> float:
    """Sum of the logits of all images, added up batch by batch in the order of the files."""
    sessions: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
    for _ in range(WORKERS):
        sessions.put(one_thread_session(model))

    def run_batch(start: int) -> float:
        session = sessions.get()
        name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[2:]
        outputs = session.run(None, {name: read_batch(files[start : start + BATCH], size)})
        sessions.put(session)
        return float(outputs[0].sum())

    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(run_batch, range(0, len(files), BATCH)))


def read_batch(files: list[Path], size: list[int]) -> np.ndarray:
    """The model's input, (n, 3, height, width) float32."""
    pixels = np.stack([read_image(file, size) for file in files])  # (n, height, width, 3)
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    x *= SCALE
    x -= SHIFT
    return x


def read_image(file: Path, size: list[int]) -> np.ndarray:
    """(height, width, 3) uint8."""
    image = Image.fromarray(simplejpeg.decode_jpeg(file.read_bytes(), "RGB"))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def one_thread_session(model: Path) -> onnxruntime.InferenceSession:
    """A session that works in the calling thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
