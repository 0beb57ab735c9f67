"""Changes to an entire cache are interrupted between any two of their steps; the next run ends as if they had not been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import consolidate, require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.extraction.begin import begin_extraction, mark_missing, widen_layers
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.storage.directory import Directory
from tests.clusterpaths.conftest import (
    LAYERS,
    NUMBERS,
    Extracted,
    image_of,
    make_plan,
    read_rows,
    run_extraction,
    write_image,
)

Configure = Callable[..., RunConfig]
FORMATS = ("npy", "zarr", "none")
CHANGES = ("make", "replace", "update", "write_bytes", "remove", "remove_tree")


class CrashError(Exception):
    pass


def crash_before(monkeypatch: pytest.MonkeyPatch, step: int, work: Callable[[], Any]) -> bool:
    """Do `work`, and stop it before this change of the storage, counted from 0; whether it was stopped."""
    steps = 0
    depth = 0  # a change that makes others is one

    def stopping(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any) -> Any:
            nonlocal steps, depth
            if depth == 0 and steps == step:
                raise CrashError
            steps += depth == 0
            depth += 1
            try:
                return change(*args)
            finally:
                depth -= 1

        return changed

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(Directory, name, stopping(getattr(Directory, name)))
        try:
            work()
        except CrashError:
            return True
    return False


def all_rows(done: Extracted) -> dict[str, NDArray[np.float32]]:
    """Of the layers, as they lie on the disk, in order of file names; their checksums are compared on the way."""
    examples = read_examples(done.storage, ["id", "file"])
    file_of = dict(zip(examples["id"].to_pylist(), examples["file"].to_pylist(), strict=True))
    order = np.argsort([file_of[example] for example in done.ids.tolist()])
    return {layer: read_rows(done, layer)[order] for layer in LAYERS}


def assert_equal(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    for layer in LAYERS:
        np.testing.assert_array_equal(one[layer], other[layer])


def begun(config: RunConfig, *made: int) -> Any:
    """A run that was interrupted after these shards: recorded, each in a file of its own."""
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    for index in made:
        extract_shard(job, plan.manifest.shards[index])
    return job


def each_step(root: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[int], Callable[[], Any]]) -> int:
    """Call `work(step)` and then its result, stopped before that step, until it ends; how many steps it has."""
    step = 0
    while crash_before(monkeypatch, step, work(step)):
        step += 1
        assert step < 30, root
    return step


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("before", [None, (), (1,), (0, 2)])
def test_a_run_that_begins_and_is_stopped(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_format: str, before: tuple[int] | None
) -> None:
    whole = all_rows(run_extraction(configure(cache_format=cache_format, name="whole")))
    done: list[RunConfig] = []

    def work(step: int) -> Callable[[], None]:
        config = configure(cache_format=cache_format, name=f"{step}")
        if before is not None:
            begun(config, *before)
        if done:
            check(done[-1])
        done.append(config)
        return lambda: begin_extraction(make_plan(config)[1])

    def check(config: RunConfig) -> None:
        resumed = run_extraction(config)
        assert resumed.plan.cached == sum([16, 16, 8][index] for index in before or ())
        assert_equal(all_rows(resumed), whole)

    assert each_step(tmp_path, monkeypatch, work) >= 3
    check(done[-1])


@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_refresh_that_is_stopped_takes_nothing_of_the_old_images(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_faces: Path, cache_format: str
) -> None:
    """Old records, in files of their own, have the very shards of the new plan."""

    def options(step: int) -> dict[str, Any]:
        return {"cache_format": cache_format, "name": f"{step}", "data_root": own_faces}

    def draw(seed: int) -> None:
        for number in NUMBERS:
            write_image(image_of(own_faces, number), number + seed)

    done = 0

    def check(step: int) -> None:
        config = configure(**options(step))
        fresh = all_rows(run_extraction(configure(**options(step) | {"name": "fresh", "refresh": True})))
        assert_equal(all_rows(run_extraction(config)), fresh)
        assert_equal(all_rows(run_extraction(config.model_copy(update={"refresh": True}))), fresh)

    def work(step: int) -> Callable[[], None]:
        nonlocal done
        if step:
            check(step - 1)
        draw(1000 * step)
        begun(configure(**options(step)), 0, 1)
        draw(1000 * step + 500)
        done = step
        return lambda: begin_extraction(make_plan(configure(**options(step), refresh=True))[1])

    assert each_step(tmp_path, monkeypatch, work) >= 8
    check(done)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_consolidation_that_is_stopped(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_format: str
) -> None:
    config = configure(cache_format=cache_format)
    begun(config, 0, 2)
    expected = require_manifest(config.cache_dir)

    def work(step: int) -> Callable[[], None]:
        assert require_manifest(config.cache_dir) == expected, step
        return lambda: consolidate(config.cache_dir)

    assert each_step(tmp_path, monkeypatch, work) == 2
    assert require_manifest(config.cache_dir) == expected
    assert not (config.cache_dir.path / "shards").exists()


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("cache_format", FORMATS)
def test_marking_a_shard_as_missing_that_is_stopped(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_format: str, consolidated: bool
) -> None:
    """The shard counts or does not; the others do."""
    configs = {}

    def work(step: int) -> Callable[[], None]:
        configs[step] = configure(cache_format=cache_format, name=f"{step}")
        begun(configs[step], 0, 1, 2)
        if consolidated:
            consolidate(configs[step].cache_dir)
        return lambda: mark_missing(configs[step].cache_dir, 1)

    each_step(tmp_path, monkeypatch, work)
    for config in configs.values():
        rows = [shard.rows for shard in require_manifest(config.cache_dir).shards]
        assert rows in ([16, 16, 8], [16, None, 8])
    assert rows == [16, None, 8]


@pytest.mark.parametrize("cache_format", FORMATS)
def test_storing_a_layer_wider_that_is_stopped(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_format: str
) -> None:
    """Rows are float16 or float32 throughout, and whole."""
    options = {"cache_format": cache_format, "cache_dtype": "float16"}
    narrow = all_rows(run_extraction(configure(**options, name="narrow")))
    wide = all_rows(run_extraction(configure(cache_format=cache_format, cache_dtype="float32", name="wide")))
    configs = {}

    def work(step: int) -> Callable[[], None]:
        configs[step] = configure(**options, name=f"{step}")
        begun(configs[step], 0, 1)
        return lambda: widen_layers(configs[step].cache_dir, ["conv2"])

    assert each_step(tmp_path, monkeypatch, work) >= 3
    dtypes = []
    for config in configs.values():
        done = run_extraction(config)
        dtypes.append(require_manifest(done.storage).layers["conv2"].dtype)
        rows = all_rows(done)
        np.testing.assert_array_equal(rows["conv1"], narrow["conv1"])
        np.testing.assert_array_equal(rows["conv2"], (wide if dtypes[-1] == "float32" else narrow)["conv2"])
    assert dtypes[-1] == "float32"
