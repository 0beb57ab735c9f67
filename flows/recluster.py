"""Cluster a cache again: `python flows/recluster.py --name CelebA --k 7`.

Extracts only what is new in the data directory, publishes the next set and compares it with the one before. If
nothing is new and no setting changed, it logs so and publishes nothing.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("recluster")

from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger

from clusterpaths.config import CacheRoot
from clusterpaths.records import Distance, MapMethod
from flows.options import ReclusterConfig
from flows.pipeline import cluster_paths, path_of
from flows.shell import set_up_logging


@flow(name="recluster", flow_run_name="recluster {name}")
def recluster(
    name: str = "CelebA",
    k: int | str | None = None,
    distance: Distance | Literal["auto"] | None = None,
    seed: int | None = None,
    layers: str | None = None,
    subset: int | None = None,
    map: MapMethod | None = None,  # noqa: A002 - the option's name
    workers: int | None = None,
    engine: Literal["threads", "dask"] = "threads",
    dask_address: str | None = None,
    cache_root: CacheRoot | None = None,
    data_root: Path | None = None,
    model: Path | None = None,
    labels: Path | None = None,
    class_names: Path | None = None,
) -> Path | None:
    """Cluster again what is cached under a name, with the last set's settings or changed ones.

    Args:
        name: results' directory in the cache root; NAME/set_NN: use the settings of that set, not of the newest
        k: clusters per layer: 7, or conv3=15, or 8,conv3=15, or auto: chosen again [the last set's]
        distance: cosine or euclidean, or auto: the one with the higher decision alignment [the last set's]
        seed: random seed [the last set's]
        layers: layers to cluster, such as conv3,fc1 [the last set's]
        subset: only the first N examples [the last set's]
        map: what the layers' maps show: pca or umap (extra [umap]) [the last set's]
        workers: concurrent tasks [the last run's]
        engine: where shards and layers run: threads of this process, or Dask workers (extra [dask])
        dask_address: scheduler of an existing Dask cluster, such as tcp://10.0.0.5:8786 [a cluster on this machine]
        cache_root: where results are [activation_cache]
        data_root: directory of the images, if it was moved [where it was; beside the results, if they were moved]
        model: the set's ONNX file, if it was moved [as data_root]
        labels: CSV file with labels, if it was moved [as data_root]
        class_names: file with class names, if it was moved [as data_root]
    """
    set_up_logging()  # before anything can fail
    given = ReclusterConfig(
        name=name, k=k, distance=distance, seed=seed, layers=layers, subset=subset, map=map, workers=workers, engine=engine,
        dask_address=dask_address, cache_root=cache_root, data_root=data_root, model=model, labels=labels,
        class_names=class_names,
    )  # fmt: skip
    outcome = cluster_paths(given.run_config())
    if not outcome.new and outcome.published:
        get_run_logger().info(
            "Nothing new in the data directory and no setting changed since %s: no set was published",
            outcome.published.record.set,
        )
    return path_of(outcome)
