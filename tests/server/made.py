"""Small real sets for tests of the server: drawn faces through the committed sample model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.pipeline import run
from tests.runs import SAMPLE_MODEL

COUNT = 60
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
FOREIGN_PATHS = {"example_0003": [1, 0], "example_0007": [0, 0], "example_12000": [1, 2]}
FOREIGN_CENTROIDS = {"early": [[0.5, 1e-05], [0.0, 2.0]], "late": [[1.0], [2.0], [3.25]]}
FOREIGN_METADATA = {"num_examples": 3, "layers": ["early", "late"], "k": 3}


def make_set(cache_root: Path, **options: Any) -> Path:
    """Run all stages; the folder of the set."""
    defaults: dict[str, Any] = {"model": SAMPLE_MODEL, "cache_root": cache_root, "workers": 1, "evaluate": False}
    published = run(RunConfig(**defaults | options)).published
    assert published
    return published.path


def draw_faces(root: Path, count: int = COUNT) -> Path:
    """A folder that holds celeba/ with that many faces."""
    write_faces(root, count, seed=7)
    return root


def write_foreign(cache_root: Path, name: str = "Old") -> Path:
    """A set as another program leaves it: three documents and nothing else; the folder of the set."""
    folder = cache_root / name / "set_01"
    folder.mkdir(parents=True)
    (folder / "paths.json").write_text(json.dumps(FOREIGN_PATHS, indent=1))
    (folder / "centroids.json").write_text(json.dumps(FOREIGN_CENTROIDS))
    (folder.parent / "metadata.json").write_text(json.dumps(FOREIGN_METADATA, indent=2))
    return folder
