"""Prediction logs: parquet and CSV files of a service, and those that are refused."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.errors import DatasetError
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.log_format import LOG_KEY, LogNote
from clusterpaths.monitoring.monitor import check_once, watch
from clusterpaths.monitoring.observations import Status
from clusterpaths.monitoring.prediction_log import log_files, read_log
from clusterpaths.monitoring.windows import SECOND
from clusterpaths.sets.published import PublishedSet

BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def columns_of(published: PublishedSet, count: int, *, seed: int = 0, first: int = 0) -> dict[str, Any]:
    """Columns of a log: examples of the set at random, one a minute."""
    rows = np.random.default_rng(seed).integers(0, len(published.ids), count)
    return {
        "time": [BEGIN + datetime.timedelta(minutes=first + i) for i in range(count)],
        "id": [f"request-{first + i}" for i in range(count)],
        "path": published.clusters[rows].tolist(),
        "distances": published.distances[rows].tolist(),
        "ood_score": published.held_out_scores[rows].tolist(),
        "prediction": published.predictions[rows].tolist(),
    }


def note_of(published: PublishedSet, **changes: Any) -> str:
    record = published.record
    given = {
        "set": published.name,
        "fingerprint": record.fingerprint,
        "model": record.model.sha256,
        "layers": published.layers,
    }
    return LogNote.model_validate(given | changes).model_dump_json()


def write(path: Path, columns: dict[str, Any], note: str | None) -> Path:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({LOG_KEY: note} if note else None), path)
    return path


def as_csv(path: Path, columns: dict[str, Any], fingerprint: str) -> Path:
    names = [name for name in columns if name != "distances"]
    lines = [",".join([*names, "fingerprint"])]
    for row in zip(*(columns[name] for name in names), strict=True):
        texts = {"path": lambda v: "-".join(map(str, v)), "time": lambda v: v.isoformat()}
        cells = [texts.get(name, str)(value) for name, value in zip(names, row, strict=True)]
        lines.append(",".join([*cells, fingerprint]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_parquet_and_csv_are_read_alike(published: PublishedSet, tmp_path: Path) -> None:
    columns = columns_of(published, 40)
    parquet = read_log([write(tmp_path / "a.parquet", columns, note_of(published))], published)
    csv = read_log([as_csv(tmp_path / "a.csv", columns, published.record.fingerprint)], published)
    for name in ("times", "items", "clusters", "ood_scores", "predictions", "names", "status"):
        np.testing.assert_array_equal(getattr(parquet, name), getattr(csv, name))
    assert parquet.clusters.tolist() == columns["path"]
    assert parquet.distances.tolist() == columns["distances"]
    assert parquet.times[1] - parquet.times[0] == 60 * SECOND
    assert np.isnan(csv.distances).all()


def test_a_log_is_watched_as_images_are(
    config: Callable[..., MonitorConfig], published: PublishedSet, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    write(logs / "2026" / "a.parquet", columns_of(published, 90), note_of(published))
    write(logs / ".being-written.parquet", columns_of(published, 5, first=500), note_of(published))
    options = config(logs=str(logs), series="served", window="1h")
    now = int((BEGIN + datetime.timedelta(hours=2)).timestamp()) * SECOND
    first, second = watch(options, clock=lambda: now)
    assert (first.num_images, second.num_images) == (60, 30)
    assert not first.drifted
    assert first.start == "2026-01-01T00:00:00+00:00"
    # a service that was restarted has written some rows again; other rows come late
    write(logs / "b.parquet", columns_of(published, 60, first=80, seed=1), note_of(published))
    (third,) = watch(options, clock=lambda: now + 3600 * SECOND)
    assert (third.num_images, third.late, third.duplicates) == (20, 30, 0)


def test_rows_with_one_id_are_duplicates_and_scores_that_are_not_finite_are_not_tested(
    config: Callable[..., MonitorConfig], published: PublishedSet, tmp_path: Path
) -> None:
    columns = columns_of(published, 10)
    columns["id"][9] = columns["id"][0]
    columns["ood_score"][4] = float("nan")
    file = write(tmp_path / "a.parquet", columns, note_of(published))
    record = check_once(config(logs=str(file)))
    assert (record.num_images, record.duplicates, record.unusable) == (8, 1, 1)
    assert read_log([file], published).count(Status.UNUSABLE) == 1


def test_routes_that_changed_drift(
    config: Callable[..., MonitorConfig], published: PublishedSet, tmp_path: Path
) -> None:
    columns = columns_of(published, 200)
    same = check_once(config(logs=str(write(tmp_path / "same.parquet", columns, note_of(published)))))
    columns["path"] = [[path[0], (path[1] + 1) % published.k[1]] for path in columns["path"]]
    other = check_once(config(logs=str(write(tmp_path / "other.parquet", columns, note_of(published)))))
    assert (same.drifted, other.drifted, other.verdict.first_layer) == (False, True, "fc2")
    assert all(image.picture == "" for growth in other.growth for image in growth.exemplars_window)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "has no column path; it has time, id"),
        ({"time": ["2026-01-01"] * 3}, "has times that cannot be read"),
        ({"time": [1, 2, 3]}, "has times of int64. Expected timestamps with a time zone"),
        ({"time": [datetime.datetime(2026, 1, 1)] * 3}, "Expected timestamps with a time zone"),
        ({"id": ["a", None, "b"]}, "has rows without id"),
        ({"id": ["a", "", "b"]}, "has rows with an empty id"),
        ({"path": [[0, 0], [1, None], [0, 0]]}, "has paths with missing clusters"),
        ({"time": pa.array([10**12] * 3, pa.timestamp("s", tz="UTC"))}, "has times that cannot be read"),
        ({"path": [[0], [1], [0]]}, "has paths of 1 layers. Expected 2: fc1, fc2"),
        ({"path": [[0, 0], [1, 99], [0, 0]]}, "has clusters from 0 to 99. Expected 0 to k - 1"),
        ({"path": [[0, 0], [-1, 0], [0, 0]]}, "has clusters from -1 to 0"),
        ({"path": ["a-b"] * 3}, "has paths that cannot be read"),
        ({"distances": [[0.0, 0.1], [0.0], [0.1, 0.0]]}, "has 5 distances in 3 rows. Expected 2 in each"),
        ({"ood_score": ["high", "low", "low"]}, "has OOD scores that are no numbers"),
        ({"prediction": [0, 1, 77]}, "has predictions from 0 to 77. Expected -1 to 4"),
    ],
)
def test_columns_that_are_missing_or_wrong_are_refused(
    published: PublishedSet, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    columns = {name: values for name, values in (columns_of(published, 3) | change).items() if values is not None}
    file = write(tmp_path / "a.parquet", columns, note_of(published))
    with pytest.raises(DatasetError, match=message) as caught:
        read_log([file], published)
    assert str(caught.value).startswith(f"The prediction log {file} has")


def test_a_log_of_another_set_or_of_none_is_refused(published: PublishedSet, tmp_path: Path) -> None:
    columns = columns_of(published, 3)
    other = write(tmp_path / "a.parquet", columns, note_of(published, fingerprint="f" * 64, set="Others/set_04"))
    with pytest.raises(DatasetError, match="path model of another set: Others/set_04 ffffffffffff; Faces/set_01 has"):
        read_log([other], published)
    with pytest.raises(DatasetError, match=r"has no clusterpaths\.log in its metadata"):
        read_log([write(tmp_path / "b.parquet", columns, None)], published)
    with pytest.raises(DatasetError, match=r"has a clusterpaths\.log that is not one"):
        read_log([write(tmp_path / "c.parquet", columns, json.dumps({"version": 1}))], published)
    with pytest.raises(DatasetError, match="path model of another set: fingerprint eeeeeeeeeeee"):
        read_log([as_csv(tmp_path / "d.csv", columns, "e" * 64)], published)


def test_files_that_are_no_log_are_refused(published: PublishedSet, tmp_path: Path) -> None:
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"half.parquet cannot be read"):
        read_log([tmp_path / "half.parquet"], published)
    (tmp_path / "log.txt").write_text("nothing")
    for given, message in ((tmp_path / "log.txt", "is no parquet or CSV file"), (tmp_path / "none", "does not exist")):
        with pytest.raises(DatasetError, match=message):
            log_files(given)


def test_ids_that_are_lists_or_no_text_are_refused(published: PublishedSet, tmp_path: Path) -> None:
    columns = columns_of(published, 3) | {"id": pa.array([[1.0]] * 3, pa.list_(pa.float32()))}
    parquet = write(tmp_path / "log.parquet", columns, note_of(published))
    table = as_csv(tmp_path / "log.csv", columns_of(published, 3), published.record.fingerprint)
    table.write_bytes(table.read_bytes().replace(published.record.fingerprint.encode(), b"\x80" * 64))
    for file in (parquet, table):
        with pytest.raises(DatasetError, match="Correct it, or move it away"):
            read_log([file], published)
