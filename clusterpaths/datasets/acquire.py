"""Stage download: images on disk, downloaded or drawn; never silently others than requested."""

from __future__ import annotations

from collections.abc import Callable

from clusterpaths.common import roots
from clusterpaths.config import SAMPLE_NAME, SAMPLE_SEED, RunConfig
from clusterpaths.datasets import clear_caches
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.datasets.registry import fetch, find_source
from clusterpaths.errors import ConfigError
from clusterpaths.records import DatasetSpec


def acquire(config: RunConfig, log: Callable[[str], None] = lambda _: None) -> DatasetSpec:
    """The data set of a run, on disk.

    Raises:
        ConfigError: the data set needs a directory, and none is named.
        DownloadError: the network failed; a retry can help.
        DatasetError: what is there, or came, is not that data set.
    """
    clear_caches()
    if config.sample:
        root = roots.data_root() / f"{SAMPLE_NAME}-{config.sample_size}"
        log(f"The embedded sample: {config.sample_size:,} drawn faces in {root}")
        return DatasetSpec(name="celeba", root=str(write_faces(root, config.sample_size, SAMPLE_SEED)))
    source = find_source(config.dataset)
    if source.needs_root and config.data_root is None:
        raise ConfigError(f"--dataset {config.dataset} needs --data-root: {source.description}.")
    root = (config.data_root or roots.data_root()).expanduser().absolute()
    labels = str(config.labels.expanduser().absolute()) if config.labels else ""
    spec = DatasetSpec(name=config.dataset, root=str(root), labels=labels)
    fetch(spec, log)
    return spec
