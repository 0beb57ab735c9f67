from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.cache.manifest import format_ids
from clusterpaths.clustering import identity as identity_module
from clusterpaths.clustering.identity import SetIdentity, identify, identify_fits
from clusterpaths.config import RunConfig
from clusterpaths.extraction import plan as plan_module
from tests.clusterpaths.conftest import run_extraction, write_cnn, write_image

Configure = Callable[..., RunConfig]


def identity_of(config: RunConfig) -> SetIdentity:
    done = run_extraction(config)
    return identify(identify_fits(config, done.model, done.record), done.record)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"k": 4}, {"k": "conv1=4"}, {"distance": "euclidean"}, {"layers": "fc1"}, {"subset": 20},
     {"preprocessing": "imagenet"}, {"cache_dtype": "float32"}],
)  # fmt: skip
def test_each_part_of_a_run_makes_another_identity(configure: Configure, change: dict[str, Any]) -> None:
    assert identity_of(configure()).fingerprint() != identity_of(configure(name="other", **change)).fingerprint()


@pytest.mark.parametrize(
    "change", [{"batch_size": 3}, {"shard_size": 9}, {"workers": 7}, {"cache_format": "zarr"}, {"max_failures": 0.5}]
)
def test_how_it_is_made_is_no_part_of_the_identity(configure: Configure, change: dict[str, Any]) -> None:
    assert identity_of(configure()) == identity_of(configure(name="other", **change))


def test_what_the_preprocessing_is_called_is_no_part_of_the_identity(configure: Configure) -> None:
    numbers = {"preprocessing": None, "mean": (0, 0, 0), "std": (1, 1, 1)}
    assert identity_of(configure()) == identity_of(configure(name="other", **numbers))


def test_other_weights_and_other_images_make_another_identity(
    configure: Configure, tmp_path: Any, own_faces: Any
) -> None:
    base = identity_of(configure(data_root=own_faces))
    assert base == identity_of(configure(name="same"))  # the same images in another place
    assert base != identity_of(configure(name="model", model=write_cnn(tmp_path / "m.onnx", seed=1)))
    write_image(own_faces / "celeba" / "img_align_celeba" / "000001.jpg", 77, (40, 40))
    assert base != identity_of(configure(name="images", data_root=own_faces))


def test_other_layers_play_no_part_in_one_layers_clustering(configure: Configure) -> None:
    both = identity_of(configure(k="3,conv1=4"))
    alone = identity_of(configure(name="alone", layers="fc1"))
    assert both.layer_fingerprint("fc1") == alone.layer_fingerprint("fc1")
    assert both.layer_fingerprint("fc1") != both.layer_fingerprint("conv1")
    assert both.layer_fingerprint("conv1") != identity_of(configure()).layer_fingerprint("conv1")


def test_fitting_on_all_is_another_identity_only_where_the_sample_is_not_all(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identity_of(configure()).fingerprint() == identity_of(configure(fit="all")).fingerprint()
    for module in (identity_module, plan_module):
        monkeypatch.setattr(module, "fit_size", lambda _k: 12)
    small, every = identity_of(configure(name="s")), identity_of(configure(name="a", fit="all"))
    assert small.fingerprint() != every.fingerprint()
    assert (small.examples, small.num_examples) == (every.examples, every.num_examples)


def test_examples_that_a_layer_is_not_fitted_on_play_no_part_in_its_fit(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (identity_module, plan_module):
        monkeypatch.setattr(module, "fit_size", lambda _k: 12)
    done = run_extraction(configure())
    some = done.plan.sample_ids()
    part = done.record.model_copy(update={"ids": format_ids(some), "num_examples": len(some)})
    whole, sample = (identify_fits(done.config, done.model, record) for record in (done.record, part))
    assert whole == sample
    assert identify(whole, done.record).fingerprint() != identify(whole, part).fingerprint()
    assert len(whole.fit_ids("fc1", done.ids)) == 12


def test_the_content_that_was_read_is_part_of_the_identity_whatever_size_and_name_say(configure: Configure) -> None:
    """As where an image was replaced after a run had listed it."""
    done = run_extraction(configure())
    before = identify(identify_fits(done.config, done.model, done.record), done.record)
    path = done.directory / "examples.parquet"
    table = pq.read_table(path)
    digests = table["digest"].to_pylist()
    digests[3] ^= 1
    at = table.column_names.index("digest")
    pq.write_table(table.set_column(at, "digest", pa.array(digests, pa.uint64())), path)
    after = identify(identify_fits(done.config, done.model, done.record), done.record)
    assert before.examples != after.examples
    assert before.fitted_on != after.fitted_on
    assert before.described == after.described
