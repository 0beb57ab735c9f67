"""What a run reads and where it writes, checked in milliseconds: before a server is started or a library of models imported.

Belongs here: whether files and directories exist. What is in them is checked by the stages, which find them by the same
functions.
"""

from __future__ import annotations

from pathlib import Path

from clusterpaths.common.extras import require_umap
from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.datasets.acquire import find_data
from clusterpaths.errors import DiskError
from clusterpaths.models.find import default_model, require_model
from clusterpaths.records import data_set_title
from clusterpaths.storage.atomic import require_writable


def require_inputs(config: RunConfig) -> None:
    """Check that the model and the data directory exist, and that the results can be written.

    Raises:
        ModelError: as `model_path`.
        ConfigError: --map umap without its extra.
        ConfigError, DatasetError: as `datasets.acquire.find_data`.
        DiskError: the directory of the results cannot be written, or one on the way to an input may not be read.
    """
    if config.map == "umap":
        require_umap()
    try:
        model_path(config)
        find_data(config)
    except PermissionError as error:
        raise DiskError(f"{error.filename} may not be read ({error.strerror}). Allow it, or name another.") from error
    if not config.cache_dir.request_per_file:  # of a bucket, `Storage.require` asks the server
        require_writable(config.cache_dir.path)


def model_path(config: RunConfig) -> Path:
    """The model file of a run.

    Raises:
        ModelError: there is none.
    """
    drawn = config.sample or config.dataset == "faces"
    path = config.model or default_model(SAMPLE_MODEL if drawn else "CelebA_CNN")
    return require_model(path.expanduser())


def describe(config: RunConfig, what: str = "") -> tuple[str, ...]:
    """What a run will do, in a few lines.

    Args:
        config: of the run.
        what: is clustered; the images and the model of the configuration if left out.

    Raises:
        ModelError: there is no model.
    """
    layers = ", ".join(config.layers) if config.layers else "all of them" if what else "those of the model"
    return (
        f"Cluster paths of {what or f'{_images(config)} through {model_path(config)}'}",
        f"  layers {layers}; k {config.k}, {config.distance} distance, seed {config.seed}; {config.workers} workers",
        f"  results in {config.cache_dir}",
    )


def _images(config: RunConfig) -> str:
    images = f"the first {config.subset:,} of " if config.subset else ""
    if config.sample or config.dataset == "faces":
        return f"{images}{config.sample_size:,} drawn faces"
    return images + " in ".join(filter(None, [data_set_title(config.dataset), str(config.data_root or "")]))
