"""The general flow: any images through any model. What a run makes of them: tests/clusterpaths/test_pipeline_data.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.records import SetRecord
from clusterpaths.sets.published import open_set
from flows.options import ImagesConfig
from tests.runs import SAMPLE_MODEL, listening

pytestmark = pytest.mark.usefixtures("prefect_server")


def run_images(**options: Any) -> Any:
    from flows.images import images

    log: list[str] = []
    with listening(log):
        state = images(ImagesConfig(**{"check_preprocessing": False, "evaluate": False} | options), return_state=True)
    return state, log


def succeed(**options: Any) -> tuple[Path, SetRecord, list[str]]:
    state, log = run_images(**options)
    assert state.is_completed(), state.message
    path = state.result()
    return path, open_set(path).record, log


@pytest.fixture(scope="module")
def by_class(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawn faces, one folder a hair colour, as torchvision's ImageFolder wants them."""
    root = tmp_path_factory.mktemp("photos")
    table = open_celeba(faces).examples()
    for file, label in list(zip(table.files, table.labels.tolist(), strict=True))[:60]:
        folder = root / table.class_names[label]
        folder.mkdir(exist_ok=True)
        shutil.copy2(faces / "img_align_celeba" / file, folder / file)
    return root


def test_a_folder_of_classes_through_a_model_gives_a_set_and_resumes(by_class: Path, tmp_path: Path) -> None:
    options = {"model": SAMPLE_MODEL, "data_root": by_class, "cache_root": tmp_path, "layers": "conv*,fc1", "k": 3}
    path, record, _ = succeed(**options)
    assert path.parent.name == f"SampleFaces_CNN-{by_class.name}"
    assert (record.dataset, record.num_examples, record.layers) == ("folder", 60, ("conv1", "conv2", "conv3", "fc1"))
    assert record.class_names == ("Bald", "Black", "Blond", "Brown", "Gray")
    assert record.purity_labels is not None
    assert len(record.dataset_fingerprint) == 64
    assert (path / "report.html").is_file()
    again, _, log = succeed(**options)
    assert again == path
    assert any("already has this result" in line for line in log)


def test_it_is_the_same_flow_as_celebas(faces: Path, tmp_path: Path) -> None:
    """The same files as CelebA and as a folder give the same centroids to the bit."""
    from tests.runs import succeed as celeba

    one = celeba(model=SAMPLE_MODEL, data_root=faces, cache_root=tmp_path, name="celeba", subset=40, layers="fc1")
    assert one.path is not None
    flat = tmp_path / "flat"
    shutil.copytree(faces / "img_align_celeba", flat)
    other, _, _ = succeed(model=SAMPLE_MODEL, data_root=flat, cache_root=tmp_path, subset=40, layers="fc1")
    assert (one.path / "centroids.json").read_bytes() == (other / "centroids.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "folder"}, "--dataset folder needs a model: name an ONNX image classifier with --model"),
        ({"dataset": "folder", "model": "m.onnx", "sample": True}, "--sample is a data set of its own"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImagesConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--images is missing: --dataset folder needs"),
        ({"dataset": "fodler", "data_root": "x"}, "There is no data set called 'fodler'"),
        ({"data_root": "empty"}, "no image"),
        ({"providers": "cuda"}, "--providers cuda needs CUDAExecutionProvider|cuda"),
        ({"logits": "logit"}, r"no output 'logit'\. Did you mean logits"),
        ({"layers": "auto:0"}, "auto"),
    ],
)
def test_a_users_mistake_is_one_paragraph(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    if "data_root" in options:
        options = options | {"data_root": tmp_path / options["data_root"]}
    state, _ = run_images(model=SAMPLE_MODEL, cache_root=tmp_path / "c", **options)
    assert state.is_failed()
    with pytest.raises(Exception, match=f"(?s){message}") as raised:
        state.result()
    assert "Traceback" not in str(raised.value)
