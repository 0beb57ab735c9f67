"""Nothing that is read can execute code: by the source, and by arrays of pickled objects where every document is read."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.activations.run import from_activations
from clusterpaths.config import RunConfig
from clusterpaths.datasets import open_dataset
from clusterpaths.errors import ClusterPathsError, DatasetError
from clusterpaths.evaluation.means import read_means
from clusterpaths.monitoring.reference import reference_routes
from clusterpaths.records import DatasetSpec
from clusterpaths.sets.place import read_axes
from clusterpaths.sets.published import open_set
from tests.runs import SAMPLE_MODEL, run_pipeline
from tests.watched import made

__all__ = ["made"]  # a fixture

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [file for top in ("clusterpaths", "tasks", "flows", "deployments") for file in (ROOT / top).rglob("*.py")]

# What runs code out of data; (module, name), or a builtin.
LOADERS = {
    "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "pandas.read_pickle",
    "numpy.lib.format.read_array", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "onnx.hub", "torch.hub",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}


def imported(tree: ast.AST) -> dict[str, str]:
    """The full name of each name that a module imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.partition(".")[0]
                names[one.asname or top] = one.name if one.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return names


def called(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what is called, such as numpy.load; empty: a value's method or the like."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([names.get(node.id, node.id), *reversed(parts)]) if isinstance(node, ast.Name) else ""


def findings(text: str) -> Iterator[str]:
    """What in this source could execute code out of data."""
    tree = ast.parse(text)
    names = imported(tree)
    for name in names.values():
        if any(name == loader or name.startswith(f"{loader}.") for loader in LOADERS):
            yield f"imports {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node.func, names)
        given = {one.arg: one.value for one in node.keywords}
        if name in BUILTINS or any(name == loader or name.startswith(f"{loader}.") for loader in LOADERS):
            yield f"calls {name}"
        pickles = given.get("allow_pickle")
        if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
            yield f"{name} with allow_pickle"
        safe = given.get("weights_only")
        if name == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
            yield "torch.load without weights_only=True"
        if name.startswith("numcodecs"):
            yield f"calls {name}"


def test_no_source_reads_a_pickle_or_runs_text() -> None:
    assert len(SOURCES) > 300
    found = {str(file.relative_to(ROOT)): list(findings(file.read_text(encoding="utf-8"))) for file in SOURCES}
    assert {file: what for file, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import pandas as pd\npd.read_pickle('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "eval('1')",
        "exec(text)",
        "from numcodecs import Pickle\nPickle()",
        "import cloudpickle as c\nc.loads(x)",
    ],
)
def test_each_of_them_would_be_found(text: str) -> None:
    assert list(findings(text))


def test_what_is_safe_is_not() -> None:
    lines = ("import numpy as np, torch, yaml, ast, re", "np.load('x')", "np.load('x', allow_pickle=False)")
    lines += ("torch.load('x', weights_only=True)", "yaml.safe_load(t)", "ast.literal_eval(t)", "model.eval()")
    assert list(findings("\n".join((*lines, "re.compile('x')")))) == []


# planted


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def npy(mark: Path, shape: tuple[int, ...] = (4,)) -> bytes:
    """An array of objects as numpy writes it; reading it with pickles creates `mark`."""
    values = np.empty(shape, object)
    values.fill(Payload(mark))
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def npz(mark: Path, names: list[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(f"{name}.npy", npy(mark))
    return stream.getvalue()


def test_the_payload_works(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    np.load(io.BytesIO(npy(mark)), allow_pickle=True)
    assert mark.exists()
    mark.unlink()
    with np.load(io.BytesIO(npz(mark, ["a"])), allow_pickle=True) as arrays:
        arrays["a"]
    assert mark.exists()


# what a user names


USERS = ["npy", "npz", "npz compressed", "one file per example", "zarr"]


def plant(kind: str, folder: Path, mark: Path) -> Path:
    """A layer `fc1` of four examples whose values are objects."""
    folder.mkdir()
    if kind == "npy":
        (folder / "fc1.npy").write_bytes(npy(mark, (4, 3)))
    elif kind.startswith("npz"):
        packed = zipfile.ZIP_DEFLATED if "compressed" in kind else zipfile.ZIP_STORED
        with zipfile.ZipFile(folder / "layers.npz", "w", packed) as archive:
            archive.writestr("fc1.npy", npy(mark, (4, 3)))
    elif kind == "one file per example":
        (folder / "fc1").mkdir()
        for number in range(4):
            (folder / "fc1" / f"{number}.npy").write_bytes(npy(mark, (3,)))
    else:
        (folder / "fc1").mkdir()
        record = {
            "zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "compressor": {"id": "pickle", "protocol": 4},
            "filters": [{"id": "vlen-utf8"}], "order": "C", "fill_value": "",
        }  # fmt: skip
        (folder / "fc1" / ".zarray").write_text(json.dumps(record))
        (folder / "fc1" / "0").write_bytes(pickle.dumps(Payload(mark)))
    return folder


@pytest.mark.parametrize("kind", USERS)
def test_activations_of_another_program_are_not_unpickled(kind: str, tmp_path: Path) -> None:
    mark, folder = tmp_path / "ran", plant(kind, tmp_path / "given", tmp_path / "ran")
    with pytest.raises(DatasetError) as refused:
        from_activations(folder, cache_root=str(tmp_path / "cache"), name="x")
    assert "\n" not in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["given.npy", "given.npz"])
def test_images_in_arrays_are_not_unpickled(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / name).write_bytes(npy(mark) if name.endswith("npy") else npz(mark, ["images", "labels"]))
    with pytest.raises(DatasetError):
        open_dataset(DatasetSpec(name="arrays", root=str(tmp_path / name)))
    assert not mark.exists()


# what a run wrote and somebody replaced


def arrays_of(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in (".npy", ".npz"))


def replace(file: Path, mark: Path) -> None:
    """The file's arrays, each as one of objects."""
    if file.suffix == ".npy":
        file.write_bytes(npy(mark))
    else:
        with np.load(file) as arrays:
            names = list(arrays)
        file.write_bytes(npz(mark, names))


def test_no_array_of_a_set_or_of_its_cache_is_unpickled(made: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made / "cache", cache)
    published = open_set(cache / "Faces" / "set_01")
    reference_routes(published, store=True)  # held_out.npz
    planted = arrays_of(cache)
    assert {file.name for file in planted} >= {"centroids.npz", "held_out.npz", "axes.npz"}
    assert any(file.suffix == ".npy" for file in planted)
    mark = tmp_path / "ran"
    for file in planted:
        replace(file, mark)
    published = open_set(cache / "Faces" / "set_01")
    readers: list[Callable[[], object]] = [
        published.read_centroids,
        lambda: published.has_maps,
        lambda: read_axes(published),
        lambda: read_means(published),
        lambda: reference_routes(published),
        lambda: run_pipeline(  # reads fits and activations, and repairs what it can
            RunConfig(
                model=SAMPLE_MODEL, data_root=made / "reference", cache_root=str(cache), name="Faces", layers=("fc1", "fc2"),
                k=4, evaluate=False, check_preprocessing=False,
            )
        ),
    ]  # fmt: skip
    for read in readers:
        with contextlib.suppress(ClusterPathsError):
            read()
        assert not mark.exists(), read


@pytest.mark.parametrize("name", ["order.npy", "00000.npy"])
def test_numpy_itself_refuses_by_default(name: str, tmp_path: Path) -> None:
    """What np.load without allow_pickle relies on."""
    (tmp_path / name).write_bytes(npy(tmp_path / "ran"))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
