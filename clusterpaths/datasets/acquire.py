"""Stage download: images on disk, downloaded or drawn; never silently others than requested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clusterpaths.common import roots
from clusterpaths.config import SAMPLE_NAME, SAMPLE_SEED, RunConfig
from clusterpaths.datasets import clear_caches
from clusterpaths.datasets.base import require_directory
from clusterpaths.datasets.registry import fetch, find_source
from clusterpaths.errors import ConfigError
from clusterpaths.records import DatasetSpec


def acquire(config: RunConfig, log: Callable[[str], None] = lambda _: None) -> DatasetSpec:
    """The data set of a run, on disk.

    Raises:
        ConfigError: as `find_data`.
        DownloadError: the network failed; a retry can help.
        DatasetError: what is there, or came, is not that data set.
    """
    clear_caches()
    spec = find_data(config)
    if config.sample:
        from clusterpaths.datasets.drawn_faces.draw import write_faces  # only here: `find_data` is to be quick

        log(f"The embedded sample: {config.sample_size:,} drawn faces in {sample_root(config)}")
        write_faces(sample_root(config), config.sample_size, SAMPLE_SEED)
    else:
        fetch(spec, log)
    return spec


def find_data(config: RunConfig) -> DatasetSpec:
    """The data set that a run names, which may have to be fetched yet. Takes milliseconds: nothing is read.

    Raises:
        ConfigError: the data set needs a directory, and none is named.
        DatasetError: there is no such data set, or its root is not a directory.
    """
    if config.sample:
        return DatasetSpec(name="celeba", root=str(sample_root(config) / "celeba"))
    source = find_source(config.dataset)
    if source.needs_root and config.data_root is None:
        raise ConfigError(f"--images is missing: --dataset {config.dataset} needs {source.description}.")
    root = (config.data_root or roots.data_root()).expanduser().absolute()
    if source.in_directory and (source.fetch is None or root.exists()):
        require_directory(str(root))
    labels = str(config.labels.expanduser().absolute()) if config.labels else ""
    return DatasetSpec(name=config.dataset, root=str(root), labels=labels)


def sample_root(config: RunConfig) -> Path:
    """Where the embedded sample is drawn: the directory that celeba/ is in."""
    return roots.data_root() / f"{SAMPLE_NAME}-{config.sample_size}"
