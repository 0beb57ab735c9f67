"""Files that people and other programs write beside images and models: labels, annotations, logs, names, preprocessing.

Belongs here: which file is mutated how, and who reads it. As in `documents.py`, a reader gives a value or an error of
clusterpaths/errors.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clusterpaths.config import RunConfig
from clusterpaths.datasets.activations import open_activations, write_shown
from clusterpaths.datasets.arrays import open_arrays
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.datasets.folder import open_folder
from clusterpaths.errors import ClusterPathsError
from clusterpaths.models.class_names import find_class_names, read_names
from clusterpaths.models.sidecar import read_sidecar
from clusterpaths.monitoring.log_format import LOG_KEY, LogNote
from clusterpaths.monitoring.prediction_log import read_log
from clusterpaths.naming.endpoint import _parse
from clusterpaths.naming.prompts import read_answer
from clusterpaths.records import DatasetSpec
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from deployments.path_service.journal import Journal, convert_journal
from tests.fuzz.documents import Document, require_paragraph
from tests.fuzz.engine import Case
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_npy, mutate_npz, mutate_parquet, mutate_text
from tests.runs import SAMPLE_MODEL, run_pipeline

SECONDS = 20.0
SET = "cache/Faces/set_01"
_ENDPOINT = {
    "choices": [{"message": {"content": '{"name": "long hair"}', "role": "assistant"}}],
    "usage": {"total_tokens": 12},
}
_HUGGING_FACE = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3,
    "do_rescale": True, "rescale_factor": 0.00392, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "do_center_crop": True, "crop_size": {"height": 200, "width": 200}, "crop_pct": 0.9,
}  # fmt: skip
_TORCHVISION = {
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "resize_size": [256], "crop_size": [224],
    "interpolation": "bilinear",
}  # fmt: skip


def prepare(root: Path) -> None:
    """A set, a directory of images with labels, CelebA's files, arrays, logs, files beside a model."""
    write_faces(root / "faces", 40, seed=1)
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=root / "faces", cache_root=str(root / "cache"), name="Faces", layers=("fc1", "fc2"), k=4,
        evaluate=False,
    )  # fmt: skip
    run_pipeline(config)
    images = sorted((root / "faces" / "celeba" / "img_align_celeba").iterdir())[:12]
    (root / "folder").mkdir()
    lines = ["file,label,split,Smiling"]
    for i, image in enumerate(images):
        shutil.copyfile(image, root / "folder" / image.name)
        lines.append(
            f"{image.name},{'cat' if i % 2 else 'dog'},{('train', 'valid', 'test')[i % 3]},{('yes', 'no')[i % 2]}"
        )
    (root / "folder" / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "arrays").mkdir()
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (6, 8, 8, 3)).astype(np.uint8), np.arange(6) % 3
    np.savez(root / "arrays" / "images.npz", x_train=pixels, y_train=labels, x_test=pixels[:2], y_test=labels[:2])
    (root / "one").mkdir()
    np.save(root / "one" / "images.npy", pixels)
    np.save(root / "one" / "labels.npy", labels)
    write_shown(open_storage(root / "shown"), "", {"0": "a text", "1": "another"})
    _write_logs(root)
    (root / "beside").mkdir()
    (root / "beside" / "names.json").write_text(json.dumps({"0": "cat", "1": "dog"}))
    (root / "beside" / "names.txt").write_text("cat\ndog\nbird\n")
    (root / "beside" / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    (root / "beside" / "preprocessor_config.json").write_text(json.dumps(_HUGGING_FACE))
    (root / "beside" / "model.json").write_text(json.dumps(_TORCHVISION))
    (root / "beside" / "answer.json").write_text(json.dumps(_ENDPOINT))


def _write_logs(root: Path) -> None:
    published = open_set(root / SET)
    for name in ("log", "csv", "journal"):
        (root / name).mkdir()
    note = LogNote(
        set=published.name,
        fingerprint=published.record.fingerprint,
        model=published.record.model.sha256,
        layers=published.layers,
    )
    n = 6
    table = pa.table(
        {
            "time": pa.array([10**15 + i * 10**6 for i in range(n)], pa.timestamp("us", tz="UTC")),
            "id": [f"r{i}" for i in range(n)],
            "image": ["0" * 64] * n,
            "path": pa.array([[i % 4, 0] for i in range(n)], pa.list_(pa.int32())),
            "distances": pa.array([[0.1, 0.2]] * n, pa.list_(pa.float32())),
            "ood_score": pa.array([0.5] * n, pa.float32()),
            "prediction": pa.array([i % 3 for i in range(n)], pa.int32()),
            "confidence": pa.array([0.9] * n, pa.float32()),
        }
    ).replace_schema_metadata({LOG_KEY: note.model_dump_json()})
    pq.write_table(table, root / "log" / "a.parquet")
    rows = [f"2026-01-31T09:30:0{i}Z,r{i},{i % 4}-0,0.5,{i % 3},{published.record.fingerprint}" for i in range(n)]
    (root / "csv" / "a.csv").write_text("\n".join(["time,id,path,ood_score,prediction,fingerprint", *rows]) + "\n")
    journal = Journal(root / "journal", "rows", table.schema, fsync=False)
    for batch in table.to_batches(max_chunksize=2):
        journal.append(batch)
    journal.close()
    (root / "journal" / "rows").write_bytes(journal.path.read_bytes())


def _folder(root: Path) -> Any:
    found = open_folder(DatasetSpec(name="folder", root=str(root / "folder"))).examples()
    return found.labels, found.class_names, found.splits, found.attributes


def _celeba(root: Path) -> Any:
    found = open_celeba(root / "faces").examples()
    return found.labels, found.splits, found.attributes


def _arrays(name: str) -> Callable[[Path], Any]:
    def read(root: Path) -> Any:
        data = open_arrays(DatasetSpec(name="arrays", root=str(root / name)))
        table = data.examples()
        return [(data.read_image(file), data.digest(file)) for file in table.files[:3]]

    return read


def _shown(root: Path) -> Any:
    data = open_activations(DatasetSpec(name="activations", root=str(root / "shown")))
    with contextlib.suppress(FileNotFoundError):  # as `Dataset.read_image` says
        return data.read_image("0"), data.digest("1")
    return None


def _log(name: str) -> Callable[[Path], Any]:
    return lambda root: read_log([root / name], open_set(root / SET))


def _journal(root: Path) -> Any:
    """A journal's complete rows, with those of its frames whose checksum is right."""
    journal = root / "journal" / ".rows.journal"
    target = journal.with_name("rows.parquet")
    target.unlink(missing_ok=True)
    found = next(path for path in (root / "journal").iterdir() if path.name.startswith(".rows"))
    content = (root / "journal" / "rows").read_bytes()
    found.write_bytes(content)
    try:
        rows = convert_journal(found)
        assert rows in range(7)
        return rows
    finally:
        found.write_bytes(content)


def _side(name: str, size: tuple[int, int] | None) -> Callable[[Path], Any]:
    return lambda root: read_sidecar(root / "beside" / name, size)


def _answer(root: Path) -> Any:
    content = (root / "beside" / "answer.json").read_bytes()
    return _parse(content, 5, "host"), read_answer(content.decode("utf-8", "replace"), ("name",))


FILES = (
    Document("folder/labels.csv", mutate_text, _folder),
    Document("faces/celeba/list_attr_celeba.txt", mutate_text, _celeba),
    Document("faces/celeba/list_eval_partition.txt", mutate_text, _celeba),
    Document("arrays/images.npz", mutate_npz, _arrays("arrays/images.npz")),
    Document("one/images.npy", mutate_npy, _arrays("one/images.npy")),
    Document("one/labels.npy", mutate_npy, _arrays("one/images.npy")),
    Document("shown/texts.parquet", mutate_parquet, _shown),
    Document("shown/shown.json", mutate_json, _shown),
    Document("log/a.parquet", mutate_parquet, _log("log/a.parquet")),
    Document("csv/a.csv", mutate_text, _log("csv/a.csv")),
    Document("journal/rows", mutate_bytes, _journal),
    Document("beside/names.json", mutate_json, lambda root: read_names(root / "beside" / "names.json")),
    Document("beside/names.txt", mutate_text, lambda root: read_names(root / "beside" / "names.txt")),
    Document("beside/config.json", mutate_json, lambda root: find_class_names({}, root / "beside" / "model.onnx")),
    Document("beside/preprocessor_config.json", mutate_json, _side("preprocessor_config.json", None)),
    Document("beside/preprocessor_config.json", mutate_json, _side("preprocessor_config.json", (224, 224))),
    Document("beside/model.json", mutate_json, _side("model.json", None)),
    Document("beside/answer.json", mutate_json, _answer),
)


def open_kind(root: Path, scratch: Path) -> Case:
    """A case: a file in a copy of the directory is mutated, read, and restored."""
    here = scratch / "work"
    shutil.copytree(root, here)

    def run(rng: random.Random) -> tuple[str, str]:
        one = rng.choice(FILES)
        path = here / one.file
        before = path.read_bytes()
        try:
            path.write_bytes(one.mutate(rng, before))
            one.read(here)
            return one.file, "read"
        except ClusterPathsError as error:
            require_paragraph(error, one.file)
            return one.file, "refused"
        except BaseException as error:
            error.add_note(one.file)
            raise
        finally:
            path.write_bytes(before)

    return run
