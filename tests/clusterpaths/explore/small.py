"""Eight examples in two layers, small enough to count by hand.

    id  a b  prediction label split  Smiling
    10  0 0  cat        cat   train  yes
    11  0 0  cat        dog   train  yes
    12  0 1  dog        dog   train  no
    13  1 1  dog        dog   train  no
    14  1 1  dog        -     train  no
    15  1 2  cat        -     train  -
    16  0 0  cat        cat   test   yes
    17  1 1  -          cat   -      yes

Cluster 3 of layer b is empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.records import ModelIdentity, Preprocessing, SetRecord

IDS = tuple(range(10, 18))
CLUSTERS = {"a": (0, 0, 0, 1, 1, 1, 0, 1), "b": (0, 0, 1, 1, 1, 2, 0, 1)}
DISTANCES = {"a": (0.3, 0.1, 0.2, 0.4, 0.2, 0.1, 0.2, 0.3), "b": (0.2, 0.4, 0.1, 0.5, 0.1, 0.3, 0.3, 0.3)}
COLUMNS: dict[str, Any] = {
    "id": IDS,
    "file": [f"{i}.jpg" for i in IDS],
    "split": ["train"] * 6 + ["test", ""],
    "label": pa.array([0, 1, 1, 1, -1, -1, 0, 0], pa.int16()),
    "prediction": pa.array([0, 0, 1, 1, 1, 0, 0, -1], pa.int16()),
}
SMILING = (1, 1, -1, -1, -1, 0, 1, 1)


def write_small(root: Path, model: str = "Small", name: str = "set_01", **changes: Any) -> Path:
    """A results' folder with this one set; `changes` are fields of its record. Returns the set's folder."""
    folder = root / model / name
    folder.mkdir(parents=True, exist_ok=True)
    columns = dict(COLUMNS)
    for layer in CLUSTERS:
        columns[layer] = pa.array(CLUSTERS[layer], pa.int16())
        columns[f"distance.{layer}"] = pa.array(DISTANCES[layer], pa.float32())
    pq.write_table(pa.table(columns), folder / "paths.parquet")
    scores = [[2.0, 0.0] if prediction == 0 else [0.0, 2.0] for prediction in COLUMNS["prediction"].to_pylist()]
    more = {  # of one example more than the set has
        "id": [9, *IDS],
        "logits": pa.array([[5.0, 0.0], *scores[:-1], None], pa.list_(pa.float32())),
        "attr_Smiling": pa.array([-1, *SMILING], pa.int8()),
    }
    pq.write_table(pa.table(more), folder.parent / "examples.parquet")
    fields: dict[str, Any] = {
        "set": name,
        "fingerprint": "0" * 64,
        "model": ModelIdentity(file="small.onnx", sha256="1" * 64),
        "dataset": "images",
        "data_root": "nowhere",
        "preprocessing": Preprocessing(name="unit", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), resize="bilinear"),
        "layers": ("a", "b"),
        "k_per_layer": {"a": 2, "b": 4},
        "distance": "cosine",
        "seed": 0,
        "num_examples": len(IDS),
        "num_failed": 0,
        "class_names": ("cat", "dog"),
        "attributes": ("Smiling",),
        "clusters": {},
        "created": "2026-01-01T00:00:00+00:00",
    }
    record = SetRecord(**(fields | changes))
    (folder / "set.json").write_text(record.model_dump_json())
    return folder


def small(root: Path, **changes: Any) -> SetIndex:
    """The same, opened."""
    folder = write_small(root, **changes)
    return Library(root).set(folder.parent.name, folder.name)


def ids_of(examples: Any) -> list[int]:
    return [example.id for example in examples]
