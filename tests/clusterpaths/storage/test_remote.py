"""A cache in object storage: addresses, mirrors, conditional writes, the lease, sets that appear whole, and errors."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clusterpaths.cache import manifest
from clusterpaths.cache.manifest import LayerRecord, Manifest, ShardRecord
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError, StorageError
from clusterpaths.records import ModelIdentity, Preprocessing
from clusterpaths.sets.find import list_sets, next_set
from clusterpaths.storage import Storage, bucket, lease, objects, open_storage
from tests.runs import run_pipeline
from tests.storage import BUCKET, KEY_ID, SECRET, TOKEN, running_storage, unconditional
from tests.storage import Storage as Server


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("storage")
    with running_storage(folder, folder / "mirror") as started:
        yield started


@pytest.fixture
def cache(storage: Server) -> Storage:
    """A cache of this test's own."""
    return open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}/CelebA")


def key(place: Storage) -> str:
    return place.address.removeprefix(f"s3://{BUCKET}/")


def planned(shards: int) -> Manifest:
    return Manifest(
        model=ModelIdentity(file="model.onnx", sha256="0" * 64),
        layers={"fc1": LayerRecord(tensor="fc1", shape=(4,), dtype="float16")},
        dataset="celeba",
        preprocessing=Preprocessing(name="x", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1)),
        dtype="float16",
        format="zarr",
        shards=tuple(ShardRecord(index=i, ids=f"{i * 64}-{i * 64 + 63}", start=i * 64) for i in range(shards)),
    )


# addresses


@pytest.mark.parametrize("given", ["s3://some-bucket/a/b", "s3://some-bucket/a/b/", Path("s3://some-bucket/a/b")])
def test_an_address_has_a_mirror_here_and_is_itself_again_when_written_down(
    given: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bucket.MIRROR_VARIABLE, str(tmp_path))
    config = RunConfig.model_validate({"cache_root": given, "name": "N"})
    assert config.cache_dir.path == tmp_path / "some-bucket" / "a" / "b" / "N"
    assert config.cache_dir.address == "s3://some-bucket/a/b/N"
    assert config.model_dump(mode="json")["cache_root"] == "s3://some-bucket/a/b"
    assert RunConfig.model_validate_json(config.model_dump_json()).cache_dir == config.cache_dir


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    config = RunConfig(cache_root=tmp_path)
    assert config.cache_dir.path == tmp_path / "CelebA"
    assert not config.cache_dir.request_per_file
    assert open_storage(tmp_path).address == str(tmp_path)
    assert open_storage(str(tmp_path)).path == tmp_path


@pytest.mark.parametrize(
    "given", ["s3://", "s3://B_A_D/x", "s3://AKID:hidden@bucket/x", "s3://bucket/../x", "s3://bucket/a?b=hidden", "gs://bucket/x"]
)  # fmt: skip
def test_what_is_no_address_is_told_without_repeating_it(given: str) -> None:
    with pytest.raises(ValueError, match=r"should be (a directory, or )?s3://BUCKET/PREFIX") as told:
        RunConfig.model_validate({"cache_root": given})
    assert "hidden" not in told.value.errors()[0]["msg"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("cache_format", ["npy", "none"])
def test_only_zarr_goes_with_object_storage(cache_format: str) -> None:
    with pytest.raises(ValueError, match=f"--cache-format {cache_format} does not go with a cache in object storage"):
        RunConfig.model_validate({"cache_root": "s3://bucket/x", "cache_format": cache_format})


def test_without_the_extra_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "obstore" else real(name))
    with pytest.raises(ConfigError, match=r'obstore, which is not installed.*pip install -e "[^"]+\[s3\]"'):
        open_storage("s3://another-bucket/x").require()


def test_credentials_are_not_sent_in_the_clear_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(ConfigError, match=r"storage\.example would be accessed over http"):
        objects.store_of("some-bucket")


# mirrors


