"""Cluster paths of image models: which route each image takes through the layers.

    import clusterpaths as cp

    cp.ClusterPaths(n_clusters=5).fit({"layer3": X3, "avgpool": X4})  # arrays: a scikit-learn estimator
    paths = cp.run(model="resnet18.onnx", data="photos/")             # a model and images: the pipeline
    paths = cp.from_activations("features/", name="mine")             # activations that are there already
    paths = cp.collect(model, loader, out="activation_cache/mine")   # a PyTorch model and a DataLoader
    paths = cp.load("activation_cache/resnet18-photos/set_01")        # a published set

Belongs here: the public names. Each is imported from its module at first use, so that importing the package takes
milliseconds. Nothing in the package knows of Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clusterpaths.activations.run import from_activations
    from clusterpaths.clustering.estimator import ClusterPaths
    from clusterpaths.config import RunConfig
    from clusterpaths.errors import ClusterPathsError, InputError
    from clusterpaths.notebook.run import load, run
    from clusterpaths.pytorch.collect import collect
    from clusterpaths.pytorch.export import export_onnx
    from clusterpaths.sets.published import PublishedSet

__all__ = [
    "ClusterPaths",
    "ClusterPathsError",
    "InputError",
    "PublishedSet",
    "RunConfig",
    "__version__",
    "collect",
    "export_onnx",
    "from_activations",
    "load",
    "run",
]

_HOMES = {
    "ClusterPaths": "clustering.estimator",
    "ClusterPathsError": "errors",
    "InputError": "errors",
    "PublishedSet": "sets.published",
    "RunConfig": "config",
    "collect": "pytorch.collect",
    "export_onnx": "pytorch.export",
    "from_activations": "activations.run",
    "load": "notebook.run",
    "run": "notebook.run",
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its module at first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("clusterpaths")
    if name not in _HOMES:
        raise AttributeError(f"module 'clusterpaths' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"clusterpaths.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
