"""The options of `clusterpaths activations`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from clusterpaths.config import DEFAULT_K, CacheRoot, Names, RunConfig, available_cores
from clusterpaths.datasets.activations import NAME
from clusterpaths.records import Distance, MapMethod, Record


class ActivationsConfig(Record):
    """What describes the rows, and how they are clustered."""

    name: str | None = Field(None, description="name of the results' directory [that of DIR]")
    layers: Names | None = Field(
        None,
        description="layers to cluster, in this order: names or patterns such as conv* [all, in order of their names]",
    )
    examples: Path | None = Field(
        None,
        description="a table of the examples (CSV or parquet): id, file, split, label, prediction, text; other columns of yes "
        "and no become attributes, and the rest is shown [examples.csv or .parquet in DIR]",
    )
    predictions: Path | None = Field(
        None,
        description="the model's predictions: a .npy file of class numbers (n,) or of scores (n, classes), or a table with the "
        "column prediction [predictions.npy, .csv or .parquet in DIR]",
    )
    labels: Path | None = Field(
        None,
        description="labels: a .npy file of class numbers (n,), or a table with the column label [as for predictions]",
    )
    ids: Path | None = Field(
        None, description="a .npy file with the id of each row, in any order [ids.npy in DIR, else 0, 1 …]"
    )
    images: Path | None = Field(
        None, description="directory of the examples' images, in order of their names or as the column file names them"
    )
    chunks: bool = Field(False, description="LAYER/0.npy, LAYER/1.npy … are chunks of rows [one example each]")
    k: int | str = Field(DEFAULT_K, description="clusters per layer: 5, or conv3=15 (others 5), or 8,conv3=15, or auto")
    distance: Distance | Literal["auto"] = Field("cosine", description="cosine or euclidean, or auto")
    fit: Literal["sample", "all"] = Field(
        "sample",
        description="examples that centroids are fitted on: a sample of 800 per cluster, at least 4,096; or all",
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    map: MapMethod | None = Field(None, description=RunConfig.model_fields["map"].description)
    cache_root: CacheRoot | None = Field(
        None, description="where results go, one directory per name [activation_cache]"
    )
    workers: int = Field(default_factory=available_cores, ge=1, description="concurrent tasks [cores of this machine]")
    wait: float = Field(3600, ge=0, description="seconds to wait for another run on the same results; 0: fail at once")
    evaluate: bool = Field(True, description="evaluate the paths as far as that can be done without the model")
    refresh: bool = Field(False, description="use other activations under this name (published sets are preserved)")

    def run_config(self, source_name: str) -> RunConfig:
        """As the pipeline's stages take it."""
        shared = set(RunConfig.model_fields) & set(type(self).model_fields) - {"labels", "layers"}
        given = {name: getattr(self, name) for name in self.model_fields_set & shared}
        return RunConfig.model_validate(
            {"name": source_name, **{k: v for k, v in given.items() if v is not None}, "dataset": NAME}
        )