def test_a_mirror_follows_what_another_machine_writes_and_removes(
    cache: Storage, storage: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"a.json": "one", "parts/b.json": "two", "parts/c.json": "three"}.items():
        cache.write_bytes(name, text.encode())
    monkeypatch.setenv(bucket.MIRROR_VARIABLE, str(tmp_path / "elsewhere"))
    assert tmp_path in cache.path.parents
    assert cache.read("a.json") == b"one"
    assert (cache.local_tree("parts") / "c.json").read_text() == "three"
    cache.write_bytes("a.json", b"changed")
    cache.remove("parts/b.json")
    monkeypatch.undo()
    assert (cache.path / "a.json").read_text() == "one"
    assert cache.local("a.json").read_text() == "changed"
    assert not (cache.local_tree("parts") / "b.json").exists()
    (cache.path / "a.json").write_text("changed by hand: no copy of the object any more")
    assert cache.read("a.json") == b"changed"
    cache.remove_tree()
    assert storage.objects(key(cache)) == {}
    assert not cache.local("a.json").exists()


def test_what_is_up_to_date_is_not_sent_again(cache: Storage, storage: Server) -> None:
    storage.client().put_object(Bucket=BUCKET, Key=key(cache / "a"), Body=b"content")
    inode = cache.local("a").stat().st_ino
    assert cache.local("a").stat().st_ino == inode


# conditional writes


