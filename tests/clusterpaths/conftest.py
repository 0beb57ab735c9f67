"""A tiny CNN, a small CelebA folder, and all library stages in a row: what most tests of the library start from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.assign import FitRecord
from clusterpaths.clustering.fit import fit_layer
from clusterpaths.clustering.identity import SetIdentity, identify, identify_fits
from clusterpaths.clustering.trace import TraceRecord, trace_paths
from clusterpaths.commands.shell import RUN_LOGGERS
from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches, open_dataset, read_table
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.errors import Float16OverflowError
from clusterpaths.extraction.again import assign_shard, run_again
from clusterpaths.extraction.begin import begin_extraction, widen_layers
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.extraction.finish import finish_extraction
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan, plan_run
from clusterpaths.extraction.sample import plan_sample, whole_shards
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import resolve_preprocessing
from clusterpaths.records import DatasetSpec, ModelRecord
from clusterpaths.running.runner import InProcess
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

NUMBERS = tuple(number for number in range(1, 60) if number % 3)  # of 40 images: 1 2 4 5 7 8 … 58 59
LAYERS = ("conv1", "conv2", "fc1")
SIZE = 16
CLASSES = 5


def write_cnn(
    path: Path,
    *,
    batch: int | None = None,
    external: str | None = None,
    matmul: bool = False,
    instrumented: bool = False,
    dead: bool = False,
    factor: float = 1.0,
    offset: float = 0.0,
    width: int = 10,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """conv1 (4, 16, 16) → pool → conv2 (6, 8, 8) → fc1 (`width`,) → five logits, with seeded weights.

    `external` names a weights file; `matmul` says MatMul + Add for Gemm; `dead` silences fc1; `factor` multiplies
    conv2's weights: 1e6 takes it beyond float16, 3e38 to inf. Biases before fc1 are 0: a black image stays 0; `offset` is
    that of conv2.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    weights = {
        "w1": normal(4, 3, 3, 3, scale=0.4),
        "b1": np.zeros(4, np.float32),
        "w2": normal(6, 4, 3, 3, scale=0.3) * np.float32(factor),
        "b2": np.full(6, offset, np.float32),
        "w3": normal(6 * 8 * 8, width, scale=0.1),
        "b3": np.full(width, -1e9, np.float32) if dead else normal(width),
        "w4": normal(width, CLASSES, scale=0.5),
        "b4": normal(CLASSES),
    }

    def dense(x: str, number: int, y: str) -> list[onnx.NodeProto]:
        if not matmul:
            return [helper.make_node("Gemm", [x, f"w{number}", f"b{number}"], [y])]
        return [
            helper.make_node("MatMul", [x, f"w{number}"], [f"{y}_product"]),
            helper.make_node("Add", [f"{y}_product", f"b{number}"], [y]),
        ]

    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["relu_1"]),
        helper.make_node("Flatten", ["relu_1"], ["flat"]),
        *dense("flat", 3, "f1"),
        helper.make_node("Relu", ["f1"], ["relu_2"]),
        *dense("relu_2", 4, "logits"),
    ]
    first = batch or "batch"
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [first, CLASSES])]
    if instrumented:
        shapes = {"relu": [4, 16, 16], "relu_1": [6, 8, 8], "relu_2": [width]}
        outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, [first, *s]) for n, s in shapes.items()]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [first, 3, SIZE, SIZE])]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return save_model(path, helper.make_graph(nodes, "cnn", inputs, outputs, tensors), external, metadata)


def save_model(
    path: Path, graph: onnx.GraphProto, external: str | None = None, metadata: dict[str, str] | None = None
) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=external is not None, location=external, size_threshold=0)
    return path


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> None:
    """A JPEG of one colour a corner and some noise, drawn from the seed."""
    rng = np.random.default_rng(seed)
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    pixels = np.asarray(corners.resize(size, Image.Resampling.BILINEAR)).astype(int)
    noisy = (pixels + rng.integers(-20, 21, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)


def write_celeba(root: Path, numbers: Iterable[int] = NUMBERS, colour: Callable[[int], Any] | None = None) -> Path:
    """img_align_celeba/000001.jpg …, hair colours by number, a third of each split; `colour` gives plain images."""
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True, exist_ok=True)
    hair = ("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
    rows, splits = [], []
    for number in numbers:
        file = f"{number:06d}.jpg"
        if colour is None:
            write_image(folder / file, number)
        else:
            Image.new("RGB", (SIZE, SIZE), colour(number)).save(folder / file)
        rows.append(f"{file} " + " ".join("1" if number % 5 == at else "-1" for at in range(5)))
        splits.append(f"{file} {number % 3}")
    (root / "celeba" / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(hair), *rows, ""]))
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join([*splits, ""]))
    return root


def image_of(root: Path, number: int) -> Path:
    return root / "celeba" / "img_align_celeba" / f"{number:06d}.jpg"


@dataclass(frozen=True)
class Extracted:
    """What the stages up to the end of extraction left."""

    config: RunConfig
    model: ModelRecord
    plan: ExtractionPlan
    job: ExtractionJob
    record: ExtractionRecord

    @property
    def directory(self) -> Path:
        return self.storage.path

    @property
    def storage(self) -> Storage:
        return self.record.storage

    @property
    def ids(self) -> NDArray[np.int64]:
        return self.record.example_ids()


@dataclass(frozen=True)
class Finished(Extracted):
    """What all stages left."""

    identity: SetIdentity
    fits: tuple[FitRecord, ...]
    traced: TraceRecord
    published: PublishedSet


