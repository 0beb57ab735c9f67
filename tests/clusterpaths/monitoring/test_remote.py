"""Watching with results, images and logs in object storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import watch
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.monitoring.test_prediction_log import columns_of, note_of, write
from tests.storage import BUCKET, running_storage
from tests.watched import Incoming


def upload(folder: Path, address: str) -> None:
    """Put each file below a directory into the bucket."""
    target = open_storage(address)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        (target.path / name).parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(name, path.read_bytes())


def test_windows_of_a_bucket_are_those_of_a_directory(
    config: Callable[..., MonitorConfig], made: Path, incoming: Incoming, tmp_path: Path
) -> None:
    images = incoming(range(40), start=0)
    on_disk = list(watch(config(data_root=str(images), series="s", window=20)))
    with running_storage(tmp_path / "storage", tmp_path / "mirror"):
        root = f"s3://{BUCKET}/results"
        upload(made / "cache" / "Faces", f"{root}/Faces")
        upload(images, f"s3://{BUCKET}/images")
        options = config(cache_root=root, data_root=f"s3://{BUCKET}/images", series="s", window=20)
        remote = list(watch(options))
        assert [counts(one) for one in remote] == [counts(one) for one in on_disk]
        assert list(watch(options)) == []
        published = open_set(f"{root}/Faces/set_01")
        assert Series(published, "s").numbers() == [1, 2]

        logs = write(tmp_path / "logs" / "a.parquet", columns_of(published, 30), note_of(published)).parent
        upload(logs, f"s3://{BUCKET}/logs")
        (window,) = watch(config(cache_root=root, logs=f"s3://{BUCKET}/logs", series="logs", window=30))
        assert (window.num_images, window.source) == (30, f"s3://{BUCKET}/logs")


def counts(one: WindowRecord) -> object:
    """What does not depend on when files were written: objects have a time of their own."""
    return one.num_images, one.duplicates


def test_a_mirrored_object_has_the_time_of_the_object(tmp_path: Path) -> None:
    with running_storage(tmp_path / "storage", tmp_path / "mirror"):
        place = open_storage(f"s3://{BUCKET}/times")
        place.path.mkdir(parents=True)
        place.write_bytes("a.png", b"content")
        time.sleep(2)
        (place.path / "a.png").unlink()
        assert time.time() - place.local("a.png").stat().st_mtime > 1  # not of the download