def test_writers_at_once_lose_no_shard(cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[bool] = []
    put = objects.put

    def counted(*given: object) -> str | None:
        etag = put(*given)  # type: ignore[arg-type]
        refused.append(etag is None)
        return etag

    monkeypatch.setattr(objects, "put", counted)
    first = planned(24)
    manifest.write_manifest(cache, first)
    all_have_read = threading.Barrier(4)

    def record(writer: int) -> None:
        own = [
            shard.model_copy(update={"rows": 64, "checksums": {"fc1": str(writer)}})
            for shard in first.shards[writer::4]
        ]
        tries = 0

        def with_first(now: Manifest) -> Manifest:
            nonlocal tries
            tries += 1
            if tries == 1:
                all_have_read.wait(60)
            return now.model_copy(
                update={"shards": tuple(own[0] if s.index == own[0].index else s for s in now.shards)}
            )

        manifest.change_manifest(cache, with_first)
        for found in own[1:]:
            manifest.record_shard(cache, first.identity, found)
            manifest.change_manifest(cache, lambda now: now)  # takes in what is there, as `consolidate`

    writers = [threading.Thread(target=record, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = manifest.require_manifest(cache)
    assert [shard.checksums for shard in found.shards] == [{"fc1": str(index % 4)} for index in range(24)]
    assert sum(refused) >= 3  # they did meet: plain writes would have lost the shards of all but one
    assert Manifest.model_validate_json(storage.objects(key(cache))[key(cache / "manifest.json")]) == found


def test_a_plan_made_of_an_older_manifest_is_refused(cache: Storage) -> None:
    manifest.write_manifest(cache, planned(3))
    _, version = manifest.read_version(cache)
    first = planned(3)
    manifest.record_shard(cache, first.identity, first.shards[1].model_copy(update={"rows": 64}))
    manifest.consolidate(cache)
    with pytest.raises(CacheError, match="was changed by another run since"):
        manifest.write_manifest(cache, planned(5), version)
    with pytest.raises(CacheError, match="was changed by another run since"):
        manifest.write_manifest(cache, planned(5))  # for a cache that was not there
    assert len(manifest.require_manifest(cache).shards) == 3


def test_a_shard_that_was_planned_anew_meanwhile_is_not_recorded(cache: Storage, storage: Server) -> None:
    manifest.write_manifest(cache, planned(3))
    stale = ShardRecord(index=1, ids="7-9", start=64, rows=3)
    manifest.record_shard(cache, planned(3).identity, stale)
    assert manifest.require_manifest(cache) == planned(3)
    assert manifest.consolidate(cache) == planned(3)
    assert set(storage.objects(key(cache))) == {key(cache / "manifest.json")}


# the lease

_HOLD = """
import sys
from clusterpaths.storage import open_storage
with open_storage(sys.argv[1]).lock(0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_of_two_runs_the_second_is_told_who_is_there_and_takes_over_from_a_dead_one(cache: Storage) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, cache.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(CacheError, match=rf"s3://.*/CelebA is in use by process {holder.pid} on .* --wait"),
            cache.lock(0),
        ):
            pass
    finally:
        holder.kill()
        holder.wait(30)
        holder.stdin.close()
        holder.stdout.close()
    said: list[str] = []
    with cache.lock(0, said.append):
        assert [f"was held by process {holder.pid} on" in line for line in said] == [True]
    with cache.lock(0, said.append):  # it was let go of: nothing is said
        assert len(said) == 1


def test_a_lease_of_another_machine_is_taken_over_when_it_has_expired_and_not_before(
    cache: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", 2.0)
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    elsewhere = lease._Lease(BUCKET, key(cache / lease.LOCK), "there")
    elsewhere.acquire(0, lambda _: None)  # and never renews it
    monkeypatch.setattr(lease, "_machine", lambda: "this machine")
    with pytest.raises(CacheError, match="in use by process"), cache.lock(0):
        pass
    said: list[str] = []
    with cache.lock(30, said.append):
        assert ["waiting up to 30 s" in said[0], "taken over" in said[1]] == [True, True]
        assert (
            objects.put(BUCKET, key(cache / lease.LOCK), b"", elsewhere._etag) is None
        )  # it can not renew it any more


def test_a_lease_is_renewed_and_its_loss_is_noticed_before_anything_is_written(
    cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    lost, renewed = threading.Event(), threading.Event()
    put = objects.put

    def noticed(*given: object) -> str | None:
        etag = put(*given)  # type: ignore[arg-type]
        (renewed if etag else lost).set()
        return etag

    with cache.lock(0):
        monkeypatch.setattr(objects, "put", noticed)
        assert renewed.wait(30)
        manifest.write_manifest(cache, planned(3))
        storage.client().put_object(Bucket=BUCKET, Key=key(cache / lease.LOCK), Body=b"another's")
        assert lost.wait(30)
        _, version = manifest.read_version(cache)
        deadline = time.monotonic() + 30
        while not lease._held[cache.address].lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(CacheError, match="was taken over by another run"):
            manifest.write_manifest(cache, planned(4), version)
    assert storage.objects(key(cache))[key(cache / lease.LOCK)] == b"another's"


def test_a_holder_that_was_suspended_notices_by_the_time_that_it_lost_its_lease(
    cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that renews it has slept all the while."""
    monkeypatch.setattr(lease, "RENEW", 3600.0)
    with cache.lock(0):
        manifest.write_manifest(cache, planned(3))
        _, version = manifest.read_version(cache)
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + lease.LEASE + 1)
        monkeypatch.setattr(lease, "_machine", lambda: "another machine")
        lease._Lease(BUCKET, key(cache / lease.LOCK), "there").acquire(0, lambda _: None)
        with pytest.raises(CacheError, match="was taken over by another run"):
            manifest.write_manifest(cache, planned(4), version)
        with pytest.raises(CacheError, match="was taken over by another run"):
            publish_made(cache, "late")
        assert set(storage.objects(key(cache))) == {key(cache / name) for name in (lease.LOCK, "manifest.json")}


def test_a_lease_whose_time_is_over_and_that_nobody_has_taken_is_renewed_and_the_run_goes_on(
    cache: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW", 3600.0)
    with cache.lock(0):
        manifest.write_manifest(cache, planned(3))
        _, version = manifest.read_version(cache)
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + lease.LEASE + 1)
        manifest.write_manifest(cache, planned(4), version)
        with pytest.raises(CacheError, match="in use by process"), cache.lock(0):
            pass


def test_a_write_that_the_storage_delays_ends_before_the_lease() -> None:
    assert objects.PATIENCE + objects.REQUEST_TIMEOUT + lease.RENEW + lease.CLOCKS < lease.LEASE


# conditional writes are needed


@pytest.mark.parametrize("obeys", ["nothing", "If-None-Match", "If-Match", "501"])
def test_a_store_without_conditional_writes_is_refused_before_anything_is_done(
    storage: Server, configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, obeys: str
) -> None:
    headers = {"If-None-Match", "If-Match"}
    with unconditional(storage, headers - {obeys}, refuse=obeys == "501") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        prefix = uuid.uuid4().hex
        with pytest.raises(StorageError, match=r"does not obey the conditions of writes .*--cache-root") as told:
            run_pipeline(configure(cache_root=f"s3://{BUCKET}/{prefix}"))
        paragraph(told.value)
        with pytest.raises(StorageError, match="does not obey"), open_storage(f"s3://{BUCKET}/{prefix}").lock(0):
            pass
        open_storage(f"s3://{BUCKET}/{prefix}").require()  # for readers it is good enough
        assert storage.objects(prefix) == {}


# sets


def publish_made(cache: Storage, content: str, *more: str) -> None:
    with cache.publish("set_01", last="set.json") as staged:
        for name in ("centroids.npz", "paths.json", "set.json", *more):
            (staged / name).write_text(f"{name} {content}")


def test_a_set_is_seen_only_when_all_of_it_is_there(
    cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []  # after each file
    interrupted: list[bool] = []
    upload = objects.upload

    def watched(name: str, key: str, path: Path) -> str:
        if path.name == "paths.json" and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        etag = upload(name, key, path)
        seen.append(list_sets(cache))
        return etag

    monkeypatch.setattr(objects, "upload", watched)
    cache.make()
    with pytest.raises(KeyboardInterrupt):
        publish_made(cache, "first", "choice.json")
    assert storage.objects(key(cache / "set_01")) == {}  # what was there of it is removed
    assert list_sets(cache) == []
    publish_made(cache, "second")
    assert seen == [[]] * 4  # two files of the first, centroids.npz and choice.json, and two of the second
    assert list_sets(cache) == ["set_01"]
    assert {name.rpartition("/")[2]: text for name, text in storage.objects(key(cache / "set_01")).items()} == {
        name: f"{name} second".encode() for name in ("centroids.npz", "paths.json", "set.json")
    }


class KilledError(BaseException):
    """Ends a publisher where it is, without the removal of what it has written."""


@pytest.mark.parametrize("after", range(3))
def test_two_publishers_never_mix(cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The first is suspended after some of its files; the second publishes meanwhile; then the first goes on."""
    upload, put, writes = objects.upload, objects.put, [0]
    results: list[object] = []

    def second() -> None:
        name = next_set(cache)
        with cache.publish(name, last="set.json") as staged:
            for file in ("centroids.npz", "paths.json", "set.json"):
                (staged / file).write_text(f"{file} second")
        results.append(name)

    def about_to_write(content: bytes) -> None:
        if content.endswith(b"first"):
            writes[0] += 1
            if writes[0] == after + 1:
                second()

    def uploaded(name: str, key: str, path: Path) -> str:
        about_to_write(path.read_bytes())
        return upload(name, key, path)

    def put_there(name: str, key: str, content: bytes, *more: Any) -> str | None:
        about_to_write(content)
        return put(name, key, content, *more)

    monkeypatch.setattr(objects, "put", put_there)
    monkeypatch.setattr(objects, "upload", uploaded)
    cache.make()
    try:
        publish_made(cache, "first")
    except CacheError as error:
        results.append(error)
    assert results
    for name in list_sets(cache):
        texts = [text.decode().split() for text in storage.objects(key(cache / name)).values()]
        assert sorted(file for file, _ in texts) == ["centroids.npz", "paths.json", "set.json"], name
        assert len({publisher for _, publisher in texts}) == 1, texts


def test_what_a_killed_publisher_has_left_is_no_set_and_its_name_is_not_taken_again(
    cache: Storage, storage: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be suspended, and go on."""
    upload = objects.upload

    def killed(name: str, key: str, path: Path) -> str:
        if path.name == "paths.json":
            monkeypatch.setattr(objects, "delete", lambda *_: None)
            raise KilledError
        return upload(name, key, path)

    cache.make()
    with monkeypatch.context() as patch:
        patch.setattr(objects, "upload", killed)
        with pytest.raises(KilledError):
            publish_made(cache, "first")
    monkeypatch.undo()
    monkeypatch.setenv(bucket.MIRROR_VARIABLE, str(cache.path.parents[2]))
    assert storage.objects(key(cache / "set_01")) != {}  # half of it is there
    assert (list_sets(cache), next_set(cache)) == ([], "set_02")
    with pytest.raises(CacheError, match="set_01 was published by another run meanwhile"):
        publish_made(cache, "second")


def test_a_set_is_never_written_over(cache: Storage, storage: Server) -> None:
    cache.make()
    publish_made(cache, "first")
    with pytest.raises(CacheError, match=r"set_01 was published by another run meanwhile"):
        publish_made(cache, "second")
    assert storage.objects(key(cache / "set_01"))[key(cache / "set_01" / "paths.json")] == b"paths.json first"


# errors: one paragraph each


def paragraph(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert [secret for secret in (SECRET, TOKEN, KEY_ID) if secret in text] == []
    assert error.__cause__ is None  # whose text may quote the request
    return text


def test_a_bucket_that_is_not_there(storage: Server) -> None:
    nowhere = open_storage("s3://no-such-bucket/x")
    for call in (nowhere.require, lambda: nowhere.local("a"), lambda: nowhere.read_version("a")):
        with pytest.raises(
            StorageError, match=r"There is no bucket no-such-bucket at 127\.0\.0\.1:\d+\. .*--cache-root"
        ) as told:
            call()
        paragraph(told.value)


def test_credentials_that_the_server_refuses(tmp_path: Path) -> None:
    # The first action, making the bucket, needs none; then the server checks signatures, and it knows nobody.
    with running_storage(tmp_path, tmp_path / "mirror", INITIAL_NO_AUTH_ACTION_COUNT="1"):
        with pytest.raises(
            StorageError, match=r"refuses these credentials \(\w+\)\. Expected.*AWS_ACCESS_KEY_ID"
        ) as told:
            open_storage(f"s3://{BUCKET}/x").require()
        paragraph(told.value)


def test_no_credentials(storage: Server) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    endpoint = {"AWS_ENDPOINT_URL": storage.environment["AWS_ENDPOINT_URL"]}
    code = (
        "from clusterpaths.storage import objects, open_storage; objects.FIRST_PATIENCE = 0\n"
        f"open_storage('s3://{BUCKET}/x').require()"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=kept | endpoint, capture_output=True, text=True, check=False)
    assert f"StorageError: There are no credentials for s3://{BUCKET} at" in ended.stderr


def test_a_server_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_storage(tmp_path, tmp_path / "mirror") as storage:
        storage.proxy.cut()
        monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
        expected = r"does not answer \(no connection\), and still did not within 0 s.*AWS_ENDPOINT_URL"
        with pytest.raises(StorageError, match=expected) as told:
            open_storage(f"s3://{BUCKET}/x").require()
        paragraph(told.value)


def test_a_short_absence_is_waited_for_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(objects.log, "handlers", [handler])
    with running_storage(tmp_path, tmp_path / "mirror") as storage:
        place = open_storage(f"s3://{BUCKET}/x")
        storage.client().put_object(Bucket=BUCKET, Key="x/a.json", Body=b"content")
        storage.proxy.cut()
        back = threading.Timer(3, storage.proxy.mend)
        back.start()
        readers = [threading.Thread(target=place.local, args=("a.json",)) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in [*readers, back]:
            reader.join(60)
        assert (place.path / "a.json").read_text() == "content"
    assert len(lines) == 2
    assert "does not answer (no connection); trying again for up to 120 s" in lines[0]
    assert "answers again after" in lines[1]
