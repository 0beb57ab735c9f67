"""Train a small image classifier on a labelled data set and write it as one ONNX file with its metadata.

Belongs here: splitting, decoding, training, measuring and exporting. Drawing faces is
`datasets/drawn_faces/`; the cluster paths of the model are found by the other stages.

torch is imported inside functions only: it takes seconds, and no other stage needs it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from clusterpaths.common import roots
from clusterpaths.common.extras import require_extra
from clusterpaths.config import IMAGES
from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.datasets.drawn_faces.cue import Cue
from clusterpaths.errors import DatasetError
from clusterpaths.metrics.intervals import wilson
from clusterpaths.preprocessing.prepare import normalise, resize
from clusterpaths.records import Preprocessing, Record
from clusterpaths.storage.atomic import atomic_write
from clusterpaths.training.export_network import check_export, export_network

if TYPE_CHECKING:
    import torch

SIZE = (64, 64)
PREPROCESSING = Preprocessing(
    name="imagenet", size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255, resize="bilinear"
)
MIN_LABELLED = 5  # training examples of a class, below which its accuracy would be chance
_VALIDATION_SHARE = 0.1  # of the training examples, to choose the best epoch by
_HELD_OUT_SHARE = 0.2  # where the data set has no splits
_MAX_UNREADABLE = 0.1

Log = Callable[[str], None]


class TrainConfig(BaseModel):
    """Train a small hair-colour classifier and write it as an ONNX file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Literal["faces", "celeba"] = Field(
        default="faces", description="faces: drawn ones, nothing to download; celeba: CelebA in the data directory"
    )
    data_root: Annotated[Path | None, IMAGES] = Field(
        default=None, description="directory that holds celeba/ [data; faces: drawn into data/faces_COUNT_seed_SEED]"
    )
    output: Path | None = Field(
        default=None,
        description="ONNX file to write [ONNX_models/SampleFaces_CNN.onnx, SampleFaces_CNN_cue_HAIR.onnx or CelebA_CNN.onnx]",
    )
    epochs: int = Field(default=12, ge=1, description="training epochs; the weights of the best one are exported")
    batch_size: int = Field(default=64, ge=1, description="images per training step")
    learning_rate: float = Field(default=0.002, gt=0, description="Adam's peak learning rate")
    seed: int = Field(
        default=1, ge=0, description="random seed of faces, splits and training; seed 0 draws the sample's faces"
    )
    faces: int = Field(default=10_000, ge=100, le=999_999, description="how many faces to draw")
    cue: Literal["Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"] | None = Field(
        default=None, description="plant a shortcut: a patch in the corner of drawn faces of this hair colour [none]"
    )
    limit: int | None = Field(default=None, ge=1, description="train on at most this many images [all]")

    @model_validator(mode="after")
    def _cue_is_drawn(self) -> TrainConfig:
        if self.cue is not None and self.dataset != "faces":
            raise ValueError(
                f"--cue {self.cue} plants a patch in faces as they are drawn; the images of --dataset {self.dataset} are "
                "photographs, which are used as they are. Leave out --cue, or train on drawn faces with --dataset faces"
            )
        return self

    @property
    def images_root(self) -> Path:
        """The directory that contains celeba/, or where it is drawn."""
        drawn = f"faces_{self.faces}_seed_{self.seed}" + (f"_cue_{self.cue}" if self.cue else "")
        default = roots.data_root() / drawn if self.dataset == "faces" else roots.data_root()
        return (self.data_root or default).expanduser().absolute()

    @property
    def planted(self) -> Cue | None:
        """The shortcut in the drawn faces."""
        return Cue(hair=self.cue) if self.cue else None

    @property
    def output_path(self) -> Path:
        """The ONNX file to write."""
        stem = "SampleFaces_CNN" if self.dataset == "faces" else "CelebA_CNN"
        name = stem + (f"_cue_{self.cue}" if self.cue else "") + ".onnx"  # never the path of the sample's own model
        return (self.output or roots.models_root() / name).expanduser().absolute()