def make_plan(config: RunConfig) -> tuple[ModelRecord, ExtractionPlan, ExtractionJob]:
    """Stages check, download (what is there) and instrument, then the plan. The folder is looked at anew."""
    open_dataset.cache_clear()
    read_table.cache_clear()
    assert config.model is not None
    assert config.data_root is not None
    model = check_model(config.model, config.layers, config.default_size, config.logits)
    preprocessing, _ = resolve_preprocessing(model, config.preprocessing, config.mean, config.std, config.size)
    model = instrument_model(model, preprocessing.size, config.reduce)
    plan, job = plan_run(config, model, DatasetSpec(name=config.dataset, root=str(config.data_root)), preprocessing)
    return model, plan, job


def run_extraction(config: RunConfig) -> Extracted:
    model, plan, job = make_plan(config)
    begin_extraction(plan)
    return extract_planned(config, model, plan, job)


def extract_planned(config: RunConfig, model: ModelRecord, plan: ExtractionPlan, job: ExtractionJob) -> Extracted:
    """Every shard, and activations of the sample where the cache stores images only, as a run of the pipeline has them."""
    shards = {shard.index: shard for shard in plan.shards_of(plan.example_ids())}
    while True:
        parts = plan_sample(job.storage, plan.sample_ids()) if job.cache.format == "none" else {}
        try:
            for index, shard in shards.items():
                if shard.rows is None:
                    shards[index] = extract_shard(job, shard, sample=parts.get(index))
                elif index in parts and parts[index].rows is None:
                    run_again(job, shard, (), parts[index])
            break
        except Float16OverflowError as overflow:
            manifest = widen_layers(job.storage, overflow.layers)
            job = job.model_copy(update={"cache": manifest.identity})
            shards = {shard.index: shard for shard in manifest.shards if shard.index in shards}
    record = finish_extraction(job.storage, plan.example_ids(), job.max_failed)
    plan = plan.model_copy(update={"registry": None})  # as the stage returns it
    return Extracted(config, model, plan, job, record)


def read_rows(
    done: Extracted, layer: str, positions: NDArray[np.int64] | None = None, ids: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Activations (n, width) of the examples at these positions of `ids`, by default of all that were extracted."""
    rows = LayerRows(done.storage, layer, done.ids if ids is None else ids)
    pieces = [np.array(block) for _, block in rows.blocks(positions)]
    return np.concatenate([np.empty((0, rows.width), np.float32), *pieces])


def cluster(done: Extracted) -> tuple[SetIdentity, tuple[FitRecord, ...], TraceRecord]:
    """Fit on what was extracted, assign from the cache, trace."""
    fits = identify_fits(done.config, done.model, done.record)
    records = tuple(fit_layer(done.record, fits, layer) for layer in fits.layers)
    recorded = [shard for shard in require_manifest(done.storage).shards if shard.rows is not None]
    stored = whole_shards(done.storage, recorded) if done.job.cache.format == "none" else {}
    for shard in recorded:
        assign_shard(done.job, shard, records, stored.get(shard.index))
    identity = identify(fits, done.record)
    return identity, records, trace_paths(done.record, identity, records)


def run_stages(config: RunConfig) -> Finished:
    """The pipeline, with what its stages returned on the way."""
    clear_caches()
    recording = Recording()
    options = {"evaluate": False, "check_preprocessing": False}
    published = run(config.model_copy(update=options), recording).published
    assert published
    assert config.model
    plan, job = recording.returned["make_plan"][-1]
    record, identity, fits = recording.given["trace_paths"][-1]
    traced = recording.returned["trace_paths"][-1]
    return Finished(
        config,
        job.model,
        plan,
        job,
        record,
        identity=identity,
        fits=fits,
        traced=traced,
        published=published,
    )


class Recording(InProcess):
    """Runs stages one after the other, and remembers by their names what they were given and what they returned."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given: dict[str, list[Any]] = {}
        self.submitted: dict[str, list[Any]] = {}
        self.returned: dict[str, list[Any]] = {}

    def run(self, stage: Callable[..., Any], *args: Any) -> Any:
        result = super().run(stage, *args)
        self.given.setdefault(stage.__name__, []).append(args)
        self.returned.setdefault(stage.__name__, []).append(result)
        return result

    def submit(self, stage: Callable[..., Any], *args: Any, name: str = "") -> Any:
        self.submitted.setdefault(stage.__name__, []).append(args)
        return super().submit(stage, *args, name=name)


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """What the pipeline logs reaches this test, also where a flow of this process has had it relayed to its run."""
    loggers = [logging.getLogger(name) for name in RUN_LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [], True
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CNN, any batch; not to be changed."""
    return write_cnn(tmp_path_factory.mktemp("cnn") / "tiny.onnx")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn images; not to be changed."""
    return write_celeba(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of 203 drawn faces of 178 x 218, 000001.jpg and so on; not to be changed."""
    return write_faces(tmp_path_factory.mktemp("photos"), 203, seed=5) / "img_align_celeba"


@pytest.fixture
def own_faces(tmp_path: Path) -> Path:
    """40 drawn images of one test's own."""
    return write_celeba(tmp_path / "faces")


@pytest.fixture
def configure(tmp_path: Path, cnn: Path, faces: Path) -> Callable[..., RunConfig]:
    """A run on the tiny CNN and the 40 images; options by keyword."""

    def make(**options: Any) -> RunConfig:
        defaults: dict[str, Any] = {
            "model": cnn,
            "data_root": faces,
            "cache_root": tmp_path / "cache",
            "name": "T",
            "k": 3,
            "preprocessing": "unit",
            "shard_size": 16,
            "batch_size": 8,
        }
        return RunConfig(**defaults | options)

    return make
