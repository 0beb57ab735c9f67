"""Cluster a cache again: `python flows/recluster.py --name CelebA --k 7`.

Extracts only what is new in the data directory, publishes the next set and compares it with the one before. If
nothing is new and no setting changed, it logs so and publishes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clusterpaths.common import roots
from clusterpaths.config import CacheRoot, RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.records import Distance
from clusterpaths.sets.find import find_named, set_config
from flows.pipeline import cluster_paths, path_of
from flows.shell import invalid, run, set_up_logging


class ReclusterConfig(BaseModel):
    """Cluster again what is cached under a name, with the last set's settings or changed ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "CelebA",
        description="results' directory in the cache root; NAME/set_NN: use the settings of that set, not of the newest",
    )
    k: int | str | None = Field(
        None, description="clusters per layer: 7, or conv3=15, or 8,conv3=15, or auto: chosen again [the last set's]"
    )
    distance: Distance | Literal["auto"] | None = Field(
        None, description="cosine or euclidean, or auto: the one with the higher decision alignment [the last set's]"
    )
    seed: int | None = Field(None, ge=0, description="random seed [the last set's]")
    layers: str | None = Field(None, description="layers to cluster, such as conv3,fc1 [the last set's]")
    subset: int | None = Field(None, ge=1, description="only the first N examples [the last set's]")
    workers: int | None = Field(None, ge=1, description="concurrent tasks [the last run's]")
    engine: Literal["threads", "dask"] = Field("threads", description=RunConfig.model_fields["engine"].description)
    dask_address: str | None = Field(None, description=RunConfig.model_fields["dask_address"].description)
    cache_root: CacheRoot | None = Field(None, description="where results are [activation_cache]")


@flow(name="recluster", flow_run_name="recluster {name}")
def recluster(
    name: str = "CelebA",
    k: int | str | None = None,
    distance: Distance | Literal["auto"] | None = None,
    seed: int | None = None,
    layers: str | None = None,
    subset: int | None = None,
    workers: int | None = None,
    engine: Literal["threads", "dask"] = "threads",
    dask_address: str | None = None,
    cache_root: CacheRoot | None = None,
) -> Path | None:
    """Cluster again what is cached under a name, with the last set's settings or changed ones.

    Args:
        name: results' directory in the cache root; NAME/set_NN: use the settings of that set, not of the newest
        k: clusters per layer: 7, or conv3=15, or 8,conv3=15, or auto: chosen again [the last set's]
        distance: cosine or euclidean, or auto: the one with the higher decision alignment [the last set's]
        seed: random seed [the last set's]
        layers: layers to cluster, such as conv3,fc1 [the last set's]
        subset: only the first N examples [the last set's]
        workers: concurrent tasks [the last run's]
        engine: where shards and layers run: threads of this process, or Dask workers (extra [dask])
        dask_address: scheduler of an existing Dask cluster, such as tcp://10.0.0.5:8786 [a cluster on this machine]
        cache_root: where results are [activation_cache]
    """
    set_up_logging()  # before anything can fail
    asked = {"k": k, "distance": distance, "seed": seed, "layers": layers, "subset": subset, "workers": workers}
    changes: dict[str, Any] = {option: value for option, value in asked.items() if value is not None}
    changes |= {
        "engine": engine,
        "dask_address": dask_address,
    }  # the engine of the last run is not reused
    before = set_config(find_named(cache_root or roots.cache_root(), name))
    try:
        config = RunConfig(**{**before, **changes, "compare": True, "refresh": False, "plan": False})
    except ValidationError as error:
        raise ConfigError(f"Invalid settings: {invalid(error)}.") from error

    outcome = cluster_paths(config)
    if not outcome.new and outcome.published:
        get_run_logger().info(
            "Nothing new in the data directory and no setting changed since %s: no set was published",
            outcome.published.record.set,
        )
    return path_of(outcome)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run(recluster, ReclusterConfig, argv, flat=True)


if __name__ == "__main__":
    main()
