"""`import clusterpaths`: the public names, quickly, and without the libraries that a run needs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import clusterpaths
from clusterpaths.activations.run import from_activations
from clusterpaths.clustering.estimator import ClusterPaths
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError, InputError
from clusterpaths.notebook.run import load, run
from clusterpaths.pytorch.collect import collect
from clusterpaths.pytorch.export import export_onnx
from clusterpaths.sets.published import PublishedSet

PUBLIC: dict[str, Any] = {
    "ClusterPaths": ClusterPaths,
    "ClusterPathsError": ClusterPathsError,
    "InputError": InputError,
    "PublishedSet": PublishedSet,
    "RunConfig": RunConfig,
    "collect": collect,
    "export_onnx": export_onnx,
    "from_activations": from_activations,
    "load": load,
    "run": run,
}
HEAVY = ("prefect", "torch", "onnx", "onnxruntime", "sklearn", "scipy", "numpy", "pyarrow", "pydantic", "fastapi")
SECONDS = 0.3


def in_a_new_process(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_public_names_are_these() -> None:
    assert set(clusterpaths.__all__) == {*PUBLIC, "__version__"}
    assert set(clusterpaths.__all__) <= set(dir(clusterpaths))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(clusterpaths, name) is PUBLIC[name]


def test_every_public_name_can_be_imported_first() -> None:
    code = "from clusterpaths import *; import json; print(json.dumps(sorted(n for n in dir() if n[:2] != '__')))"
    assert set(PUBLIC) <= set(in_a_new_process(code))


def test_the_version_is_that_of_the_package() -> None:
    assert clusterpaths.__version__[0].isdigit()


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cluster'"):
        _ = clusterpaths.cluster


def test_importing_the_package_is_quick_and_imports_no_large_library() -> None:
    code = (
        "import sys, time, json; start = time.perf_counter(); import clusterpaths; dir(clusterpaths); "
        f"took = time.perf_counter() - start; print(json.dumps([took, [n for n in {HEAVY} if n in sys.modules]]))"
    )
    took, imported = in_a_new_process(code)
    assert imported == []
    assert took < SECONDS


def test_the_public_names_need_no_prefect_and_no_torch() -> None:
    code = (
        "import sys, json, clusterpaths as cp; [getattr(cp, name) for name in cp.__all__]; "
        "print(json.dumps([n for n in ('prefect', 'torch', 'fastapi', 'flows', 'tasks') if n in sys.modules]))"
    )
    assert in_a_new_process(code) == []


def test_a_set_is_loaded_without_onnx_runtime() -> None:
    code = (
        "import sys, json, clusterpaths as cp; cp.load, cp.run; "
        "print(json.dumps([n for n in ('onnxruntime', 'sklearn') if n in sys.modules]))"
    )
    assert in_a_new_process(code) == []
