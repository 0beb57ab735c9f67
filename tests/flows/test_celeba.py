"""The whole flow on drawn faces, in this process: what it leaves, what it asks again, and what it survives."""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.datasets.celeba import CelebA
from clusterpaths.storage import open_storage
from tests.runs import (
    SAMPLE_MODEL,
    SHAPES,
    Run,
    assert_contract,
    assert_same_documents,
    nearest,
    paths_of,
    published,
    rows_of,
    run_celeba,
    succeed,
)

pytestmark = pytest.mark.usefixtures("prefect_server")
WIDTHS = {layer: int(np.prod(shape)) for layer, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def clean(prefect_server: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run over all faces, in shards of 64."""
    return succeed(**on(faces, tmp_path_factory.mktemp("clean")))


def on(faces: Path, cache_root: Path, **more: Any) -> dict[str, Any]:
    return {"model": SAMPLE_MODEL, "data_root": faces, "cache_root": cache_root, "shard_size": 64} | more


@pytest.fixture
def copy(faces: Path, tmp_path: Path) -> Path:
    """Faces of one's own, to be damaged."""
    return Path(shutil.copytree(faces, tmp_path / "images"))


def image(root: Path, number: int) -> Path:
    return root / "img_align_celeba" / f"{number:06d}.jpg"


def folder_of(run: Run) -> Path:
    assert run.path is not None
    return run.path


# the sample


@pytest.fixture
def sample(home: Path, tmp_path: Path) -> dict[str, Any]:
    return {"sample": True, "sample_size": 60, "cache_root": tmp_path}


def test_the_first_five_of_the_sample_leave_their_activations_and_three_documents(sample: dict[str, Any]) -> None:
    run = succeed(**sample, subset=5)
    cache = folder_of(run).parent
    assert cache.name == "SampleFaces"
    for layer, shape in SHAPES.items():
        assert {path.name for path in (cache / layer).iterdir()} == {f"{i}.npy" for i in range(5)}
        assert {np.load(path).shape for path in (cache / layer).iterdir()} == {shape}
    assert_contract(folder_of(run), 5, WIDTHS, 5)
    assert list(paths_of(folder_of(run))) == [f"example_{i:04d}" for i in range(5)]
    assert (folder_of(run) / "report.html").stat().st_size > 10_000


def test_nothing_half_written_stays_beside_a_set(clean: Run) -> None:
    cache = folder_of(clean).parent
    assert [path.name for path in cache.rglob("*partial*")] == []
    assert not (cache / "clusterings").exists()
    assert not (cache / ".lock.holder").exists()


def test_a_subset_of_a_larger_cache_needs_no_model(sample: dict[str, Any]) -> None:
    first = succeed(**sample, subset=20)
    second = succeed(**sample, subset=10)
    assert (first.batches > 0, second.batches) == (True, 0)
    assert len(paths_of(folder_of(second))) == 10


def test_a_larger_subset_extracts_only_what_is_new(sample: dict[str, Any]) -> None:
    succeed(**sample, subset=32, batch_size=8)
    run = succeed(**sample, subset=48, batch_size=8)
    assert run.batches == 2
    assert len(paths_of(folder_of(run))) == 48


def test_a_split_takes_the_examples_of_that_part_under_their_own_ids(sample: dict[str, Any]) -> None:
    run = succeed(**sample, split="valid", k=2)  # of every ten faces the ninth
    assert list(paths_of(folder_of(run))) == [f"example_{i:04d}" for i in range(8, 60, 10)]


# asking again


@pytest.fixture(scope="module")
def asked(prefect_server: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a run that has its set_01."""
    options = on(faces, tmp_path_factory.mktemp("asked"), subset=40)
    succeed(**options)
    return options


def test_the_same_question_finds_its_set_and_says_so(asked: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (asked["cache_root"] / "CelebA" / "set_01").iterdir()}
    run = succeed(**asked, workers=1, batch_size=7)  # how it is made is no part of the question
    assert folder_of(run).name == "set_01"
    assert run.batches == 0
    assert any("set_01 already has this result" in line for line in run.log)
    documents = {path for path in before if path.name != "report.html"}
    assert all(path.stat().st_mtime_ns == before[path] for path in documents)


@pytest.mark.parametrize(
    "other",
    [{"k": 4}, {"seed": 1}, {"distance": "euclidean"}, {"layers": ("conv3", "fc2")}, {"subset": 39}],
    ids=lambda other: next(iter(other)),
)
def test_another_question_makes_the_next_set_without_running_the_model(
    asked: dict[str, Any], other: dict[str, Any]
) -> None:
    sets = len(list((asked["cache_root"] / "CelebA").glob("set_*")))
    run = succeed(**(asked | other))
    assert folder_of(run).name == f"set_{sets + 1:02d}"
    assert run.batches == 0
    metadata = json.loads((folder_of(run).parent / "metadata.json").read_text())
    assert metadata["set"] == folder_of(run).name


def test_k_of_each_layer_is_kept_and_said(asked: dict[str, Any]) -> None:
    run = succeed(**asked, k="3,conv3=7")
    expected = {layer: 7 if layer == "conv3" else 3 for layer in SHAPES}
    assert {
        layer: len(rows) for layer, rows in json.loads((folder_of(run) / "centroids.json").read_text()).items()
    } == (expected)
    assert json.loads((folder_of(run).parent / "metadata.json").read_text())["k_per_layer"] == expected


def test_another_preprocessing_under_the_same_name_is_refused_with_all_differences(asked: dict[str, Any]) -> None:
    manifest = asked["cache_root"] / "CelebA" / "manifest.json"
    before = manifest.read_bytes()
    run = run_celeba(**asked, preprocessing="raw", cache_format="zarr", cache_dtype="float32")
    assert run.state.is_failed()
    for expected in (
        "preprocessing mean: stored (0.485, 0.456, 0.406), required (0.0, 0.0, 0.0)",
        "preprocessing std: stored (0.229, 0.224, 0.225), required (1.0, 1.0, 1.0)",
        "preprocessing scale: stored 0.0039",
        "cache format: stored npy, required zarr",
        "cache dtype: stored float16, required float32",
        "--name",
        "--refresh",
    ):
        assert expected in run.state.message
    assert manifest.read_bytes() == before


def test_refresh_makes_the_activations_again_and_keeps_the_sets(sample: dict[str, Any]) -> None:
    first = succeed(**sample, subset=8, k=2)
    run = succeed(**sample, subset=8, k=2, refresh=True, preprocessing="unit")
    assert run.batches > 0
    assert (folder_of(first).name, folder_of(run).name) == ("set_01", "set_02")
    assert (folder_of(first) / "paths.json").is_file()


def test_plan_says_what_would_be_done_and_writes_nothing(faces: Path, tmp_path: Path) -> None:
    run = run_celeba(**on(faces, tmp_path / "cache", plan=True))
    assert run.state.is_completed()
    told = next(line for line in run.log if "300 examples" in line)
    assert "(0 in the cache, 300 to extract in 5 shards); 5 layers (conv1 16x64x64" in told
    assert "1,500 more files, 75." in told
    assert "free on that disk" in told
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    assert not list(tmp_path.rglob("manifest.json"))


def test_one_worker_and_two_npy_and_zarr_give_the_same_bytes(clean: Run, faces: Path, tmp_path: Path) -> None:
    npy = succeed(**on(faces, tmp_path, workers=1, batch_size=20, shard_size=100))
    zarr = succeed(**on(faces, tmp_path, workers=2, name="zarr", cache_format="zarr"))
    assert_same_documents(folder_of(clean), folder_of(npy))
    assert_same_documents(folder_of(clean), folder_of(zarr))


# as Prefect shows it


def test_task_runs_have_names_that_tell(clean: Run) -> None:
    names = sorted(run.name for run in clean.task_runs())
    expected = ["check model", "download", "instrument", "plan", "find set", "trace", "publish", "report"]
    expected += [f"extract shard {i}/5" for i in range(1, 6)] + [f"cluster {layer}" for layer in SHAPES]
    assert names == sorted(expected)


def test_progress_a_table_and_a_page_are_left_as_artifacts(clean: Run) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[clean.flow_run_id]))
        )
    by_type = {artifact.type: artifact for artifact in found}
    assert set(by_type) == {"progress", "table", "markdown"}
    assert float(by_type["progress"].data) == 100
    table = by_type["table"].data
    stages = [row["stage"] for row in (json.loads(table) if isinstance(table, str) else table)]
    assert stages == ["check", "download", "instrument", "extract", "cluster", "trace", "publish", "report", "cache"]
    pages = [str(artifact.data) for artifact in found if artifact.type == "markdown"]  # of the model and of the set
    [page] = [page for page in pages if "exemplars in the report" in page]
    record = published(clean)
    for expected in ("Sizes of clusters", "most frequent of", "Times", "report.html"):
        assert expected.lower() in page.lower(), expected
    for layer in SHAPES:
        assert f"| {layer} | 5 | {' '.join(map(str, record.clusters[layer].sizes))} |" in page


def test_a_mistake_fails_the_run_with_its_paragraph_and_is_not_tried_again(faces: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    run = run_celeba(**on(faces, tmp_path, k=301))
    assert run.state.is_failed()
    assert "300 examples cannot make 301 clusters" in run.state.message
    assert "--k 300" in run.state.message
    assert time.monotonic() - started < 5
    [failed] = [task for task in run.task_runs() if not task.state.is_completed()]
    assert (failed.name, failed.run_count) == ("plan", 1)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_shard_that_the_machine_broke_is_tried_again(
    clean: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, broken = CelebA.read_image, []

    def breaks_once(self: CelebA, file: str) -> Image.Image:
        if file == "000100.jpg" and not broken:
            broken.append(file)
            raise OSError(errno.EIO, "Input/output error", file)
        return read(self, file)

    monkeypatch.setattr(CelebA, "read_image", breaks_once)
    run = succeed(**on(faces, tmp_path))
    assert broken
    assert published(run).num_failed == 0
    assert_same_documents(folder_of(clean), folder_of(run))
    assert {task.name: task.run_count for task in run.task_runs()}["extract shard 2/5"] == 2


# damage


def damage_value(cache: Path, layer: str, example: int, bits: int) -> None:
    path = cache / layer / f"{example}.npy"
    values = np.load(path)
    values.view(np.uint16).reshape(-1)[7] = bits
    np.save(path, values)


@pytest.mark.parametrize("bits", [0x3C01, 0x7E00, 0x7C00], ids=["another value", "NaN", "infinity"])
@pytest.mark.parametrize("layer", ["conv1", "fc2"])
def test_a_shard_whose_bytes_were_damaged_is_made_again(
    clean: Run, faces: Path, tmp_path: Path, layer: str, bits: int
) -> None:
    cache = Path(shutil.copytree(folder_of(clean).parent, tmp_path / "CelebA"))
    shutil.rmtree(cache / "set_01")
    damage_value(cache, layer, 130, bits)
    run = succeed(**on(faces, tmp_path))
    assert run.batches == 2  # 64 examples in batches of 32
    assert_same_documents(folder_of(clean), folder_of(run))
    assert any("shard 2" in line and "checksum" in line for line in run.log)


@pytest.mark.parametrize("damage", ["flipped", "refused", "cut", "emptied"])
def test_a_damaged_zarr_chunk_is_made_again(clean: Run, faces: Path, tmp_path: Path, damage: str) -> None:
    options = on(faces, tmp_path, cache_format="zarr", subset=128)
    first = succeed(**options)
    cache = folder_of(first).parent
    kept = Path(shutil.copytree(folder_of(first), tmp_path / "kept"))
    shutil.rmtree(folder_of(first))
    chunk = next(path for path in sorted((cache / "conv3" / "c").rglob("*")) if path.is_file())
    content = bytearray(chunk.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    if damage == "refused":
        content[:8] = b"\xff" * 8  # no Blosc header
    chunk.write_bytes(content[: {"cut": len(content) // 2, "emptied": 0}.get(damage, len(content))])
    run = succeed(**options)
    assert run.batches == 2
    assert_same_documents(kept, folder_of(run))
    if damage == "flipped":  # the others are missed before anything is read
        assert any(line.startswith("WARNING") and "The shard is made again" in line for line in run.log), run.log


def test_kept_images_that_were_damaged_are_made_again_and_no_others(faces: Path, tmp_path: Path) -> None:
    options = on(faces, tmp_path, cache_format="none")
    first = succeed(**options)
    kept = Path(shutil.copytree(folder_of(first), tmp_path / "kept"))
    shutil.rmtree(folder_of(first))
    pixels = {path: path.read_bytes() for path in (tmp_path / "CelebA" / "pixels").iterdir()}
    damaged = tmp_path / "CelebA" / "pixels" / "00002.rgb"
    damaged.write_bytes(pixels[damaged][:-1] + bytes([pixels[damaged][-1] ^ 1]))
    written = {path: path.stat().st_mtime_ns for path in pixels}
    run = succeed(**options)
    assert {path for path in pixels if path.stat().st_mtime_ns != written[path]} == {damaged}
    assert {path: path.read_bytes() for path in pixels} == pixels
    assert_same_documents(kept, folder_of(run))
    told = [line for line in run.log if line.startswith("WARNING") and "images of shard 2 in" in line]
    assert told, run.log
    assert "checksum" in told[0]
    assert [task.name for task in run.task_runs() if task.name.startswith("extract")] == ["extract shard 1/1"]


@pytest.mark.parametrize("lost", ["conv2/70.npy", "fc1", "examples/00001.parquet"])
def test_removing_files_of_one_shard_makes_just_that_shard_again(
    clean: Run, faces: Path, tmp_path: Path, lost: str
) -> None:
    cache = Path(shutil.copytree(folder_of(clean).parent, tmp_path / "CelebA"))
    shutil.rmtree(cache / "set_01")
    if (cache / lost).is_dir():
        for example in range(64, 128):
            (cache / lost / f"{example}.npy").unlink()
    else:
        (cache / lost).unlink()
    run = succeed(**on(faces, tmp_path))
    assert run.batches == 2
    assert_same_documents(folder_of(clean), folder_of(run))


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_every_path_belongs_to_its_image_where_files_in_the_middle_are_gone_or_corrupt(
    clean: Run, copy: Path, tmp_path: Path, cache_format: str
) -> None:
    """Each remaining image's activation is the one that it has in an undisturbed run, and its path follows from it."""
    missing, corrupt, empty, text = 71, 100, 200, 201
    image(copy, corrupt).write_bytes(image(copy, corrupt).read_bytes()[:900])
    image(copy, empty).write_bytes(b"")
    image(copy, text).write_text("not an image")

    image(copy, missing).unlink()
    run = succeed(**on(copy, tmp_path, cache_format=cache_format, max_failures=0.05))
    record = published(run)
    assert (record.num_examples, record.num_failed) == (296, 3)
    manifest = read_manifest(open_storage(folder_of(run).parent))
    assert manifest is not None
    failed = {failure.id: (failure.file, failure.reason) for shard in manifest.shards for failure in shard.failed}
    assert {i: file for i, (file, _) in failed.items()} == {
        99: "000100.jpg",
        199: "000200.jpg",
        200: "000201.jpg",
    }
    assert "truncated" in failed[99][1]
    assert "empty" in failed[199][1]
    assert all(any(file in line and reason in line for line in run.log) for file, reason in failed.values())

    table = pq.read_table(folder_of(run) / "paths.parquet")
    gone = {missing - 1, corrupt - 1, empty - 1, text - 1}
    assert table["id"].to_pylist() == [i for i in range(300) if i not in gone]
    assert all(
        file == f"{i + 1:06d}.jpg" for i, file in zip(table["id"].to_pylist(), table["file"].to_pylist(), strict=True)
    )
    assert list(paths_of(folder_of(run))) == [f"example_{i:04d}" for i in table["id"].to_pylist()]
    centroids = json.loads((folder_of(run) / "centroids.json").read_text())
    for layer in SHAPES:
        ids, undisturbed = rows_of(folder_of(clean).parent, layer)
        found, rows = rows_of(folder_of(run).parent, layer)
        assert found.tolist() == table["id"].to_pylist()
        np.testing.assert_array_equal(rows, undisturbed[np.isin(ids, found)])
        assert nearest(undisturbed[np.isin(ids, found)], centroids[layer]).tolist() == table[layer].to_pylist()


def test_an_image_that_is_mended_later_gets_its_path(clean: Run, faces: Path, copy: Path, tmp_path: Path) -> None:
    image(copy, 100).write_bytes(b"broken")
    broken = succeed(**on(copy, tmp_path))
    assert published(broken).num_failed == 1
    shutil.copyfile(image(faces, 100), image(copy, 100))
    mended = succeed(**on(copy, tmp_path))
    assert published(mended).num_failed == 0
    assert_same_documents(folder_of(clean), folder_of(mended))


def test_too_many_unreadable_images_stop_the_run_and_are_named(copy: Path, tmp_path: Path) -> None:
    for number in (10, 90, 150, 280):  # one a shard: 4 of 300 are more than 1%, 3 are not
        image(copy, number).write_bytes(b"broken")
    run = run_celeba(**on(copy, tmp_path))
    assert run.state.is_failed()
    assert "4 images cannot be read, and at most 3 may fail" in run.state.message
    assert "000010.jpg" in run.state.message
    assert "--max-failures" in run.state.message
    assert not list(tmp_path.rglob("set_*"))
    shutil.rmtree(tmp_path / "CelebA")
    shutil.copyfile(image(copy, 279), image(copy, 280))
    assert published(succeed(**on(copy, tmp_path))).num_failed == 3


@pytest.mark.parametrize("kind", ["PNG named .jpg", "grey JPEG", "CMYK JPEG"])
def test_images_of_another_kind_work(copy: Path, tmp_path: Path, kind: str) -> None:
    form, mode = {"PNG named .jpg": ("PNG", "RGB"), "grey JPEG": ("JPEG", "L"), "CMYK JPEG": ("JPEG", "CMYK")}[kind]
    with Image.open(image(copy, 2)) as opened:
        converted = opened.convert(mode)
    converted.save(image(copy, 2), form)
    run = succeed(**on(copy, tmp_path, subset=5))
    assert published(run).num_failed == 0
    assert len(paths_of(folder_of(run))) == 5


def test_images_that_changed_since_are_refused(copy: Path, tmp_path: Path) -> None:
    succeed(**on(copy, tmp_path, subset=10))
    shutil.copyfile(image(copy, 11), image(copy, 3))
    run = run_celeba(**on(copy, tmp_path, subset=10))
    assert run.state.is_failed()
    assert "000003.jpg" in run.state.message
    assert "another name, size or content" in run.state.message


def test_a_dead_layer_and_k_above_the_distinct_images_are_reported(copy: Path, tmp_path: Path) -> None:
    for number in range(3, 11):
        shutil.copyfile(image(copy, 1 + number % 2), image(copy, number))
    run = succeed(**on(copy, tmp_path, subset=10, k=4))
    for summary in published(run).clusters.values():
        assert len(summary.empty) == 2
        assert "2 of 4 clusters are empty: only 2 distinct activations were found" in summary.note
    assert any(line.startswith("WARNING") and "clusters are empty" in line for line in run.log)
    assert "clusters are empty" in (folder_of(run).parent / "metadata.json").read_text()
