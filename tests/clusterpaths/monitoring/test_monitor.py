"""Series of windows: judged once, whatever comes late, twice or broken; and after a crash."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.datasets.folder import Folder
from clusterpaths.errors import CacheError, ConfigError, DatasetError
from clusterpaths.explanation.explain import load_model, read_upright, trace_one
from clusterpaths.monitoring import sources
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import check_once, watch
from clusterpaths.monitoring.observations import Status
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series
from clusterpaths.monitoring.windows import SECOND
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.sets.published import PublishedSet
from tests.runs import PROJECT, SAMPLE_MODEL, Run, counting
from tests.watched import Incoming

Configured = Callable[..., MonitorConfig]
HOUR = 3600


def seen(config: MonitorConfig, now: float) -> list[WindowRecord]:
    """The new windows at a time in seconds."""
    return list(watch(config, clock=lambda: int(now * SECOND)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in the directory of a series but locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_new_images_have_the_paths_that_explaining_each_one_gives(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    folder = incoming(range(12))
    (record,) = seen(config(data_root=str(folder), series="s", window=12), 100)
    rows = Series(published, "s").rows(1)
    model = load_model(published.index, SAMPLE_MODEL)
    for at, name in enumerate(rows.names):
        pixels = fit(read_upright(folder / name), published.record.preprocessing)
        outputs = model.session.run(normalise(pixels[None], published.record.preprocessing))
        path, distances = trace_one(outputs, published.record, model.centroids)
        assert rows.clusters[at].tolist() == path[0].tolist()
        assert rows.distances[at] == pytest.approx(distances[0], abs=1e-5)
    explained = model.explain(read_upright(folder / rows.names[3]), "3")
    assert rows.ood_scores[3] == pytest.approx(explained.ood_score, abs=1e-4)
    assert explained.prediction is not None
    assert rows.predictions[3] == explained.prediction.index
    assert record.num_images == 12
    assert [sum(layer.window) for layer in record.layers] == [12, 12]
    assert [sum(layer.reference) for layer in record.layers] == [300, 300]


def test_images_as_the_reference_do_not_drift_and_upside_down_ones_do(config: Configured, incoming: Incoming) -> None:
    same = check_once(config(data_root=str(incoming(range(150), name="same"))))
    other = check_once(config(data_root=str(incoming(range(150), name="other", upside_down=True))))
    assert (same.drifted, other.drifted) == (False, True)
    assert other.verdict.first_layer == "fc1"
    assert same.verdict.effect is not None
    assert other.verdict.effect is not None
    assert other.verdict.effect > 2 * same.verdict.effect
    grown = other.growth[0]
    assert grown.share_window > grown.share_reference
    assert grown.ratio_low > 1
    assert len(grown.exemplars_window) > 0
    assert same.growth == ()


def test_the_same_run_again_records_nothing_and_runs_no_model(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    options = config(data_root=str(incoming(range(60))), series="s", window=20)
    assert [one.number for one in seen(options, 100)] == [1, 2, 3]
    before, again = files_of(Series(published, "s").folder.path), Run()
    with counting(again):
        assert seen(options, 100) == []
    assert again.batches == 0
    assert files_of(Series(published, "s").folder.path) == before


def test_counted_windows_take_what_comes_later_and_leave_the_rest_waiting(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    options = config(data_root=str(incoming(range(25), start=0)), series="s", window=20)
    assert [one.num_images for one in seen(options, 100)] == [20]
    incoming(range(25, 40), start=50)
    assert [one.num_images for one in seen(options, 100)] == [20]
    names = np.concatenate([Series(published, "s").rows(number).names for number in (1, 2)])
    assert len(set(names.tolist())) == 40


def test_windows_of_time_late_images_and_hours_without_any(config: Configured, incoming: Incoming) -> None:
    start = 1_000 * HOUR
    folder = incoming(range(10), start=start + 60)
    options = config(data_root=str(folder), series="s", window="1h", grace="5m")
    assert seen(options, start + HOUR) == []  # the grace is not over
    (first,) = seen(options, start + HOUR + 300)
    assert (first.start, first.num_images, first.late) == ("1970-02-11T16:00:00+00:00", 10, 0)
    incoming(range(10, 13), start=start + 90)  # of the first hour
    incoming(range(13, 20), start=start + 3 * HOUR)
    second, empty, third = seen(options, start + 4 * HOUR + 300)
    assert (second.num_images, second.late, second.drifted) == (0, 3, False)
    assert (empty.num_images, empty.late) == (0, 0)
    assert (third.num_images, third.late) == (7, 0)
    assert (second.end, empty.end, third.start) == (empty.start, third.start, "1970-02-11T19:00:00+00:00")


def test_images_of_a_time_to_come_wait_and_are_reported(
    config: Configured, incoming: Incoming, caplog: pytest.LogCaptureFixture
) -> None:
    folder = incoming(range(5), start=HOUR)
    incoming(range(5, 8), start=9_000_000_000)
    assert [one.num_images for one in seen(config(data_root=str(folder), series="s", window="1h"), 2 * HOUR)] == [5]
    assert "3 images of a time to come" in caplog.text


def test_a_clock_that_went_back_is_reported_and_records_nothing(
    config: Configured, incoming: Incoming, caplog: pytest.LogCaptureFixture
) -> None:
    options = config(data_root=str(incoming(range(5), start=10 * HOUR)), series="s", window="1h")
    assert len(seen(options, 11 * HOUR)) == 1
    assert seen(options, 2 * HOUR) == []
    assert "before the end of the last window" in caplog.text
    assert len(seen(options, 12 * HOUR)) == 1


def test_duplicates_and_files_that_are_no_images_are_counted_once_and_not_tested(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    folder = incoming(range(20))
    first = min(folder.iterdir())
    shutil.copyfile(first, folder / "again.jpg")
    (folder / "broken.jpg").write_bytes(first.read_bytes()[:200])
    for name in ("again.jpg", "broken.jpg"):
        os.utime(folder / name, (15.5, 15.5))
    options = config(data_root=str(folder), series="s", window=20)
    (record,) = seen(options, 100)
    assert (record.num_images, record.duplicates, record.unusable) == (20, 1, 1)
    assert seen(options, 100) == []
    shutil.copyfile(first, folder / "once_more.jpg")  # in a later window
    incoming(range(20, 40), start=time_after(folder))
    (second,) = seen(options, 100)
    assert (second.num_images, second.duplicates, second.unusable) == (20, 1, 0)
    assert Series(published, "s").rows(2).count(Status.DUPLICATE) == 1


def time_after(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.iterdir()) + 1


def test_a_late_copy_does_not_make_the_image_that_came_in_time_a_duplicate(
    config: Configured, incoming: Incoming
) -> None:
    folder = incoming(range(5), start=10 * HOUR)
    options = config(data_root=str(folder), series="s", window="1h")
    seen(options, 11 * HOUR)
    shutil.copyfile(
        incoming([7], start=11 * HOUR + 60) / sorted(path.name for path in folder.iterdir())[-1], folder / "late.jpg"
    )
    os.utime(folder / "late.jpg", (10 * HOUR + 5,) * 2)
    (record,) = seen(options, 12 * HOUR)
    assert (record.num_images, record.late, record.duplicates) == (1, 1, 0)


def test_a_file_that_cannot_be_read_now_is_left_for_the_next_run(
    config: Configured, incoming: Incoming, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = incoming(range(21))
    options, away = config(data_root=str(folder), series="s", window=20), sorted(folder.iterdir())[3].name
    digest = Folder.digest

    def failing(self: Folder, file: str) -> int:
        if file == away:
            raise OSError(errno.EIO, "Input/output error", file)
        return digest(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "digest", failing)
        (first,) = seen(options, 100)
    assert (first.num_images, first.unusable) == (20, 0)
    assert f"{away} cannot be read now (Input/output error)" in caplog.text
    incoming(range(21, 40), start=50)
    (second,) = seen(options, 100)
    assert (second.num_images, second.unusable, second.duplicates) == (20, 0, 0)


def test_images_that_come_while_a_run_waits_are_in_their_window(config: Configured, incoming: Incoming) -> None:
    folder = incoming(range(3), start=10 * HOUR)
    options = config(data_root=str(folder), series="s", window="1h")

    def clock() -> int:
        incoming(range(3, 6), start=10 * HOUR + 60)  # after the run began
        return 11 * HOUR * SECOND

    (record,) = watch(options, clock=clock)
    assert (record.num_images, record.late) == (6, 0)


def test_a_directory_without_images_is_no_error(config: Configured, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    record = check_once(config(data_root=str(tmp_path / "empty")))
    assert (record.num_images, record.drifted, record.verdict.tests) == (0, False, ())
    assert seen(config(data_root=str(tmp_path / "empty"), series="s", window="1h"), 100 * HOUR) == []


def test_windows_are_the_same_to_the_byte_whatever_the_threads(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    folder = incoming(range(100))
    for workers in (1, 4):
        seen(config(data_root=str(folder), series=f"w{workers}", window=50, workers=workers), 1000)
    one, four = (Series(published, f"w{workers}") for workers in (1, 4))
    for number in (1, 2):
        files = [series.folder.path / f"window_{number:06d}" / "rows.parquet" for series in (one, four)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert one.read(number).verdict == four.read(number).verdict


def test_a_series_is_of_one_size_of_windows(config: Configured, incoming: Incoming) -> None:
    folder = str(incoming(range(20)))
    seen(config(data_root=folder, series="s", window=10), 100)
    for size in (20, "1h"):
        with pytest.raises(
            ConfigError, match=r"has windows of 10, so windows of .* would overlap them. Expected --window 10"
        ):
            seen(config(data_root=folder, series="s", window=size), 100)


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 65])
def test_a_name_of_a_series_is_no_path(config: Configured, incoming: Incoming, name: str) -> None:
    with pytest.raises(ConfigError, match="--series should be a name"):
        seen(config(data_root=str(incoming(range(2))), series=name, window=2), 100)


def test_a_reference_that_was_deleted_is_named_with_those_that_are_there(
    config: Configured, incoming: Incoming, cache: Path
) -> None:
    shutil.rmtree(cache / "Faces" / "set_01")
    with pytest.raises(CacheError, match="There are no sets called 'Faces'"):
        check_once(config(data_root=str(incoming(range(2)))))


def test_a_directory_that_does_not_exist_is_an_error(config: Configured, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere' does not exist"):
        check_once(config(data_root=str(tmp_path / "nowhere")))


def test_images_without_times_have_no_windows_of_time(
    config: Configured, incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(incoming(range(4)))

    def without_times(options: MonitorConfig) -> Any:
        dataset, table = opened(options)
        assert table is not None
        return dataset, dataclasses.replace(table, mtimes=None)

    opened = sources._open
    monkeypatch.setattr(sources, "_open", without_times)
    with pytest.raises(ConfigError, match="have no times, so they cannot be cut into windows of 1h"):
        seen(config(data_root=folder, series="s", window="1h"), 100)
    assert [one.num_images for one in seen(config(data_root=folder, series="s", window=2), 100)] == [2, 2]


def test_a_window_of_another_set_in_its_place_is_refused(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    options = config(data_root=str(incoming(range(10))), series="s", window=10)
    seen(options, 100)
    document = Series(published, "s").folder.path / "window_000001" / "window.json"
    document.write_text(document.read_text().replace(published.record.fingerprint, "0" * 64))
    with pytest.raises(CacheError, match="was compared with another set"):
        seen(options, 100)
    document.write_text("{")
    with pytest.raises(CacheError, match="is not the record of a window"):
        seen(options, 100)


KILLED = """
import os, signal, sys
from clusterpaths.monitoring import series
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import observe
from clusterpaths.storage.directory import Directory

