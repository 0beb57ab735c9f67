"""What is published: the wheel is the library alone, and runs without Prefect, PyTorch and a checkout.

`make wheel` installs it into an environment of its own, with its dependencies from the network; here, it is run with this
environment's, without those of the extras.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterpaths.commands.main import COMMANDS, FLOWS
from clusterpaths.commands.options import POSITIONAL, by_name
from clusterpaths.common import roots
from tests.runs import PROJECT, SAMPLE_MODEL

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
EXTRAS = (
    "prefect",
    "prefect_dask",
    "distributed",
    "torch",
    "torchvision",
    "gdown",
    "onnxscript",
    "fastapi",
    "starlette",
)
EXTRAS += ("uvicorn", "plotly", "itsdangerous", "prometheus_client", "obstore", "sqlalchemy", "watchfiles")
CALL = f"""
import sys
from importlib.machinery import PathFinder
real = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {EXTRAS} else real(name, *rest)
sys.path.insert(0, sys.argv[1])
from clusterpaths.commands.main import main
main(sys.argv[2:])
"""
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build writes into its source, and takes what an earlier one left there."""
    source = tmp_path_factory.mktemp("source")
    for name in ("clusterpaths", "tasks", "flows", "deployments"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(PROJECT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist", source)
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of site-packages with the wheel and nothing else."""
    target = tmp_path_factory.mktemp("site-packages")
    pip("install", "--no-deps", "--no-compile", "--target", target, wheel)
    return target


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def call(installed: Path, empty: Path) -> Call:
    """Runs `clusterpaths …` of the wheel in the empty directory, without the extras' packages."""

    def run(*words: str, library: Path = installed, **variables: str) -> subprocess.CompletedProcess[str]:
        left_out = ("PYTHONPATH", roots.HOME_VARIABLE)
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        return subprocess.run(
            [sys.executable, "-B", "-c", CALL, library, *words],
            cwd=empty, env=environment | variables, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def sample(call: Call) -> subprocess.CompletedProcess[str]:
    """The first command that a new user tries."""
    return call("sample", "--sample-size", "60", "--evaluation-images", "5")


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    subprocess.run(command, check=True, timeout=300)


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_is_the_library_with_all_its_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        model = archive.read("clusterpaths/datasets/drawn_faces/SampleFaces_CNN.onnx")
    described = {name for name in names if ".dist-info/" in name}
    assert names - described == {f"clusterpaths/{name}" for name in files(PROJECT / "clusterpaths")}
    assert model == SAMPLE_MODEL.read_bytes()


def test_the_sample_runs_in_an_empty_directory(
    sample: subprocess.CompletedProcess[str], installed: Path, wheel: Path, empty: Path
) -> None:
    assert sample.returncode == 0, sample.stderr
    published = empty / "activation_cache" / "SampleFaces" / "set_01"
    assert (published / "report.html").is_file()
    assert sample.stderr.startswith("Cluster paths of 60 drawn faces through ")
    assert re.search(
        r"^set +SampleFaces/set_01\nimages +60; 60 have a label, .* of them predicted correctly$",
        sample.stderr,
        re.MULTILINE,
    )
    assert re.search(rf"^report +{re.escape(str(published / 'report.html'))}$", sample.stderr, re.MULTILINE)
    assert sample.stderr.endswith("clusterpaths serve\n")
    assert {path.name for path in empty.iterdir()} == {"activation_cache", "data"}
    with zipfile.ZipFile(wheel) as archive:  # nothing was written beside the library
        brought = {name for name in archive.namelist() if name.startswith("clusterpaths/")}
    assert {name for name in files(installed) if name.startswith("clusterpaths/")} == brought
    assert {path.name for path in installed.iterdir()} <= {"clusterpaths", "bin", *_described(installed)}


def _described(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.dist-info")}


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    "words",
    [
        ("run", "{model}", "{faces}", "--k", "2", "--name", "Again", "--no-evaluate"),
        ("inspect", "{model}"),
        ("export", "SampleFaces"),
        ("explain", "{faces}/000001.jpg", "--set", "SampleFaces"),
        ("completion", "bash"),
        ("--version",),
        *((name, "--help") for name in COMMANDS),
    ],
)
def test_commands_work_without_the_extras(call: Call, empty: Path, words: tuple[str, ...]) -> None:
    faces = next((empty / "data").rglob("img_align_celeba"))
    done = call(*(word.format(model=SAMPLE_MODEL, faces=faces) for word in words))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout or "Next: " in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve", "--port", "0"), 'The server needs fastapi, .* pip install "clusterpaths\\[serve\\]"'),
        (
            ("run", "{model}", "--dataset", "torchvision:CIFAR10"),
            'torchvision, .* pip install "clusterpaths\\[torch\\]"',
        ),
        (("run", "{model}", ".", "--cache-root", "s3://bucket/x"), 'obstore, .* pip install "clusterpaths\\[s3\\]"'),
        (("celeba", "--sample"), 'is a Prefect flow.*clusterpaths run MODEL IMAGES.*pip install -e "\\.\\[prefect\\]"'),
        (("run",), "MODEL and IMAGES are missing.*clusterpaths run resnet18.onnx photos/"),
        (("run", "{model}", "nowhere"), "nowhere"),
        (("run", "{model}", ".", "--engine", "dask"), "--engine"),
        (("sample", "--sample-size", "0"), "--sample-size"),
    ],
)
def test_what_lacks_is_told_in_one_paragraph(call: Call, words: tuple[str, ...], message: str) -> None:
    done = call(*(word.format(model=SAMPLE_MODEL) for word in words))
    assert done.returncode == 2, done.stderr
    error = done.stderr[done.stderr.index("\nerror: ") :]
    assert re.search(message, error.replace("`", "")), error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_checkout_without_prefect_has_all_commands_and_tells_what_flows_need(call: Call) -> None:
    shown = call("--help", library=PROJECT).stdout
    assert all(re.search(rf"^│ {name} ", shown, re.MULTILINE) for name in (*COMMANDS, *FLOWS)), shown
    done = call("celeba", "--sample", library=PROJECT)
    assert done.returncode == 2
    assert (
        f'A flow needs prefect, which is not installed. Install the extra with `pip install -e "{PROJECT}[prefect]"`'
        in (done.stderr)
    )


def test_results_go_where_the_variable_points(call: Call, tmp_path: Path) -> None:
    done = call("sample", "--sample-size", "20", "--no-evaluate", CLUSTERPATHS_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"activation_cache", "data"}


def test_in_a_checkout_the_home_is_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(roots.HOME_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert roots.home() == PROJECT
    monkeypatch.setattr(roots, "checkout", lambda: None)
    assert roots.home() == tmp_path


def test_the_first_words_of_run_are_the_model_and_the_images() -> None:
    words = POSITIONAL["run"]
    assert by_name(["m.onnx", "photos", "--k", "3"], words) == ["--model", "m.onnx", "--images", "photos", "--k", "3"]
    assert by_name(["m.onnx"], words) == ["--model", "m.onnx"]
    assert by_name(["--k", "3"], words) == ["--k", "3"]
    assert by_name(["a", "b", "c"], words) == ["--model", "a", "--images", "b", "c"]


def test_all_means_every_extra_but_the_developers() -> None:
    extras = PYPROJECT["optional-dependencies"]
    assert extras["all"] == [f"clusterpaths[{','.join(name for name in extras if name not in ('all', 'dev', 'docs'))}]"]


def test_the_changelog_starts_with_this_version() -> None:
    first = next(line for line in (PROJECT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.removeprefix("## ").split()[0] == PYPROJECT["version"]
