"""Weights that an ONNX file stores in other files beside it.

Belongs here: finding those files, also where the name differs in letter case only (a case-insensitive
disk hides that, and ONNX Runtime refuses it on others). Running the model is `session.py`.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import onnx
import onnxruntime

from clusterpaths.common.corrupted import one_line
from clusterpaths.errors import ModelError
from clusterpaths.models.mapped import OWN

_IN_MEMORY = "_ORT_MEM_ADDR_"  # ONNX Runtime's own mark of an address in its memory in place of a file


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors whose data are in another file, or left in the model's own: of subgraphs, functions and sparse ones, too."""
    parts = [model.graph, *model.functions]
    for tensor in (*onnx.external_data_helper._get_all_tensors(model), *_sparse_tensors(parts)):
        if onnx.external_data_helper.uses_external_data(tensor):
            yield tensor


def _sparse_tensors(graphs: list[Any]) -> Iterator[onnx.TensorProto]:
    """Values and indices of sparse tensors, which onnx's helper leaves out and ONNX Runtime reads."""
    for graph in graphs:
        found = list(getattr(graph, "sparse_initializer", ()))
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            found += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            found += attribute.sparse_tensors
            yield from _sparse_tensors([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])
        for sparse in found:
            yield from (sparse.values, sparse.indices)


def find_external_files(model: onnx.ModelProto, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Paths of the files that the model names, and a warning for each found with another letter case.

    Raises:
        ModelError: a named file is not there (the message gives the nearest names), is too short for its
            tensors, or is outside `folder`, symbolic links followed; or it names none.
    """
    needed: dict[str, int] = {}
    for tensor in external_tensors(model):
        info = _info(tensor)
        if info.location == OWN:
            continue
        end = (info.offset or 0) + (info.length or 0)
        needed[info.location] = max(needed.get(info.location, 0), end)
    found: dict[str, Path] = {}
    warnings: list[str] = []
    for location, end in sorted(needed.items()):
        path = _find(folder, location, warnings)
        size = path.stat().st_size
        if size < end:
            raise ModelError(
                f"The weights file {path} is too short: it has {size:,} bytes, the model needs {end:,}. "
                "The copy is probably incomplete; copy it again from the model's source."
            )
        found[location] = path
    return found, warnings


def _info(tensor: onnx.TensorProto) -> Any:
    try:
        info = onnx.external_data_helper.ExternalDataInfo(tensor)
        if not info.location or "\0" in info.location:
            raise ValueError(f"the location of {tensor.name!r} is {info.location!r}")
        return info
    except ValueError as error:
        raise ModelError(
            f"The model has weights in other files, and what it says of them cannot be used: {one_line(error)}. Expected a file "
            "beside the model, and where in it: offset and length in bytes, from 0 on. Save the model again with its weights."
        ) from error


def weights_beside(folder: Path, location: str) -> Path | None:
    """The weights file in or below the model's directory, also where its name differs in letter case; None: not there.

    Raises:
        ModelError: it is outside, also by a symbolic link, or this is no name of a file.
    """
    try:
        # Windows separates by backslashes; on other systems they may be part of a name, so the name as it stands comes first
        wanted = _within(folder, folder / location)
        if not wanted.is_file():
            wanted = _within(folder, folder / PureWindowsPath(location).as_posix())
        if wanted.is_file():
            return wanted
        beside = _files_beside(wanted)
        same = [name for name in beside if name.lower() == wanted.name.lower()]
        return _within(folder, wanted.parent / same[0]) if len(same) == 1 else None
    except (_OutsideError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.ENAMETOOLONG,
            errno.ELOOP,
            errno.EINVAL,
            errno.ENOTDIR,
        ):
            raise  # of the disk
        reason = "is outside its own directory" if isinstance(error, _OutsideError) else "no file can have below"
        raise ModelError(
            f"The model names the weights file {location!r}, which {reason} {folder}. "
            "Expected a file beside the model. Save the model again with its weights beside it."
        ) from error


class _OutsideError(Exception):
    pass


def _within(folder: Path, path: Path) -> Path:
    # of a circle of links, realpath makes some name, where resolve() raises
    if _IN_MEMORY in path.parts or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise _OutsideError
    return path


def _files_beside(wanted: Path) -> list[str]:
    return sorted(p.name for p in wanted.parent.iterdir() if p.is_file()) if wanted.parent.is_dir() else []


def _find(folder: Path, location: str, warnings: list[str]) -> Path:
    found = weights_beside(folder, location)
    wanted = folder / location
    if not wanted.is_file():
        wanted = folder / PureWindowsPath(location).as_posix()
    if found is not None:
        if found.name != wanted.name:
            warnings.append(
                f"The model names its weights file {location!r}; taking {found.name!r}, which differs in letter case only. "
                "Rename it to be understood by other programs."
            )
        return found
    beside = _files_beside(wanted)
    near = difflib.get_close_matches(wanted.name, beside, n=3, cutoff=0.3)
    raise ModelError(
        f"The model keeps its weights in {location!r}, and {wanted} does not exist. "
        + (f"The nearest names there are {', '.join(near)}. " if near else "There is no file with a similar name. ")
        + "Copy the weights file beside the model under the name that the model uses."
    )


def reference_files(
    model: onnx.ModelProto, path: str | Path, external: Mapping[str, str], options: onnxruntime.SessionOptions
) -> None:
    """Let a session of `model` in memory map its weights from their files; the graph then has the files' actual names.

    ONNX Runtime's alternative, to be given the files' content, copies it: 1.8 times the weights at the peak instead of 0.8.

    Args:
        model: without its weights; changed in place.
        path: of the model's own file.
        external: location in the model -> absolute path.
        options: of the session; changed in place.
    """
    files = {OWN: str(Path(path).resolve()), **external}
    tensors = list(external_tensors(model))
    if not tensors:
        return
    folder = os.path.commonpath([Path(file).parent for file in files.values()])
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value in files:
                entry.value = Path(files[entry.value]).relative_to(folder).as_posix()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over the contents of all files, in this order; 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
