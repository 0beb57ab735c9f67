"""How many images a graph takes at a time, and whether an image's values depend on the others in its batch.

Belongs here: what is seen when two images are run together and alone, and the operators that explain it. The layers' shapes
are `shapes.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from clusterpaths.errors import ModelError
from clusterpaths.models.external import reference_files
from clusterpaths.models.inputs import ImageInput
from clusterpaths.models.products import one_thread_options
from clusterpaths.models.session import runtime_message
from clusterpaths.models.shapes import batch_shape

_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}  # scales of all values of a batch
_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
}  # fmt: skip
_APART = 0.05  # of the largest value: kernels for other batch sizes differ by rounding only, some thousandths in 8 bits
_COMPARED = 1 << 22  # values of an image: a share of the largest value needs no more
_FATAL = 4  # ONNX Runtime's severity: a run that fails is an answer here
_EVALUATION = "Export it again in evaluation mode: model.eval() before torch.onnx.export, without training=."

Values = dict[str, NDArray[Any]]


def settle_batch(
    model: onnx.ModelProto, path: Path, image: ImageInput, external: Mapping[str, str], size: tuple[int, int]
) -> tuple[ImageInput, list[str]]:
    """Find how many images the graph really takes, by running two of them together and each alone.

    A graph that declares any batch but is frozen at one image, as a Reshape traced by an exporter leaves it, is one of batch
    1 from here on; so is one that is quantised dynamically, whose scales are of a batch's values. What else makes an image's
    values depend on chance or on other images is a warning: nothing here can repair it.

    Args:
        model: without external weights; its input's batch is changed in place.
        path: its file.
        image: its input.
        external: location in the model -> absolute path of the weights.
        size: (height, width) where the model leaves them open.

    Returns:
        The input with the batch that it has, and warnings.
    """
    warnings = _training_mode(model)
    dynamic = any(node.op_type in _DYNAMIC for node in every_node(model))
    if dynamic and image.batch not in (None, 1):
        warnings.append(
            f"The model is quantised dynamically, and for batches of {image.batch}: its scales are of all images in a batch, "
            "so that an image's values depend on the others. Export it for any batch, or for one image."
        )
    image = replace(image, joint=bool(warnings))
    if image.batch is not None:
        return image, warnings
    if dynamic:
        frozen = "it is quantised dynamically, with scales of all values of a batch"
    else:
        frozen, depends = _run_two(model, path, image, external, size)
        if depends:
            image = replace(image, joint=True)
            warnings = warnings or [depends]
    if frozen:
        warnings.append(f"The model is run on one image at a time, which takes longer: {frozen}.")
        entry = next(entry for entry in model.graph.input if entry.name == image.name)
        entry.type.tensor_type.shape.dim[0].dim_value = 1
        image = replace(image, batch=1)
    return image, warnings


def _run_two(
    model: onnx.ModelProto, path: Path, image: ImageInput, external: Mapping[str, str], size: tuple[int, int]
) -> tuple[str, str]:
    """Why the graph takes one image only, and how an image's values depend on the other; empty: neither, or not known."""
    images = _two_images(image, size)
    try:
        session = _session(model, path, external)
        alone = [_run(session, image.name, images[at : at + 1]) for at in range(2)]
    except ModelError:
        return "", ""  # whatever is wrong, the run of the tapped graph reports it
    try:
        both = _run(session, image.name, images)
    except ModelError as error:
        at_node = re.search(r"running (\w+) node\. Name:'([^']*)'", str(error))
        where = f" by {' '.join(at_node.groups()).strip()}" if at_node else ""
        return f"its graph is frozen at one image{where}, although it declares any number", ""
    single = [name for name, value in alone[0].items() if value.ndim and len(value) == 1]
    rows = [name for name in single if both[name].ndim and len(both[name]) == 2]
    if single and not rows:
        return "its graph is frozen at one image, although it declares any number (for two it outputs one row)", ""
    share = max((_difference(both[name], [one[name] for one in alone]) for name in rows), default=0.0)
    if share <= _APART:
        return "", ""
    return "", (
        f"An image's values depend on the other images in its batch: run beside another, the outputs differ by {share:.0%} "
        f"of their largest value. Something is computed over the batch, as batch normalization does in training. {_EVALUATION}"
    )


