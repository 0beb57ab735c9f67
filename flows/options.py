"""Options of the flows: what `clusterpaths images` and `clusterpaths recluster` read from a command line.

Belongs here: models that are no library's own, importable without Prefect, so that a mistake in them costs no second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clusterpaths.commands.shell import invalid
from clusterpaths.common import roots
from clusterpaths.config import IMAGES, CacheRoot, RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.records import DatasetSpec, Distance, MapMethod

if TYPE_CHECKING:
    from clusterpaths.sets.published import PublishedSet

# options for what a set's record carries
MOVABLE = {"model": "model", "data_root": "images", "labels": "labels", "class_names": "class names"}


class ImagesConfig(RunConfig):
    """Cluster paths of a directory of images, or of another data set, through one ONNX model."""

    dataset: str = Field("folder", description=RunConfig.model_fields["dataset"].description)
    model: Path | None = Field(None, description="ONNX image classifier (required but for --dataset faces)")
    sample: Annotated[bool, Parameter(show=False)] = Field(False, description="the embedded sample")
    sample_size: Annotated[int, Parameter(show=False)] = Field(2000, ge=1, description="how many faces --sample draws")


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
    map: MapMethod | None = Field(
        None, description="what the layers' maps show: pca or umap (extra [umap]) [the last set's]"
    )
    workers: int | None = Field(None, ge=1, description="concurrent tasks [the last run's]")
    engine: Literal["threads", "dask"] = Field("threads", description=RunConfig.model_fields["engine"].description)
    dask_address: str | None = Field(None, description=RunConfig.model_fields["dask_address"].description)
    cache_root: CacheRoot | None = Field(None, description="where results are [activation_cache]")
    data_root: Annotated[Path | None, IMAGES] = Field(
        None,
        description="directory of the images, if it was moved [where it was; beside the results, if they were moved]",
    )
    model: Path | None = Field(None, description="the set's ONNX file, if it was moved [as --images]")
    labels: Path | None = Field(None, description="CSV file with labels, if it was moved [as --images]")
    class_names: Path | None = Field(None, description="file with class names, if it was moved [as --images]")

    def run_config(self) -> RunConfig:
        """The configuration of the last set, with these changes.

        Raises:
            CacheError: there is no such set, or it does not record its configuration.
            ConfigError: the changed settings do not fit together, or the set's model or images are not where they were.
        """
        from clusterpaths.sets.find import find_named, set_config  # pyarrow, which --help does not need
        from clusterpaths.sets.points import shown_method

        options = ("k", "distance", "seed", "layers", "subset", "map", "workers", *MOVABLE)
        changes: dict[str, Any] = {name: value for name in options if (value := getattr(self, name)) is not None}
        changes |= {
            "engine": self.engine,
            "dask_address": self.dask_address,
        }  # the engine of the last run is not reused
        published = find_named(self.cache_root or roots.cache_root(), self.name)
        before = {**set_config(published, self.data_root), "map": shown_method(published)}
        _require_found(published, {name: path for name, path in before.items() if name not in changes})
        try:
            return RunConfig(**{**before, **changes, "compare": True, "refresh": False, "plan": False})
        except ValidationError as error:
            raise ConfigError(f"Invalid settings: {invalid(error)}.") from error


def _require_found(published: PublishedSet, config: dict[str, Any]) -> None:
    """Check that what a set was made of is where it was, or beside its results: nothing is downloaded in place of it.

    Raises:
        ConfigError: its model, images or labels are not.
    """
    from clusterpaths.sets.places import has_images

    for name, what in MOVABLE.items():
        path = config.get(name)
        if not path or (
            has_images(DatasetSpec(name=config["dataset"], root=path)) if name == "data_root" else Path(path).is_file()
        ):
            continue
        option = "images" if name == "data_root" else name.replace("_", "-")
        raise ConfigError(
            f"The {what} of {published.name} {'are' if what.endswith('s') else 'is'} no longer in {path}, and not beside the "
            f"results in {published.cache.parent} either. Name the place with --{option}."
        )
