"""Stages check and instrument: what a run needs to know of a model, before anything slow.

Belongs here: file in, `ModelRecord` out. Nothing is written: the tapped graph lives in memory (`session.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from clusterpaths import roots
from clusterpaths.errors import ModelError
from clusterpaths.models.external import find_external_files, hash_files
from clusterpaths.models.session import TapSession
from clusterpaths.models.taps import choose_taps, find_logits, find_taps
from clusterpaths.records import ModelRecord, Preprocessing, Tap

PREPROCESSING_KEY = "clusterpaths.preprocessing"
CLASSES_KEY = "clusterpaths.classes"


def default_model(name: str = "CelebA_CNN") -> Path:
    """ONNX_models/NAME_instrumented.onnx or, where only that is there, NAME.onnx."""
    instrumented = roots.models_root() / f"{name}_instrumented.onnx"
    plain = roots.models_root() / f"{name}.onnx"
    return plain if plain.is_file() and not instrumented.is_file() else instrumented


def check_model(
    path: Path, layers: tuple[str, ...] | None = None, default_size: tuple[int, int] = (64, 64)
) -> ModelRecord:
    """Load the model and find its image input, logits, layers and weights.

    `layers` None takes the model's own added outputs, or all layers of a plain model; `default_size`
    (height, width) stands in where the model leaves its input size open.

    Raises:
        ModelError: no file, no ONNX, no image input, an unknown layer, or missing weights.
    """
    if not path.is_file():
        raise ModelError(
            f"There is no model at {path}. Expected an ONNX image classifier there. Put yours in that place or name it "
            f"with --model PATH; or train one on your own CelebA with `python flows/train.py --dataset celeba`; "
            "or run with --sample, which needs no model and no download."
        )
    model = _load(path)
    external, warnings = find_external_files(model, path.parent)
    input_name, batch, size = _image_input(model, path)
    logits = find_logits(model.graph)
    taps = choose_taps(find_taps(model.graph, logits), model.graph, layers)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return ModelRecord(
        path=str(path.resolve()),
        sha256=hash_files([path, *(external[location] for location in sorted(external))]),
        external={location: str(found.resolve()) for location, found in external.items()},
        input=input_name,
        batch=batch,
        size=size or default_size,
        logits=logits,
        num_classes=0,
        taps=tuple(Tap(layer=tap.layer, tensor=tap.tensor, shape=(), operator=tap.operator) for tap in taps),
        preprocessing=_preprocessing(metadata, path),
        class_names=_class_names(metadata, path),
        warnings=tuple(warnings),
    )


def _load(path: Path) -> onnx.ModelProto:
    what_to_do = "Name an ONNX file with --model, such as torch.onnx.export writes."
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        head = path.read_bytes()[:60]
        kind = "It looks like text. " if head.isascii() and head.strip() else ""
        raise ModelError(f"{path} is not an ONNX model ({error}). {kind}{what_to_do}") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{path} is not an ONNX model: it holds no graph ({path.stat().st_size:,} bytes). {what_to_do}"
        )
    return model


def _image_input(model: onnx.ModelProto, path: Path) -> tuple[str, int | None, tuple[int, int] | None]:
    """Name, fixed batch (None: any) and fixed (height, width) (None: any) of the input."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    described = ", ".join(f"{entry.name} {_shape_text(entry)}" for entry in inputs) or "none"
    expected = "Expected one float32 input of shape (batch, 3, height, width)."
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs ({described}). {expected}")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value or None for dim in tensor.shape.dim]
    if len(dims) != 4 or dims[1] not in (3, None) or tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"{path} has no image input: its input is {described}. {expected} Choose an image classifier.")
    size = (int(dims[2]), int(dims[3])) if dims[2] and dims[3] else None
    return inputs[0].name, dims[0], size


def _shape_text(entry: onnx.ValueInfoProto) -> str:
    tensor = entry.type.tensor_type
    dims = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} ({dims})"


def _preprocessing(metadata: dict[str, str], path: Path) -> Preprocessing | None:
    if PREPROCESSING_KEY not in metadata:
        return None
    try:
        return Preprocessing.model_validate_json(metadata[PREPROCESSING_KEY])
    except ValueError as error:
        raise ModelError(
            f"{path} carries the metadata entry {PREPROCESSING_KEY!r}, which is not understood: {error}. "
            "Export the model again, or remove the entry and use --preprocessing."
        ) from error


def _class_names(metadata: dict[str, str], path: Path) -> tuple[str, ...]:
    text = metadata.get(CLASSES_KEY, "[]")
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ModelError(
            f"{path} carries the metadata entry {CLASSES_KEY!r}, which is not understood: {text[:80]!r}. "
            'Expected a JSON list of names, such as ["cat", "dog"]. Export the model again, or remove the entry.'
        )
    return tuple(str(name) for name in names)


def instrument_model(record: ModelRecord, size: tuple[int, int]) -> ModelRecord:
    """Tap the layers, run the graph once on a blank image of this (height, width), and note what it puts out.

    Raises:
        ModelError: ONNX Runtime refuses the model, or it cannot take such an image.
    """
    sized = record.model_copy(update={"size": size})
    outputs = TapSession(sized).run_blank()
    taps = tuple(tap.model_copy(update={"shape": tuple(outputs.layers[tap.layer].shape[1:])}) for tap in record.taps)
    classes = 0 if outputs.logits is None else int(outputs.logits.shape[1])
    return sized.model_copy(update={"taps": taps, "num_classes": classes})