def _two_images(image: ImageInput, size: tuple[int, int]) -> NDArray[Any]:
    """Noise, dark and bright: what is computed over both differs from what is computed over one."""
    values = np.random.default_rng(0).random(batch_shape(image, size, 2), np.float32)
    values[0] *= 0.2
    return (values * 255).astype(np.uint8) if image.type == "uint8" else values.astype(image.type)


def _session(model: onnx.ModelProto, path: Path, external: Mapping[str, str]) -> onnxruntime.InferenceSession:
    options = one_thread_options()
    options.log_severity_level = _FATAL
    own = onnx.ModelProto()  # the names of its weights' files are changed for the session
    own.CopyFrom(model)
    reference_files(own, path, external, options)
    try:
        return onnxruntime.InferenceSession(own.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(runtime_message(error)) from error


def _run(session: onnxruntime.InferenceSession, name: str, images: NDArray[Any]) -> Values:
    try:
        values = session.run(None, {name: images})
    except Exception as error:
        raise ModelError(runtime_message(error)) from error
    outputs = zip((output.name for output in session.get_outputs()), values, strict=True)
    return {output: value for output, value in outputs if isinstance(value, np.ndarray)}


def _difference(both: NDArray[Any], alone: list[NDArray[Any]]) -> float:
    """Between two rows and the same two alone, as a share of the largest value; 0 where they cannot be compared."""
    if both.dtype.kind != "f" or any(one.shape[1:] != both.shape[1:] for one in alone) or not both.size:
        return 0.0
    values, own = (
        rows.reshape(len(rows), -1)[:, :_COMPARED].astype(np.float64) for rows in (both, np.concatenate(alone))
    )
    finite = np.isfinite(values) & np.isfinite(own)  # log-probabilities may be -inf
    largest = np.abs(values[finite]).max(initial=0.0)
    return float(np.abs(values[finite] - own[finite]).max(initial=0.0) / largest) if largest else 0.0


def _training_mode(model: onnx.ModelProto) -> list[str]:
    """A warning for each kind of operator that works as in training."""
    constants = _constants(model)
    found: dict[str, list[str]] = {}
    for node in every_node(model):
        if node.op_type in _RANDOM:
            found.setdefault("random", []).append(_called(node))
        elif node.op_type == "BatchNormalization" and _normalises_by_batch(node):
            found.setdefault("norm", []).append(_called(node))
        elif node.op_type == "Dropout" and _drops(node, constants):
            found.setdefault("dropout", []).append(_called(node))
    texts = {
        "norm": "BatchNormalization is in training mode ({}): it takes mean and variance of the images in a batch, so that an "
        "image's values depend on the others, and its paths on how images are batched.",
        "dropout": "Dropout is on, as in training ({}): values are set to 0 at random, and no two runs need be alike.",
        "random": "The graph draws random numbers ({}): no two runs need be alike.",
    }
    return [f"{text.format(_few(found[kind]))} {_EVALUATION}" for kind, text in texts.items() if kind in found]


def _normalises_by_batch(node: onnx.NodeProto) -> bool:
    """training_mode of opset 14; before that, further outputs (statistics of the batch) say so."""
    mode = next((bool(attribute.i) for attribute in node.attribute if attribute.name == "training_mode"), None)
    return mode if mode is not None else sum(bool(name) for name in node.output) > 1


def _drops(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> bool:
    """Of opset 12 and later: inputs data, ratio, training_mode. Before, Dropout is off in a model that is run."""
    inputs = [*node.input, "", ""]
    if not (constants.get(inputs[2], np.array(False))).any():
        return False
    return bool(constants.get(inputs[1], np.array(0.5)).any())


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Single values by name: initializers and Constant nodes."""
    tensors = [tensor for tensor in model.graph.initializer if not onnx.external_data_helper.uses_external_data(tensor)]
    found: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        if all(size == 1 for size in tensor.dims):
            with contextlib.suppress(
                ValueError, TypeError, KeyError
            ):  # one that holds nothing; ONNX Runtime reports it
                found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for node in every_node(model):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                value = onnx.helper.get_attribute_value(attribute)
                if attribute.name == "value":
                    value = onnx.numpy_helper.to_array(value)
                if np.ndim(value) <= 1 and np.size(value) == 1:
                    found[node.output[0]] = np.asarray(value)
    return found


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Of the graph, its subgraphs and the model's functions."""
    yield from _nodes_of(model.graph.node)
    for function in model.functions:
        yield from _nodes_of(function.node)


def _nodes_of(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes_of(graph.node)


def _called(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