class TrainRecord(Record):
    """Record of a training: model, data, and accuracy on held-out examples."""

    dataset: str
    classes: tuple[str, ...]
    architecture: str = "conv 3-16-32-64 (3x3, ReLU, max pool 2), fc 4096-128-64-classes"
    train_examples: int = Field(description="training images")
    validation_examples: int = Field(description="validation images, by which the best epoch was chosen")
    held_out_examples: int = Field(description="held-out test images; accuracy is measured on these")
    epochs: int
    best_epoch: int = Field(description="the epoch that was exported, 1-based")
    batch_size: int
    learning_rate: float
    seed: int
    cue: Cue | None = Field(default=None, description="the shortcut in the drawn faces; left out where there is none")
    accuracy: float = Field(description="fraction of held-out examples that are classified correctly")
    interval: tuple[float, float] = Field(description="Wilson's 95% interval of the accuracy")
    confusion: tuple[tuple[int, ...], ...] = Field(description="held-out examples; row: label, column: prediction")
    torch: str = Field(description="version of PyTorch")
    seconds: float = Field(default=0.0, description="decoding, training and export; not in the ONNX file")
    path: str = Field(default="", description="the ONNX file; not in the ONNX file")


@dataclass(frozen=True)
class _Parts:
    """Positions in the table, each ascending, no two parts share one."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_out: NDArray[np.int64]


def require_torch() -> None:
    """Check that what trains and exports a network is installed.

    Raises:
        ConfigError: it is not.
    """
    require_extra("Training", "torch", "torch", "onnxscript")


def train_classifier(table: ExampleTable, dataset: Dataset, config: TrainConfig, log: Log) -> TrainRecord:
    """Train on the labelled examples, measure on held-out ones, and write config.output_path.

    Trains on the split "train" and measures on "valid" and "test"; where the table has no splits,
    a fifth of each class, drawn by the seed, is held out. A tenth of the training examples only chooses
    the best epoch. On one machine the same configuration and images give the same file, byte for byte.

    Raises:
        ConfigError: as `require_torch`.
        DatasetError: no labels, a class with too few of them, or too many unreadable images.
        ModelError: the exported file does not compute the same as the trained network.
        DiskError: the file cannot be written.
    """
    require_torch()
    started = time.perf_counter()
    parts = _split(table, config)
    every = np.concatenate([parts.train, parts.validation, parts.held_out])
    log(
        f"{len(parts.train)} images to train on, {len(parts.validation)} to choose the best epoch by, "
        f"{len(parts.held_out)} held out; classes {', '.join(table.class_names)}."
    )
    images, readable = _decode(table, dataset, every, log)
    labels = table.labels[every].astype(np.int64)
    edges = np.cumsum([len(parts.train), len(parts.validation)])
    train, validation, held_out = (part[readable[part]] for part in np.split(np.arange(len(every)), edges))
    if not len(validation) or not len(held_out):
        raise DatasetError(f"None of the images held out can be read. Repair the directory {dataset.root}.")
    log(f"Decoded {int(readable.sum())} images in {time.perf_counter() - started:.1f} s.")

    with _repeatable(config.seed) as torch:
        model, best_epoch = _fit(torch, images, labels, train, validation, len(table.class_names), config, log)
        logits = _logits(torch, model, images[held_out])
        confusion = _confusion(labels[held_out], logits.argmax(1), len(table.class_names))
        right = int(np.trace(confusion))
        record = TrainRecord(
            dataset=config.dataset,
            classes=table.class_names,
            train_examples=len(train),
            validation_examples=len(validation),
            held_out_examples=len(held_out),
            epochs=config.epochs,
            best_epoch=best_epoch,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            cue=config.planted,
            accuracy=right / len(held_out),
            interval=wilson(right, len(held_out)),
            confusion=tuple(tuple(int(n) for n in row) for row in confusion),
            torch=torch.__version__,
        )
        content = export_network(model, SIZE, _metadata(record))
    check_export(content, normalise(images[held_out[:64]], PREPROCESSING), logits[:64])
    atomic_write(config.output_path, content)
    seconds = round(time.perf_counter() - started, 1)
    log(
        f"Accuracy {record.accuracy:.1%} on {len(held_out)} held-out images (95% interval {record.interval[0]:.1%} to "
        f"{record.interval[1]:.1%}); wrote {config.output_path} after {seconds} s."
    )
    return record.model_copy(update={"seconds": seconds, "path": str(config.output_path)})


def describe(record: TrainRecord) -> str:
    """A Markdown page: accuracy with its interval, accuracy of each class, confusion matrix."""
    low, high = record.interval
    lines = [
        f"**{record.accuracy:.1%}** of {record.held_out_examples} held-out images are classified correctly "
        f"(95% interval {low:.1%} to {high:.1%}); {record.train_examples} trained on, {record.validation_examples} "
        f"chose epoch {record.best_epoch} of {record.epochs}; {record.seconds:.0f} s. `{record.path}`",
        "",
        "| label | accuracy | " + " | ".join(f"predicted {name}" for name in record.classes) + " |",
        "|---|---:|" + "---:|" * len(record.classes),
    ]
    for at, (name, row) in enumerate(zip(record.classes, record.confusion, strict=True)):
        accuracy = f"{row[at] / sum(row):.1%}" if sum(row) else "none held out"
        lines.append(f"| {name} | {accuracy} | " + " | ".join(str(count) for count in row) + " |")
    return "\n".join(lines) + "\n"


def _split(table: ExampleTable, config: TrainConfig) -> _Parts:
    rng = np.random.default_rng(config.seed)
    labelled = np.flatnonzero(table.labels >= 0)
    if not len(labelled) or len(table.class_names) < 2:
        raise DatasetError(
            f"None of the {len(table)} images has a label to train on. Expected hair colours in list_attr_celeba.txt "
            "beside the image directory. Put the annotation files there."
        )
    splits = np.array(table.splits)[labelled]
    train, held_out = labelled[splits == "train"], labelled[np.isin(splits, ("valid", "test"))]
    if not len(train) or not len(held_out):
        train, held_out = _share(labelled, table.labels, _HELD_OUT_SHARE, rng)
    if config.limit is not None and config.limit < len(train):
        train = np.sort(rng.choice(train, config.limit, replace=False))
    train, validation = _share(train, table.labels, _VALIDATION_SHARE, rng)
    counts = np.bincount(table.labels[train], minlength=len(table.class_names))
    if counts.min() < MIN_LABELLED or not len(held_out):
        found = ", ".join(f"{name} {count}" for name, count in zip(table.class_names, counts, strict=True))
        raise DatasetError(
            f"Too few labelled images to train on: {found}; and {len(held_out)} held out. Expected at least "
            f"{MIN_LABELLED} of each class and 1 held out, among the {len(table)} images that are there. "
            "Add images, or raise --faces or --limit."
        )
    return _Parts(train, validation, held_out)


def _share(
    positions: NDArray[np.int64], labels: NDArray[np.integer], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rest, and `share` of every class (at least one where the class has two); both ascending."""
    taken: list[NDArray[np.int64]] = []
    for label in np.unique(labels[positions]):
        members = rng.permutation(positions[labels[positions] == label])
        taken.append(members[: max(round(share * len(members)), min(1, len(members) - 1))])
    part = np.sort(np.concatenate(taken))
    return np.setdiff1d(positions, part), part


