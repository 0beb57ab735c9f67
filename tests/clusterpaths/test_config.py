from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from clusterpaths.config import RunConfig, parse_k
from clusterpaths.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (5, (5, {})),
        ("8", (8, {})),
        ("conv3=15", (5, {"conv3": 15})),
        ("8,conv3=15", (8, {"conv3": 15})),
        ("auto", (None, {})),
        ("auto,conv3=15", (None, {"conv3": 15})),
        ("8,conv3=auto", (8, {"conv3": None})),
        (" 8 , conv3 = 15, fc1=2", (8, {"conv3": 15, "fc1": 2})),
    ],
)
def test_k_is_one_number_or_one_a_layer(text: int | str, parsed: tuple[int | None, dict[str, int | None]]) -> None:
    assert parse_k(text) == parsed


BAD = [
    ({"k": 0}, "should be >= 1, got 0 instead"),
    ({"k": "conv3=-2"}, "should be >= 1, got -2 instead"),
    ({"k": "conv3="}, "should be a number such as 5, or conv3=15"),
    ({"k": "many"}, "should be a number such as 5, or conv3=15, got 'many'"),
    ({"k": 40_000}, "should be <= 32767"),
    ({"colour": "red"}, "Extra inputs are not permitted"),
    ({"name": "../x"}, "should be a plain directory name"),
    ({"name": ""}, "should be a plain directory name"),
    ({"name": ".."}, "should be a plain directory name"),
    ({"name": "a/b"}, "should be a plain directory name"),
    ({"name": ".hidden"}, "should be a plain directory name"),
    ({"layers": ","}, "should name at least one layer"),
    ({"subset": 0}, "greater than or equal to 1"),
    ({"size": "0x64"}, "greater than or equal to 1"),
    ({"size": "64x64x64"}, "at most 2 items"),
    ({"distance": "manhattan"}, "'cosine' or 'euclidean'"),
    ({"max_failures": 1.5}, "less than or equal to 1"),
    ({"sample": True, "data_root": "x"}, "--sample draws its own images"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig(**options)


def test_lists_and_sizes_may_be_written_as_words() -> None:
    config = RunConfig(layers="conv1, fc1", mean="0,0.5,1", std=[1, 1, 2], size="64")
    assert (config.layers, config.mean, config.std) == (("conv1", "fc1"), (0, 0.5, 1), (1, 1, 2))
    assert config.size == (64, 64)
    assert RunConfig(size="32x48").size == (32, 48)


def test_k_of_a_layer_that_is_not_clustered_is_refused() -> None:
    assert RunConfig(k="7,fc1=2").k_per_layer(("conv1", "fc1")) == {"conv1": 7, "fc1": 2}
    with pytest.raises(ConfigError, match="--k names fc9, which is not clustered"):
        RunConfig(k="fc9=2").k_per_layer(("conv1", "fc1"))
