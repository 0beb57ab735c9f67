"""Results, models and images that were moved, copied or renamed since a set was published: a table of moves.

Through the flow, from a command line: tests/flows/test_recluster.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches
from clusterpaths.errors import ConfigError
from clusterpaths.explore.images import Images
from clusterpaths.explore.library import Library
from clusterpaths.sets.find import list_sets
from clusterpaths.sets.places import data_of, find_model
from clusterpaths.sets.published import open_set
from flows.options import ReclusterConfig
from tests.clusterpaths.conftest import write_celeba, write_cnn, write_image
from tests.runs import run_pipeline

MODEL, IMAGES, RESULTS = "models/tiny.onnx", "data", "results"


def move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


class Move(NamedTuple):
    """What was done to a project, and where its parts are afterwards; `there` is another directory."""

    act: Callable[[Path, Path], None]
    results: str = "there/results"
    model: str = f"here/{MODEL}"
    images: str = f"here/{IMAGES}"
    name: str = "T"
    asks: str = ""  # the option that names what is not found
    given: tuple[str, ...] = ()


def results_beside_others(here: Path, there: Path) -> None:
    """Into a project that has a model of the same name."""
    move(here / RESULTS, there / RESULTS)
    write_cnn(there / MODEL, seed=7)


def results_beside_the_same(here: Path, there: Path) -> None:
    results_beside_others(here, there)
    shutil.copyfile(here / MODEL, there / MODEL)


MOVES = {
    "nothing": Move(lambda here, there: None, results="here/results"),
    "results moved": Move(lambda here, there: move(here / RESULTS, there / RESULTS)),
    "results copied": Move(lambda here, there: copy(here / RESULTS, there / RESULTS)),
    "results moved deeper": Move(
        lambda here, there: move(here / RESULTS, there / "a" / "b" / "c"), results="there/a/b/c"
    ),
    "results of one name copied": Move(lambda here, there: copy(here / RESULTS / "T", there / RESULTS / "T")),
    "renamed": Move(
        lambda here, there: move(here / RESULTS / "T", here / RESULTS / "U"), results="here/results", name="U"
    ),
    "copied under another name": Move(
        lambda here, there: copy(here / RESULTS / "T", here / RESULTS / "U"), results="here/results", name="U"
    ),
    "project moved": Move(
        lambda here, there: move(here, there), model=f"there/{MODEL}", images=f"there/{IMAGES}"
    ),
    "project copied": Move(
        lambda here, there: copy(here, there), model=f"there/{MODEL}", images=f"there/{IMAGES}"
    ),
    "results moved beside another model": Move(results_beside_others),
    "results moved beside the same model": Move(results_beside_the_same, model=f"there/{MODEL}"),
    "images moved": Move(
        lambda here, there: move(here / IMAGES, there / IMAGES), results="here/results", asks="data_root",
        images=f"there/{IMAGES}",
    ),
    "model moved": Move(
        lambda here, there: move(here / MODEL, there / MODEL), results="here/results", asks="model",
        model=f"there/{MODEL}",
    ),
    "results copied, images moved": Move(
        lambda here, there: (copy(here / RESULTS, there / RESULTS), move(here / IMAGES, here / "elsewhere"))[0],
        asks="data_root", images="here/elsewhere",
    ),
}  # fmt: skip


def write_project(root: Path, dataset: str) -> Path:
    """Model, images and set_01 of T, below one directory."""
    write_cnn(root / MODEL)
    if dataset == "celeba":
        write_celeba(root / IMAGES)
    else:
        for number in range(40):
            (root / IMAGES).mkdir(exist_ok=True)
            write_image(root / IMAGES / f"{number:03d}.jpg", number)
        rows = [f"{number:03d}.jpg,{'ab'[number % 2]}" for number in range(40)]
        (root / IMAGES / "own.csv").write_text("\n".join(["file,label", *rows, ""]))
    labels = {} if dataset == "celeba" else {"labels": root / IMAGES / "own.csv"}
    config = RunConfig(
        dataset=dataset, model=root / MODEL, data_root=root / IMAGES, cache_root=root / RESULTS, name="T", k=3,
        preprocessing="unit", shard_size=16, evaluate=False, check_preprocessing=False, **labels,
    )  # fmt: skip
    run_pipeline(config)
    return root


@pytest.fixture(scope="module", params=["celeba", "folder"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: its copy is."""
    return write_project(tmp_path_factory.mktemp("project") / "here", request.param)