def _decode(
    table: ExampleTable, dataset: Dataset, positions: NDArray[np.int64], log: Log
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(n, 64, 64, 3) uint8 in the order of `positions`, and (n,) which of them could be read."""
    images = np.zeros((len(positions), *SIZE, 3), np.uint8)
    readable = np.ones(len(positions), bool)
    reasons: list[str] = []

    def read(row: int) -> None:
        file = table.files[positions[row]]
        try:
            images[row] = resize(dataset.read_image(file), SIZE)
        except OSError as error:
            readable[row] = False
            reasons.append(f"{file}: {error}")

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(positions)), chunksize=64):
            pass
    if reasons:
        text = f"{len(reasons)} of {len(positions)} images cannot be read, such as {min(reasons)}"
        if len(reasons) > _MAX_UNREADABLE * len(positions):
            raise DatasetError(f"{text}. At most {_MAX_UNREADABLE:.0%} may be. Repair the directory {dataset.root}.")
        log(f"{text}. They are left out.")
    return images, readable


@contextmanager
def _repeatable(seed: int) -> Iterator[Any]:
    """torch, seeded and on one thread (sums in a fixed order); restored on leaving."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield torch
        finally:
            torch.set_num_threads(threads)


def _network(torch: Any, classes: int) -> Any:
    """CelebA_CNN's architecture; its parameters carry the names of the layers."""
    nn, relu, pool = torch.nn, torch.nn.functional.relu, torch.nn.functional.max_pool2d

    class Network(nn.Module):  # type: ignore[name-defined,misc]  # torch's types are not followed
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
            self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
            self.fc1 = nn.Linear(64 * 8 * 8, 128)
            self.fc2 = nn.Linear(128, 64)
            self.fc3 = nn.Linear(64, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, 3, 64, 64)
            x = pool(relu(self.conv1(x)), 2)  # (b, 16, 32, 32)
            x = pool(relu(self.conv2(x)), 2)  # (b, 32, 16, 16)
            x = pool(relu(self.conv3(x)), 2)  # (b, 64, 8, 8)
            x = relu(self.fc1(x.flatten(1)))  # (b, 128)
            return self.fc3(relu(self.fc2(x)))  # (b, classes)

    return Network()


def _fit(
    torch: Any,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    classes: int,
    config: TrainConfig,
    log: Log,
) -> tuple[Any, int]:
    """The network as it was after its best epoch, and that epoch (1-based)."""
    rng = np.random.default_rng(config.seed)
    model = _network(torch, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    best, best_epoch = (-1.0, -math.inf), 0
    best_state: dict[str, Any] = {}
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        order = rng.permutation(train)
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            x = torch.from_numpy(normalise(_augmented(images[rows], rng), PREPROCESSING))
            loss = torch.nn.functional.cross_entropy(model(x), torch.from_numpy(labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        logits = torch.from_numpy(_logits(torch, model, images[validation]))
        truth = torch.from_numpy(labels[validation])
        right = float((logits.argmax(1) == truth).double().mean())
        # of epochs with equal accuracy the one with the smaller loss is better
        score = (right, -float(torch.nn.functional.cross_entropy(logits, truth)))
        log(f"Epoch {epoch} of {config.epochs}: loss {total / len(train):.4f}, validation accuracy {right:.1%}.")
        if score > best or not best_state:
            best, best_epoch = score, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model.eval(), best_epoch


def _augmented(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(b, h, w, 3): half of them mirrored, each moved by up to 2 pixels, and up to 12% darker or brighter."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    moved = np.empty_like(images)
    for at, (y, x, mirrored) in enumerate(rng.integers(0, (5, 5, 2), (len(images), 3))):
        piece = padded[at, y : y + height, x : x + width]
        moved[at] = piece[:, ::-1] if mirrored else piece
    gain = rng.uniform(0.88, 1.12, (len(images), 1, 1, 1)).astype(np.float32)
    augmented: NDArray[np.uint8] = np.minimum(moved * gain, 255).astype(np.uint8)
    return augmented


def _logits(torch: Any, model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, classes) of (n, h, w, 3), in batches of limited memory."""
    model.eval()
    pieces: list[NDArray[np.float32]] = []
    with torch.no_grad():
        for start in range(0, len(images), 256):
            x = torch.from_numpy(normalise(images[start : start + 256], PREPROCESSING))
            pieces.append(model(x).numpy())
    return np.concatenate(pieces)


def _confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts; row: label, column: prediction."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _metadata(record: TrainRecord) -> dict[str, str]:
    """The ONNX file's metadata. Time and place are left out: the file's hash is its identity."""
    return {
        "clusterpaths.preprocessing": PREPROCESSING.model_dump_json(),
        "clusterpaths.classes": json.dumps(record.classes),
        "clusterpaths.training": record.model_dump_json(exclude={"seconds", "path"}, exclude_none=True),
    }