publish, calls = Directory._publish, []
def killed(self, staged, name, last):
    calls.append(name)
    if len(calls) == 2 and sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    publish(self, staged, name, last)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Directory._publish = killed
observe(MonitorConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.parametrize("place", ["before", "after"])
def test_after_a_crash_the_next_run_records_the_same_windows(
    config: Configured, incoming: Incoming, published: PublishedSet, place: str
) -> None:
    folder = incoming(range(60))
    options = config(data_root=str(folder), series="killed", window=20)
    done = subprocess.run([sys.executable, "-c", KILLED, options.model_dump_json(), place], cwd=PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Series(published, "killed").numbers() == ([1] if place == "before" else [1, 2])
    list(watch(options))
    list(watch(config(data_root=str(folder), series="whole", window=20)))
    killed, whole = (Series(published, name) for name in ("killed", "whole"))
    assert killed.numbers() == whole.numbers() == [1, 2, 3]
    for number in (1, 2, 3):
        assert killed.read(number).verdict == whole.read(number).verdict
        assert killed.rows(number).names.tolist() == whole.rows(number).names.tolist()


def test_two_runs_of_a_series_do_not_record_a_window_twice(
    config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    options = config(data_root=str(incoming(range(60))), series="s", window=20)
    first = watch(options)
    next(first)
    with pytest.raises(CacheError, match="is in use by"):
        list(watch(options))
    assert [one.number for one in first] == [2, 3]
    assert Series(published, "s").numbers() == [1, 2, 3]


@pytest.mark.parametrize("window", ["5", "1h"])
def test_a_new_set_of_the_name_continues_the_series(
    window: str, config: Configured, incoming: Incoming, published: PublishedSet
) -> None:
    folder = incoming(range(10), 100)
    settings: dict[str, Any] = {"data_root": str(folder), "series": "s", "window": window}
    whole, pinned = config(**settings, reference="Faces"), config(**settings, reference="Faces/set_02")
    now = 3 * HOUR
    before = seen(whole, now)
    assert sum(one.num_images for one in before) == 10
    newer = shutil.copytree(published.path, published.path.parent / "set_02")
    shutil.rmtree(newer / "monitor")
    document = (newer / "set.json").read_text()
    (newer / "set.json").write_text(
        document.replace(published.record.fingerprint, "f" * 64).replace("set_01", "set_02")
    )
    incoming(range(20, 25), now + 100)  # five more
    found = seen(whole, now + 2 * HOUR)
    assert {one.reference.name for one in found} == {"Faces/set_02"}
    assert sum(one.num_images for one in found) == 5
    assert found[0].number == 1
    assert seen(whole, now + 2 * HOUR) == []
    shutil.rmtree(newer / "monitor")
    assert sum(one.num_images for one in seen(pinned, now + 2 * HOUR)) == 15  # named itself, it begins anew
