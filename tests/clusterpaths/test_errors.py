"""Errors cross between processes as they are: pickled by pools and Dask, from workers to the run."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from clusterpaths import errors
from clusterpaths.errors import ClusterPathsError, CorruptedShardError, Float16OverflowError, RefusedImageError

OF_ITS_OWN: dict[type[ClusterPathsError], tuple[Any, ...]] = {
    CorruptedShardError: ("shard 7 is damaged", 7),
    Float16OverflowError: (["conv1", "fc1"],),
    RefusedImageError: ("that is a text", 415),
}
ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClusterPathsError)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_with_all_that_it_carries(kind: type[ClusterPathsError], protocol: int) -> None:
    error = kind(*OF_ITS_OWN.get(kind, ("what happened, and what to do",)))
    error.told = True  # type: ignore[attr-defined] - as the log filter of a run marks it
    error.add_note("seen by worker 2")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert back.args == error.args


def test_those_with_more_than_a_message_carry_it() -> None:
    damaged = pickle.loads(pickle.dumps(CorruptedShardError("shard 7 is damaged", 7)))
    assert (str(damaged), damaged.shard) == ("shard 7 is damaged", 7)
    overflow = pickle.loads(pickle.dumps(Float16OverflowError(["conv1", "fc1"])))
    assert overflow.layers == ["conv1", "fc1"]
    assert str(overflow) == "values that float16 cannot hold (beyond 65504, or below its precision) in conv1, fc1"


def test_the_table_above_names_every_error_that_has_a_constructor_of_its_own() -> None:
    assert {kind for kind in ALL if "__init__" in vars(kind)} == set(OF_ITS_OWN)