@pytest.fixture
def places(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The project, made at the place that its record names; and another place."""
    here = project  # records carry absolute paths: it is moved back afterwards
    shutil.copytree(here, tmp_path / "before")
    return here, tmp_path / "there"


@pytest.fixture(autouse=True)
def _put_back(project: Path, tmp_path: Path) -> Any:
    yield
    if (tmp_path / "before").exists():
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(tmp_path / "before", project)


def where(path: str, here: Path, there: Path) -> Path:
    first, _, rest = path.partition("/")
    return {"here": here, "there": there}[first] / rest


@pytest.mark.parametrize("name", MOVES)
def test_recluster_after_a_move(name: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes where the set is, reads what belongs to the set, extracts nothing again, and downloads nothing."""
    monkeypatch.setattr("clusterpaths.datasets.download.download_celeba", lambda *_: pytest.fail("downloads"))
    (here, there), done = places, MOVES[name]
    done.act(here, there)
    clear_caches()
    results, model, images = (where(path, here, there) for path in (done.results, done.model, done.images))
    old = snapshot(here / RESULTS) if here / RESULTS != results else {}
    given: dict[str, Any] = {"name": done.name, "cache_root": str(results), "k": 4}
    if done.asks:
        option = {"data_root": "images", "model": "model"}[done.asks]
        with pytest.raises(ConfigError, match=f"no longer in .* Name the place with --{option}"):
            ReclusterConfig(**given).run_config()
        given[done.asks] = {"data_root": images, "model": model}[done.asks]
    config = ReclusterConfig(**given).run_config()
    assert (config.model, config.data_root, config.cache_dir.path) == (model, images, results / done.name)
    if config.dataset == "folder":
        assert config.labels == images / "own.csv"
    run = run_pipeline(config)
    assert run.folder == results / done.name / "set_02"
    assert run.batches == 0
    assert list_sets(results / done.name) == ["set_01", "set_02"]
    if here / RESULTS != results:
        assert snapshot(here / RESULTS) == old
    elif done.name == "U" and (here / RESULTS / "T").exists():
        assert list_sets(here / RESULTS / "T") == ["set_01"]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name, done in MOVES.items() if not done.asks])
def test_every_reader_of_a_record_finds_the_same_places(name: str, places: tuple[Path, Path]) -> None:
    """export and explain the model, the report the images, the explorer both."""
    (here, there), done = places, MOVES[name]
    done.act(here, there)
    results, model, images = (where(path, here, there) for path in (done.results, done.model, done.images))
    published = open_set(results / done.name / "set_01")
    assert find_model(published, None) == model
    assert data_of(published.folder, published.record).root == str(images)
    library = Library(results)
    assert Images(library).jpeg(library.set(done.name, "set_01"), 0)


def test_images_of_celeba_that_are_gone_are_asked_for_and_not_downloaded(tmp_path: Path) -> None:
    here = write_project(tmp_path / "here", "celeba")
    move(here / IMAGES / "celeba", tmp_path / "there" / "celeba")  # the directory above stays
    with pytest.raises(ConfigError, match=r"The images of T/set_01 are no longer in .*--images"):
        ReclusterConfig(name="T", cache_root=str(here / RESULTS)).run_config()
    found = ReclusterConfig(name="T", cache_root=str(here / RESULTS), data_root=tmp_path / "there").run_config()
    assert found.data_root == tmp_path / "there"


def test_labels_are_recorded_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in another directory reads the same file."""
    here = write_project(tmp_path / "here", "folder")
    monkeypatch.chdir(here / IMAGES)
    config = ReclusterConfig(name="T", cache_root=str(here / RESULTS)).run_config()
    run = run_pipeline(config.model_copy(update={"labels": Path("own.csv"), "seed": 1}))
    assert open_set(run.folder).record.config["labels"] == str(here / IMAGES / "own.csv")
