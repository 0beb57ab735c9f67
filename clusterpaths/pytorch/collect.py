"""`cp.collect`: activations of a PyTorch model on a loader's examples, into the cache that a run fills; then the same stages.

Belongs here: the call, its options and the order. The model is `network.py`, batches `batches.py`, what is written `shards.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clusterpaths.common.extras import require_extra
from clusterpaths.common.malloc import share_arenas
from clusterpaths.config import RunConfig
from clusterpaths.datasets.activations import COLLECTED
from clusterpaths.errors import CacheError, ConfigError, CorruptedShardError
from clusterpaths.notebook.run import require_options, validated
from clusterpaths.pipeline import cluster_prepared, log
from clusterpaths.pytorch.batches import Loader
from clusterpaths.pytorch.collection import Collection
from clusterpaths.pytorch.first import Asked
from clusterpaths.pytorch.network import Forward, Network
from clusterpaths.running.report import Outcome, Report
from clusterpaths.running.runner import InProcess
from clusterpaths.running.timer import StageTimer
from clusterpaths.sets.published import PublishedSet

OPTIONS = (
    "k", "distance", "fit", "seed", "output_kind", "cache_dtype", "cache_format", "evaluate", "evaluation_images", "compare",
    "alert_below", "workers", "wait", "map", "refresh", "fingerprint",
)  # fmt: skip
"""Fields of `RunConfig` that `collect` takes."""


def collect(
    model: Any,
    loader: Any,
    *,
    out: str | os.PathLike[str],
    layers: str | Sequence[str] = "auto",
    output: str | int | None = None,
    reduce: str = "auto",
    device: Any = None,
    autocast: Any = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
    forward: Forward | None = None,
    images: bool = True,
    **options: Any,
) -> PublishedSet:
    """Run a PyTorch model on a loader's examples, keep its activations, cluster them, and publish the set.

    What is there is not computed again: of the same model and examples only the first batch is run, and an interrupted call
    continues where it was. The model runs in evaluation mode, without gradients; its own mode is restored.

        paths = cp.collect(model, loader, layers=["layer3", "avgpool"], out="activation_cache/mine")

    Args:
        model: torch.nn.Module, on any device.
        loader: DataLoader that does not shuffle, or an iterable of batches: x, (x, labels), or a dict of tensors such as
            pixel_values and labels.
        out: the directory of the results.
        layers: modules as `named_modules` calls them, patterns (`layer*`, where * ends at a dot), MODULE:input, "auto" (at most 6
            over the depth) or "auto:N".
        output: the key or index of the class scores in the model's output, or "none"; if left out, the tensor that is called
            logits or the like, else the first with one row of scores per example.
        reduce: as `RunConfig.reduce`.
        device: where batches are moved; the model's own, if left out. The model is never moved.
        autocast: True, torch.bfloat16 or torch.float16: the precision that the model runs in.
        class_names: of the predictions; if left out, those of a transformers model's configuration, or of the data set.
        preprocessing: how an image becomes the model's input (a record, its fields, or a preset), for what runs the model on
            other images; if left out, it is read from the data set's transform.
        forward: called with the model and a batch's inputs, in place of the model.
        images: whether images that have no files are stored, to be shown.
        options: fields of `RunConfig`: those named in `OPTIONS`, such as k, distance, seed, evaluate and refresh.

    Returns:
        The published set; the one that is there, if it was published before.

    Raises:
        ConfigError: unknown options or values.
        ModelError: no such layer or output, or one without a row for each example.
        DatasetError: a loader that shuffles, is empty, or gives no tensors.
        CacheError: the directory has activations of another model or of other examples.
        ExtractionError: values that are not finite.
    """
    require_extra("collect()", "torch", "torch")
    asked = Asked(
        layers=(layers,) if isinstance(layers, str) else tuple(layers),
        output=output,
        reduce=reduce,
        class_names=None if class_names is None else tuple(map(str, class_names)),
        preprocessing=preprocessing,
        images=images,
    )
    if not asked.layers:
        raise ConfigError('layers should name at least one module, or "auto".')
    config = configure(out, options)
    outcome = run_collect(config, asked, Network(model, device, autocast, forward), Loader(loader))
    assert outcome.published is not None  # nothing is only planned
    return outcome.published


def configure(out: str | os.PathLike[str], options: dict[str, Any]) -> RunConfig:
    """The configuration of the stages.

    Raises:
        ConfigError: as `collect`.
    """
    require_options("collect", options, OPTIONS, OPTIONS)
    if options.get("cache_format") == "none":
        raise ConfigError("collect() keeps activations: cache_format should be npy or zarr, got none.")
    if "://" in os.fspath(out):
        raise ConfigError(f"out should be a directory on this machine, got {os.fspath(out)!r}.")
    place = Path(out).expanduser().absolute()
    given = {"dataset": COLLECTED, "name": place.name, "cache_root": str(place.parent), "reduce": "auto"}
    return validated("collect", given | options)


def run_collect(
    config: RunConfig, asked: Asked, network: Network, loader: Loader, report: Report | None = None
) -> Outcome:
    """As `collect`, of a configuration; with what the stages did."""
    share_arenas()
    runner, report, timer, results = InProcess(config.workers), report or Report(), StageTimer(), config.cache_dir
    with results.lock(config.wait, log.warning), ExitStack() as until_done:
        until_done.enter_context(runner)
        collection = Collection(config, asked, network, loader, report.progress)
        repaired: set[int] = set()
        while True:
            with timer("check"):
                collection.begin()
            with timer("extract") as did:
                did.images = collection.fill()
                did.detail = f"{did.images:,} examples"
            prepared = collection.prepared()
            try:
                outcome = cluster_prepared(config, prepared, runner, report, timer)
                break
            except CorruptedShardError as damage:
                if damage.shard in repaired:
                    raise CacheError(
                        f"Shard {damage.shard} of {results} was corrupted, collected again, and is corrupted again. The "
                        "disk does not return what was written. Check it, or use another directory."
                    ) from damage
                repaired.add(damage.shard)
    report.outcome(outcome)
    return outcome
