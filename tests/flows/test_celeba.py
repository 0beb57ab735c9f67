"""The flow as Prefect shows it: names of task runs, artifacts, what is tried again and what is not.

What a run leaves and what it asks again is the pipeline's: tests/clusterpaths/test_pipeline*.py.
"""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clusterpaths.cache import fit_sample
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import CelebA
from clusterpaths.storage import open_storage
from tests.runs import (
    SAMPLE_MODEL,
    SHAPES,
    Run,
    assert_same_documents,
    kill_when,
    published,
    run_celeba,
    run_pipeline,
    shell_environment,
    start_celeba,
    succeed,
)

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def clean(prefect_server: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run over 128 faces, in shards of 32."""
    return succeed(**on(faces, tmp_path_factory.mktemp("clean")))


def on(faces: Path, cache_root: Path, **more: Any) -> dict[str, Any]:
    return {"model": SAMPLE_MODEL, "data_root": faces, "cache_root": cache_root, "subset": 128, "shard_size": 32} | more


def test_task_runs_have_names_that_tell(clean: Run) -> None:
    names = sorted(run.name for run in clean.task_runs())
    expected = ["check model", "download", "instrument", "plan", "find set", "trace", "publish", "report"]
    expected += [f"{verb} shard {i}/4" for verb in ("extract", "assign") for i in range(1, 5)]
    expected += [f"fit {layer}" for layer in SHAPES]
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
    rows = json.loads(table) if isinstance(table, str) else table
    assert [row["stage"] for row in rows] == [
        "check", "download", "instrument", "extract", "fit", "assign", "trace", "publish", "report", "cache",
    ]  # fmt: skip
    assert {row["stage"] for row in rows if row["images/s"]} == {"extract", "assign", "trace"}
    pages = [str(artifact.data) for artifact in found if artifact.type == "markdown"]  # of the model and of the set
    [page] = [page for page in pages if "exemplars in the report" in page]
    record = published(clean)
    for expected in ("Cluster sizes", "most frequent of", "Times", "report.html"):
        assert expected.lower() in page.lower(), expected
    for layer in SHAPES:
        assert f"| {layer} | 5 | {' '.join(map(str, record.clusters[layer].sizes))} |" in page


def test_a_mistake_fails_the_run_with_its_paragraph_and_is_not_tried_again(faces: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    run = run_celeba(**on(faces, tmp_path, subset=None, k=301))
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
        if file == "000050.jpg" and not broken:
            broken.append(file)
            raise OSError(errno.EIO, "Input/output error", file)
        return read(self, file)

    monkeypatch.setattr(CelebA, "read_image", breaks_once)
    run = succeed(**on(faces, tmp_path))
    assert broken
    assert published(run).num_failed == 0
    assert_same_documents(clean.folder, run.folder)
    assert {task.name: task.run_count for task in run.task_runs()}["extract shard 2/4"] == 2


def test_an_image_that_is_left_out_is_in_the_log_of_the_run(faces: Path, tmp_path: Path) -> None:
    few = tmp_path / "celeba" / "img_align_celeba"
    few.mkdir(parents=True)
    for number in range(1, 21):
        few.joinpath(f"{number:06d}.jpg").write_bytes((faces / "img_align_celeba" / f"{number:06d}.jpg").read_bytes())
    few.joinpath("000007.jpg").write_bytes(b"")
    run = succeed(**on(tmp_path, tmp_path / "cache", subset=None, layers="fc2", max_failures=0.1))
    assert published(run).num_failed == 1
    assert any(line.startswith("WARNING Left out example 6, 000007.jpg: ") for line in run.log), run.log


def test_a_run_that_is_killed_goes_on_and_its_task_runs_are_what_was_missing(
    clean: Run, faces: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.txt"
    given = on(faces, tmp_path) | {"evaluate": False, "check_preprocessing": False}
    options = [word for key, value in given.items() if value for word in (f"--{key.replace('_', '-')}", str(value))]
    options += ["--no-evaluate", "--no-check-preprocessing", "--workers", "1"]
    process = start_celeba(*options, output=output, environment=shell_environment())
    kill_when(process, lambda: made(tmp_path / "CelebA") >= 1, output)
    missing = 4 - made(tmp_path / "CelebA")
    assert missing >= 1
    run = succeed(**on(faces, tmp_path))
    extracted = [task.name for task in run.task_runs() if task.name.startswith("extract shard")]
    assert sorted(extracted) == [f"extract shard {i}/{missing}" for i in range(1, missing + 1)]
    assert_same_documents(clean.folder, run.folder)


@pytest.mark.parametrize(("cache_format", "workers", "batch_size"), [("zarr", 3, 7), ("none", 2, 32)])
def test_threads_of_prefect_give_the_bytes_of_the_library_s_where_others_are_extracted_and_assigned_at_once(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: str, workers: int, batch_size: int
) -> None:
    """40 of 128 examples are fitted on. More ways: tests/clusterpaths/test_same_paths.py."""
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 40)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 8)
    given = on(faces, tmp_path / "library", cache_dtype="float16", layers="conv3,fc2")
    library = run_pipeline(RunConfig(**given, evaluate=False, check_preprocessing=False))
    more = {"cache_format": cache_format, "workers": workers, "batch_size": batch_size}
    run = succeed(**given | more | {"cache_root": tmp_path / "flow"})
    assert_same_documents(library.folder, run.folder)
    names = [task.name for task in run.task_runs() if "shard" in task.name]
    shards = [f"extract shard {i}/2" for i in (1, 2)] + [f"assign shard {i}/6" for i in range(1, 7)]
    assert sorted(names) == sorted(shards)  # of 40, 40 and 48 examples, in shards of 32: 2 each


def made(cache: Path) -> int:
    manifest = read_manifest(open_storage(cache))
    return sum(shard.rows is not None for shard in manifest.shards) if manifest else 0
