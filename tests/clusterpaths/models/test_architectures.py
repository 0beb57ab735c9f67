"""Whole runs of torchvision's architectures over 80 images: what lies in the cache is what PyTorch computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import CLUSTERINGS, require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.datasets import open_dataset, read_table
from clusterpaths.extraction.sessions import release_sessions
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from tests.architectures import ARCHITECTURES, SIZES, Exported, exported, hooked
from tests.clusterpaths.conftest import Finished, run_stages
from tests.clusterpaths.models.test_layers import PROPOSALS
from tests.runs import assert_contract, assert_same_documents

IMAGES, SHARD, BATCH, K = 80, 20, 10, 4
EXPORTER = {
    "alexnet": "torchscript",
    "resnet18": "dynamo",
    "mobilenet_v3_small": "torchscript",
    "efficientnet_b0": "dynamo",
    "vit": "dynamo",
    "convnext": "torchscript",
}
# Of these layers a part is kept; of the others, all.
REDUCED = {
    "resnet18": {"layer1.1": "gap", "layer2.0": "max"},
    "mobilenet_v3_small": {"features.2": "mean"},
    "vit": {"encoder_layer_1": "cls", "encoder_layer_4": "tokens-mean"},
}
BY_HAND: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "none": lambda values: values,
    "gap": lambda values: values.mean(axis=(2, 3)),
    "mean": lambda values: values.mean(axis=(2, 3)),
    "max": lambda values: values.max(axis=(2, 3)),
    "cls": lambda values: values[:, 0],
    "tokens-mean": lambda values: values.mean(axis=1),
}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Images of every model run from here on, in order."""
    seen: list[int] = []
    original = TapSession._run

    def counted(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        if not (images == 0.5).all():  # a blank one shows that the model runs; it is none of the data
            seen.append(len(images))
        return original(session, images)

    monkeypatch.setattr(TapSession, "_run", counted)
    yield seen
    release_sessions()


def configured(architecture: Exported, photos: Path, cache: Path, reduce: str = "auto") -> RunConfig:
    return RunConfig(
        dataset="folder",
        model=architecture.path,
        data_root=photos,
        cache_root=cache,
        name="T",
        subset=IMAGES,
        k=K,
        size=(SIZES[architecture.name],) * 2,
        reduce=reduce,
        cache_dtype="float32",
        shard_size=SHARD,
        batch_size=BATCH,
    )


def stored(done: Finished, layer: str, ids: list[int]) -> NDArray[np.float32]:
    """Rows as they lie there, read without the library's reader."""
    return np.stack([np.load(done.directory / layer / f"{example}.npy") for example in ids])


def check_every_value(done: Finished, architecture: Exported, reduced: dict[str, str]) -> None:
    """All examples, all layers and the logits, against forward hooks on the modules."""
    table = read_table(done.job.dataset)
    dataset = open_dataset(done.job.dataset)
    logits = {row["id"]: row["logits"] for row in read_examples(done.storage, ["id", "logits"]).to_pylist()}
    modules = {**PROPOSALS[architecture.name], "logits": ""}  # "" is the network itself
    spread = dict.fromkeys(modules, 0.0)
    for start in range(0, len(done.ids), BATCH):
        ids = done.ids[start : start + BATCH].tolist()
        pixels = np.stack([fit(dataset.read_image(table.files[example]), done.job.preprocessing) for example in ids])
        expected = hooked(architecture.network, normalise(pixels, done.job.preprocessing), modules)
        for layer, values in expected.items():
            wanted = BY_HAND[reduced.get(layer, "none")](values)
            scores = layer == "logits"
            found = np.array([logits[i] for i in ids], np.float32) if scores else stored(done, layer, ids)
            assert np.isfinite(found).all()
            atol = 1e-4 * max(1.0, float(values.std()))  # the last layers of deep ones have a spread of 30
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=atol, err_msg=layer)
            spread[layer] = max(spread[layer], float(found.std(axis=0).max()))
    assert min(spread.values()) > 1e-3  # else the rows of any two images would be close


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_run_over_80_images_keeps_what_pytorch_computes_and_resumes(
    name: str, photos: Path, tmp_path: Path, batches: list[int]
) -> None:
    architecture = exported(name, EXPORTER[name])
    reduced = REDUCED.get(name, {})
    asked = ",".join(f"{layer}={way}" for layer, way in reduced.items()) or "auto"
    config = configured(architecture, photos, tmp_path, asked)
    done = run_stages(config)
    assert done.identity.layers.keys() == PROPOSALS[name].keys()
    assert {tap.layer: tap.reduce for tap in done.model.taps if tap.reduce != "none"} == reduced
    assert done.ids.tolist() == list(range(IMAGES))
    assert batches == [BATCH] * (IMAGES // BATCH)
    check_every_value(done, architecture, reduced)
    widths = {layer: int(np.prod(record.shape)) for layer, record in done.identity.layers.items()}
    assert_contract(done.published.path, IMAGES, widths, K)

    before = require_manifest(done.storage)
    lost = next(shard for shard in before.shards if shard.index == 2)
    for example in lost.row_ids().tolist():
        (done.directory / list(widths)[-1] / f"{example}.npy").unlink()
    kept = Path(shutil.move(done.published.path, tmp_path / "kept"))  # or it would be found
    assert not (done.directory / CLUSTERINGS).exists()  # so they are made again, of what is read then
    batches.clear()
    again = run_stages(config)
    assert again.plan.pending == (lost.index,)
    assert batches == [BATCH] * (SHARD // BATCH)
    assert require_manifest(done.storage).shards == before.shards  # with the checksums of their rows
    assert_same_documents(again.published.path, kept)


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_both_exporters_lead_to_the_same_paths(name: str, photos: Path, tmp_path: Path) -> None:
    """With what auto keeps of large layers, "large" being less here, for both are small models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clusterpaths.models.reduce.LARGE", {"resnet18": 4096, "vit": 700}[name])
        runs = [
            run_stages(
                configured(exported(name, exporter), photos, tmp_path / exporter).model_copy(update={"subset": 50})
            )
            for exporter in ("torchscript", "dynamo")
        ]
    release_sessions()
    one, other = runs
    ways = {tap.layer: tap.reduce for tap in one.model.taps}
    assert ways == {tap.layer: tap.reduce for tap in other.model.taps}
    assert set(ways.values()) == {"none", {"resnet18": "gap", "vit": "tokens-mean"}[name]}
    for layer in one.identity.layers:
        np.testing.assert_allclose(
            stored(one, layer, one.ids.tolist()), stored(other, layer, one.ids.tolist()), rtol=1e-3, atol=1e-4
        )
    paths = [(each.published.path / "paths.json").read_bytes() for each in runs]
    assert paths[0] == paths[1]
