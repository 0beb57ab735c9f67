"""Shapes of layers: from the graph or, where they are unknown there, from one run on a blank image.

Belongs here: shapes of one example. The runs of an entire data set are `session.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from clusterpaths.common.memory import physical_bytes
from clusterpaths.errors import ModelError
from clusterpaths.models.external import find_external_files, reference_files
from clusterpaths.models.inputs import ImageInput, find_image_input

Shape = tuple[int, ...]
_BATCH = 2  # where it is free: 1 would also match an axis that is not the batch
_LARGE = 4096  # bytes beyond which an initializer is weights: no shape is computed from it


def batch_shape(image: ImageInput, size: tuple[int, int], batch: int = _BATCH) -> Shape:
    """The shape of a batch of images, `size` (height, width) and `batch` where the model leaves them open."""
    first, spatial = image.batch or batch, image.at_size(size)
    return (first, 3, *spatial) if image.layout == "NCHW" else (first, *spatial, 3)


def require_memory(model: onnx.ModelProto, path: Path, image: ImageInput, size: tuple[int, int]) -> None:
    """Refuse a graph that cannot be run here, before anything of its sizes is allocated: a small file can declare any.

    Sizes that only a run shows (a loop's, or those computed from the image) are not known here.

    Raises:
        ModelError: a blank batch, or one tensor of the graph for it, exceeds the memory of this machine.
    """
    batch, memory = batch_shape(image, size), physical_bytes()
    largest = {image.name: batch}
    if 4 * math.prod(batch) <= memory:
        try:
            largest |= _inferred(model, image.name, batch)
        except MemoryError as error:  # inference computes values of tensors that may be shapes
            raise ModelError(
                f"{path} cannot be run: the shapes of its tensors need too much memory to be computed. Expected a classifier "
                "of images. If the file comes from somebody else, it may have been made to use up the memory."
            ) from error
    name, shape = max(largest.items(), key=lambda one: _values(one[1]))
    if (needed := 4 * _values(shape)) > memory:  # as float32; others differ by a factor that does not matter here
        raise ModelError(
            f"{path} cannot be run on this machine: its tensor {name[:80]!r} has the shape {shape} for a batch of "
            f"{batch}, {needed / 1e9:,.0f} GB; this machine has {memory / 1e9:,.0f} GB of memory. Expected a classifier of "
            "images. If it fixes a large batch, export it for any batch; if it takes images of any size, name a smaller one with "
            "--size. If the file comes from somebody else, it may have been made to use up the memory."
        )


def _values(shape: Shape) -> int:
    """Of one tensor; an axis of 0 does not hide what another one makes of the tensors before it."""
    return max(math.prod(shape), *shape, 0)


def layer_shapes(
    model: onnx.ModelProto, path: Path, tensors: Sequence[str], size: tuple[int, int] = (64, 64)
) -> dict[str, Shape | None]:
    """The shape of one example of each tensor; None for a tensor that has not one row per image.

    Args:
        model: as loaded from `path`; weights in other files need not be loaded.
        path: the directory of those files.
        tensors: names in the graph.
        size: (height, width) where the model leaves them open.

    Raises:
        ModelError: no image input; or the graph lacks a shape, and ONNX Runtime cannot run the model.
    """
    image = find_image_input(model, path)
    batch = batch_shape(image, size)
    known = _inferred(model, image.name, batch)
    missing = [name for name in dict.fromkeys(tensors) if name not in known]
    if missing:
        known |= _seen(model, path, image, batch, missing)
    return {name: _of_one(known[name], batch) for name in tensors}


def inferred_shapes(
    model: onnx.ModelProto, path: Path, tensors: Sequence[str], size: tuple[int, int] = (64, 64)
) -> dict[str, Shape | None]:
    """As `layer_shapes`, without a run: shapes missing in the graph are left out.

    Raises:
        ModelError: no image input.
    """
    image = find_image_input(model, path)
    batch = batch_shape(image, size)
    known = _inferred(model, image.name, batch)
    return {name: _of_one(known[name], batch) for name in tensors if name in known}


def whole_shapes(
    model: onnx.ModelProto, path: Path, tensors: Sequence[str], size: tuple[int, int] = (64, 64)
) -> tuple[int, dict[str, Shape]]:
    """Images in a blank batch, and the shape of each tensor for it; a tensor that cannot be known is left out.

    Raises:
        ModelError: no image input.
    """
    image = find_image_input(model, path)
    batch = batch_shape(image, size)
    known = _inferred(model, image.name, batch)
    if missing := [name for name in tensors if name not in known]:
        with contextlib.suppress(ModelError):  # it takes other images: what the file declares has to do
            known |= _seen(model, path, image, batch, missing)
    return batch[0], {name: known[name] for name in tensors if name in known}


def _of_one(shape: Shape, batch: Shape) -> Shape | None:
    return shape[1:] if len(shape) > 1 and shape[0] == batch[0] else None


def _inferred(model: onnx.ModelProto, name: str, batch: Shape) -> dict[str, Shape]:
    """Complete shapes, those that shape inference knows fully, of a graph without its weights."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    for entry in model.graph.input:
        if entry.name == name:
            graph.input.append(onnx.helper.make_tensor_value_info(name, entry.type.tensor_type.elem_type, batch))
        else:
            graph.input.append(entry)
    for output in model.graph.output:  # their own shapes have symbols where there are numbers now
        graph.output.append(onnx.helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, None))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _LARGE and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return {}  # the run on a blank image reports what is wrong, if anything
    shapes = {}
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
    return shapes


def _seen(
    model: onnx.ModelProto, path: Path, image: ImageInput, batch: Shape, tensors: Sequence[str]
) -> dict[str, Shape]:
    """Complete shapes of the outputs for a blank batch, the weights in other files mapped."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    put_out = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in put_out)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    external, _ = find_external_files(model, path.parent)
    reference_files(tapped, path, {location: str(found.resolve()) for location, found in external.items()}, options)
    value = np.full(batch, 0.5).astype(image.type)
    try:
        session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(list(tensors), {image.name: value})
    except Exception as error:
        raise ModelError(
            f"{path} cannot be run on a blank batch of shape {batch}: {str(error).strip().splitlines()[0].rstrip('.')}. "
            "If the model expects another image size, name it with --size HEIGHTxWIDTH; else check the file with "
            "onnx.checker.check_model."
        ) from error
    return {name: tuple(output.shape) for name, output in zip(tensors, outputs, strict=True)}
