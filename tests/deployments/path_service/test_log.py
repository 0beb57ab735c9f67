"""The prediction log: every row that an answer acknowledged is in it once, whatever ends the service."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.export.note import PathModelNote
from clusterpaths.monitoring.log_format import COLUMNS, LOG_KEY
from deployments.path_service.journal import Journal, convert_journal
from deployments.path_service.model import PathModel
from deployments.path_service.prediction_log import PredictionLog, Row
from tests.path_service import Exported, Load, export, launch, log_files, logged_ids, note_of, read_log, running
from tests.runs import SAMPLE_MODEL


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of few layers and images: these tests are about rows."""
    folder = tmp_path_factory.mktemp("exported")
    photos = write_faces(folder / "photos", 60, seed=5) / "img_align_celeba"
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=photos.parent, cache_root=folder, name="Faces", layers=("fc1", "fc2"), k="3",
        evaluate=False,
    )  # fmt: skip
    return export(config, photos, folder / "paths.onnx")


@pytest.fixture(scope="module")
def note(exported: Exported) -> PathModelNote:
    return PathModel(exported.file).note


def row(number: int) -> Row:
    return Row(datetime.now(UTC), f"r-{number}", "ab" * 32, (1, 0), (0.5, 0.25), -0.5, 3, 0.75)


def journals(directory: Path) -> list[Path]:
    return sorted(directory.glob(".predictions-*.journal"))


def wait(ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rows_say_what_the_answers_said(exported: Exported, tmp_path: Path) -> None:
    log, before = tmp_path / "log", datetime.now(UTC)
    with running(tmp_path / "out", exported.file, "--log-dir", log) as service:
        answers = {}
        for path in exported.images[:5]:
            one = service.post(path).json()["images"][0]
            answers[one["id"]] = one
        assert log_files(log) == []  # complete files only have that name
        assert service.stop() == 0
    (file,) = log_files(log)
    assert list(log.iterdir()) == [file]
    table, record = pq.read_table(file), exported.published.record
    assert table.schema.remove_metadata().equals(COLUMNS)
    assert note_of(file) == {
        "version": 1,
        "set": "Faces/set_01",
        "fingerprint": record.fingerprint,
        "model": record.model.sha256,
        "layers": ["fc1", "fc2"],
    }
    rows = {each["id"]: each for each in table.to_pylist()}
    assert set(rows) == set(answers)
    for key, one in answers.items():
        found = rows[key]
        assert before <= found["time"] <= datetime.now(UTC)
        assert [found[name] for name in ("image", "path", "distances", "ood_score")] == [
            one[name] for name in ("image", "path", "distances", "ood_score")
        ]
        assert found["prediction"] == one["prediction"]["index"]
        assert found["confidence"] == np.float32(one["confidence"])


def test_the_columns_are_those_of_the_definition() -> None:
    assert {field.name: str(field.type) for field in COLUMNS} == {
        "time": "timestamp[us, tz=UTC]",
        "id": "string",
        "image": "string",
        "path": "list<item: int32>",
        "distances": "list<item: float>",
        "ood_score": "float",
        "prediction": "int32",
        "confidence": "float",
    }


def test_files_are_rotated_by_rows(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path / "out", exported.file, "--log-dir", log, "--log-rows", "10") as service:
        for turn in range(35):
            service.post(exported.images[turn % 60])
        wait(lambda: len(log_files(log)) == 3)
        service.stop()
    assert [pq.read_metadata(file).num_rows for file in log_files(log)].count(10) == 3
    assert len(set(logged_ids(log))) == 35


def test_files_are_rotated_by_time_also_without_requests(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path / "out", exported.file, "--log-dir", log, "--log-seconds", "0.5") as service:
        service.post(exported.images[0])
        wait(lambda: log_files(log))
        time.sleep(1.5)  # an empty one is not written
        assert (len(log_files(log)), journals(log)) == (1, [])
        service.post(exported.images[1])
        wait(lambda: len(log_files(log)) == 2)


def test_sigterm_under_load_answers_what_was_begun_and_loses_no_row(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path / "out", exported.file, "--log-dir", log, "--log-rows", "100") as service:
        load = Load(service.url, exported.images).start().wait_for(250)
        assert service.stop(signal.SIGTERM) == 0
        load.join()
        assert "Traceback" not in service.said()
    assert {failure.split()[0] for failure in load.failures} <= {"ConnectError", "RemoteProtocolError", "ReadError"}
    ids = logged_ids(log)
    assert len(ids) == len(set(ids))
    assert set(load.acknowledged) - set(ids) == set()
    assert [path for path in log.iterdir() if path.name.startswith(".")] == []


def test_a_request_that_waits_for_its_batch_is_answered_after_sigterm(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ("--log-dir", log, "--max-wait-ms", "1500", "--max-batch", "64")
    with running(tmp_path / "out", exported.file, *words) as service, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(service.post, image) for image in exported.images[:3]]
        wait(lambda: "\nclusterpaths_queue_images 3.0" in service.get("/metrics").text)
        assert service.stop(signal.SIGTERM) == 0
        responses = [one.result() for one in waiting]
    assert [response.status_code for response in responses] == [200] * 3
    assert {response.json()["images"][0]["id"] for response in responses} == set(logged_ids(log))


@pytest.mark.parametrize("policy", ["batch", "never"])
def test_sigkill_under_load_loses_no_acknowledged_row(policy: str, exported: Exported, tmp_path: Path) -> None:
    """Killed three times at any moment, with files completed all the time; the next start completes what is left."""
    log, words = tmp_path / "log", ("--log-rows", "50", "--log-fsync", policy)
    acknowledged: list[str] = []
    for turn in range(3):
        with running(tmp_path / f"out{turn}", exported.file, "--log-dir", log, *words) as service:
            assert journals(log) == []
            load = Load(service.url, exported.images).start().wait_for(110 + 37 * turn)
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL
            acknowledged += load.join().acknowledged
    assert journals(log)
    with running(tmp_path / "out", exported.file, "--log-dir", log):
        assert journals(log) == []
        ids = logged_ids(log)
    assert len(ids) == len(set(ids))
    assert set(acknowledged) - set(ids) == set()
    assert {note_of(file)["fingerprint"] for file in log_files(log)} == {exported.published.record.fingerprint}


def test_two_services_write_into_one_directory_and_one_completes_what_the_other_left(
    exported: Exported, tmp_path: Path
) -> None:
    log, words = tmp_path / "log", ("--log-rows", "40")
    with (
        running(tmp_path / "one", exported.file, "--log-dir", log, *words) as one,
        running(tmp_path / "other", exported.file, "--log-dir", log, *words) as other,
    ):
        loads = [Load(service.url, exported.images, clients=4).start() for service in (one, other)]
        for load in loads:
            load.wait_for(130)
        one.stop(signal.SIGKILL)
        loads[0].join()
        loads[1].wait_for(len(loads[1].acknowledged) + 50).join()
        wait(lambda: set(loads[0].acknowledged) <= set(logged_ids(log)))  # without a restart
        assert other.stop() == 0
    ids = logged_ids(log)
    assert len(ids) == len(set(ids))
    assert {key for load in loads for key in load.acknowledged} - set(ids) == set()


def limit_files(pid: int, size: int) -> None:
    """No file of the process may grow beyond this: writing fails as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_while_the_disk_is_full_it_answers_and_says_that_nothing_is_logged(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path / "out", exported.file, "--log-dir", log) as service:
        first = service.post(exported.images[0]).json()
        assert COLUMNS.serialize().size > 500  # no journal can be begun either, but the service can still say so
        limit_files(service.process.pid, 500)
        during = [service.post(image).json() for image in exported.images[:3]]
        assert (first["logged"], [one["logged"] for one in during]) == (True, [False] * 3)
        assert during[0]["images"][0]["path"] == first["images"][0]["path"]
        health = service.get("/health/ready")
        assert (health.status_code, health.json()["status"]) == (200, "log failing")
        assert "large" in health.json()["log"]  # EFBIG
        wait(lambda: "\nclusterpaths_log_ok 0.0" in service.get("/metrics").text)
        assert "\nclusterpaths_log_errors_total 3.0" in service.get("/metrics").text
        limit_files(service.process.pid, resource.RLIM_INFINITY)
        wait(lambda: service.post(exported.images[0], X_Request_ID="after").json()["logged"])
        assert service.get("/health").json()["status"] == "ready"
        assert service.stop() == 0
        assert service.said().count("cannot be written") == 1
    ids = logged_ids(log)
    assert first["images"][0]["id"] in ids
    assert "after-0" in ids
    assert not {one["images"][0]["id"] for one in during} & set(ids)


def test_with_refuse_nothing_is_answered_without_the_log(exported: Exported, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path / "out", exported.file, "--log-dir", log, "--log-failure", "refuse") as service:
        limit_files(service.process.pid, 1)
        for image in exported.images[:2]:
            response = service.post(image)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            assert "the prediction log cannot be written" in response.json()["detail"]
        assert service.get("/health/ready").status_code == 503
        assert service.get("/health/live").status_code == 200
        limit_files(service.process.pid, resource.RLIM_INFINITY)
        wait(lambda: service.get("/health/ready").status_code == 200)  # by itself: nobody sends a request until then
        assert service.post(exported.images[0]).json()["logged"]


def test_a_directory_that_cannot_be_written_is_one_paragraph(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = launch(tmp_path / "out", exported.file, "--log-dir", tmp_path / "file" / "log")
    found.client.close()
    assert found.process.wait(60) == 2
    assert "The prediction log" in found.said()
    assert "--log-dir" in found.said()
    assert "Traceback" not in found.said()


def write_journal(directory: Path, note: PathModelNote, numbers: range) -> Path:
    """As a killed service leaves it: a batch per row."""
    log = PredictionLog(directory, note, 10_000, 1000)
    for number in numbers:
        assert log.append([row(number)])
    (path,) = journals(directory)
    left = path.with_name(".left")
    shutil.copy(path, left)
    log.close()
    for file in log_files(directory):
        file.unlink()
    return left.rename(path)


def test_a_journal_cut_off_anywhere_gives_the_rows_that_were_complete(note: PathModelNote, tmp_path: Path) -> None:
    """Every length at which a crash may leave it; also with zeros behind, as a power cut may."""
    content = write_journal(tmp_path / "made", note, range(3)).read_bytes()
    found = []
    for end in range(0, len(content) + 1, 7):
        for tail in (b"", bytes(64)):
            folder = tmp_path / f"{end}-{len(tail)}"
            folder.mkdir()
            path = folder / ".predictions-x.journal"
            path.write_bytes(content[:end] + tail)
            rows = convert_journal(path)
            assert not path.exists()
            ids = logged_ids(folder) if log_files(folder) else []
            assert ids == [f"r-{i}" for i in range(len(ids))]
            assert rows == len(ids)
            found.append(len(ids))
    assert found == sorted(found)
    assert set(found) == {0, 1, 2}


def test_a_flipped_byte_ends_the_journal_there(note: PathModelNote, tmp_path: Path) -> None:
    path = write_journal(tmp_path, note, range(3))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert convert_journal(path) == 2
    assert logged_ids(tmp_path) == ["r-0", "r-1"]


def test_a_journal_of_many_requests_is_converted_some_at_a_time(note: PathModelNote, tmp_path: Path) -> None:
    """One row each: all of them in memory at once took three times the service's memory."""
    path = write_journal(tmp_path, note, range(2500))
    assert convert_journal(path) == 2500
    (file,) = log_files(tmp_path)
    assert pq.read_metadata(file).num_row_groups == 3
    assert logged_ids(tmp_path) == [f"r-{i}" for i in range(2500)]


def test_an_error_of_closing_does_not_end_the_log(
    note: PathModelNote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, close = PredictionLog(tmp_path, note, 1, 1000), Journal.close

    def failing(self: Journal) -> None:
        close(self)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", failing)
        assert log.append([row(1)])
    assert log.append([row(2)])
    log.close()
    assert sorted(logged_ids(tmp_path)) == ["r-1", "r-2"]


def test_a_journal_whose_file_was_completed_already_is_removed(note: PathModelNote, tmp_path: Path) -> None:
    """Killed between the two."""
    path = write_journal(tmp_path, note, range(3))
    content = path.read_bytes()
    assert convert_journal(path) == 3
    written = log_files(tmp_path)[0].read_bytes()
    path.write_bytes(content)
    assert convert_journal(path) == 0
    assert (journals(tmp_path), log_files(tmp_path)[0].read_bytes()) == ([], written)


def test_a_journal_in_use_is_left_alone(note: PathModelNote, tmp_path: Path) -> None:
    journal = Journal(tmp_path, "predictions-x", COLUMNS.with_metadata({LOG_KEY: "{}"}), fsync=True)
    journal.append(
        pa.record_batch([pa.array([v], f.type) for v, f in zip(row(0), COLUMNS, strict=True)], schema=COLUMNS)
    )
    assert convert_journal(journal.path) is None
    assert journal.path.exists()
    journal.close()
    assert convert_journal(journal.path) == 1


def test_old_files_are_deleted_and_others_are_not(note: PathModelNote, tmp_path: Path) -> None:
    old = (datetime.now() - timedelta(days=3)).timestamp()
    for name in ("predictions-old.parquet", "predictions-new.parquet", "of_another_program.parquet"):
        (tmp_path / name).write_bytes(b"")
        if "new" not in name:
            os.utime(tmp_path / name, (old, old))
    PredictionLog(tmp_path, note, 10, 10).tend()
    assert len(log_files(tmp_path)) == 3
    PredictionLog(tmp_path, note, 10, 10, keep_days=2).tend()
    assert [path.name for path in log_files(tmp_path)] == ["of_another_program.parquet", "predictions-new.parquet"]


def test_rows_of_many_threads_and_rotations_are_all_there(note: PathModelNote, tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, note, rows=7, seconds=1000)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(log.append, [row(i), row(i + 1000)]) for i in range(100)]
        for _ in range(20):
            log.tend()
        assert all(future.result() for future in futures)
    log.close()
    assert sorted(logged_ids(tmp_path)) == sorted(f"r-{i + more}" for i in range(100) for more in (0, 1000))
    assert read_log(tmp_path).num_rows == 200


def test_rows_are_not_acknowledged_into_a_journal_that_was_removed(tmp_path: Path) -> None:
    schema = pa.schema({"number": pa.int64()})
    journal = Journal(tmp_path, "predictions-1", schema, fsync=True)
    batch = pa.record_batch({"number": [1]}, schema=schema)
    journal.append(batch)
    journal.path.unlink()
    with pytest.raises(FileNotFoundError, match="the journal was removed"):
        journal.append(batch)
    journal.close()
