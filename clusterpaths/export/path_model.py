"""The path model: a classifier and its cluster paths as one ONNX file, so that a service gets both in one call.

Belongs here: which set, model, centroids and distances go together into the file, and its metadata. The nodes are
`path_graph.py`'s.

Input: the classifier's own, float32 (n, 3, height, width), preprocessed as in the metadata. Outputs: the class scores
under their own name (where the model has them), `path` int64 (n, layers), `distances` float32 (n, layers), to the own
centroid as in paths.parquet, and `ood_score` float32 (n,). Metadata: clusterpaths.preprocessing and
clusterpaths.classes as in `check.py`, and clusterpaths.path_model, the JSON of `PathModelNote`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from pydantic import Field

from clusterpaths.errors import ModelError
from clusterpaths.export.note import (
    DISTANCES,
    OOD_SCORE,
    PATH,
    PATH_MODEL_KEY,
    QUANTILES,
    PathModelNote,
    Reference,
    path_text,
)
from clusterpaths.export.path_graph import GraphBuilder, LayerCentroids, add_nearest, add_score
from clusterpaths.export.path_predictions import path_predictions
from clusterpaths.models.check import check_model, instrument_model, tap_again
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.external import external_tensors
from clusterpaths.models.feed import PREPROCESSING_KEY
from clusterpaths.models.load import load_proto
from clusterpaths.models.session import add_tap
from clusterpaths.naming.resolve import names_of
from clusterpaths.records import ModelRecord, Record, SetRecord
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.atomic import atomic_write

LARGEST_FILE = (1 << 31) - 1  # protobuf's limit


class ExportRecord(Record):
    """A path model on disk."""

    path: str
    size: int = Field(description="bytes")
    input: str
    batch: int | None = Field(description="fixed batch size; None: any")
    note: PathModelNote
    warnings: tuple[str, ...] = ()


def export_path_model(published: PublishedSet, model_path: Path, output: Path) -> ExportRecord:
    """Write one ONNX file that computes the cluster path of any image; for the set's own examples the same as tracing.

    Args:
        published: the set, in its cache's directory: whose manifest records which layers were stored as float16.
        model_path: the classifier that the set was made with; external weights are included in the new file.
        output: the file to write, atomically.

    Raises:
        ModelError: another model than the set's, an opset before 9, or more than 2 GB.
        CacheError: the set's files are missing or do not fit together.
        DiskError: no room or no permission.
    """
    record, scale = published.record, published.distance_scale
    model = check_set_model(record, model_path)
    if output.resolve() in {Path(model.path), *(Path(path) for path in model.external.values())}:
        raise ModelError(f"{output} is the classifier itself, or its weights. Name another file with --output.")
    dtypes, warnings = published.stored_dtypes()
    proto = load_whole(model)
    graph = GraphBuilder(proto)
    note = PathModelNote(
        set=published.name,
        fingerprint=record.fingerprint,
        model=record.model,
        dataset=record.dataset,
        num_examples=record.num_examples,
        layers=record.layers,
        k_per_layer=record.k_per_layer,
        distance=record.distance,
        rounded=tuple(layer for layer in record.layers if dtypes[layer] == "float16"),
        outputs=({"logits": model.logits} if model.logits else {})
        | {name: graph.free_name(name) for name in (PATH, DISTANCES, OOD_SCORE)},
        output_kind=model.outputs.kind,
        predictions=path_predictions(published.clusters, published.predictions, published.unseen_rule),
        names=names_of(published.index).as_text(),
        created=record.created,
        meaning=model.outputs,
        reference=_reference(published),
    )
    centroids = published.read_centroids()
    taps = {tap.layer: tap for tap in model.taps}
    layers = [
        LayerCentroids(
            tensor=add_tap(proto, taps[layer], "float32"),
            centroids=centroids[layer],
            rounded=layer in note.rounded,
            shape=taps[layer].shape if taps[layer].operator == "Conv" and len(taps[layer].shape) == 3 else (),
        )
        for layer in record.layers
    ]
    add_nearest(graph, layers, record.distance, model.input, model.batch, (note.outputs[PATH], note.outputs[DISTANCES]))
    add_score(graph, scale.means, scale.spreads, note.outputs)
    _replace_outputs(proto, note.outputs, len(layers))
    _describe(proto, record, note, model)
    content = _serialise(proto, model)
    atomic_write(output, content)
    return ExportRecord(
        path=str(output.resolve()),
        size=len(content),
        input=model.input,
        batch=model.batch,
        note=note,
        warnings=(*model.warnings, *warnings),
    )


def check_set_model(record: SetRecord, model_path: Path) -> ModelRecord:
    """The model of a set, with the set's layers as its taps and the set's image size.

    Raises:
        ModelError: it is another model.
    """
    model = check_model(model_path, logits=record.logits)
    if record.outputs is not None:  # as they were checked on rows, or named
        model = model.model_copy(update={"outputs": record.outputs})
    if record.model.sha256 not in (model.sha256, model.exported_from):
        raise ModelError(
            f"{model_path} is not the model of this set: its sha256 (with its weights) is {model.sha256}, the set was made "
            f"with {record.model.file}, sha256 {record.model.sha256}. Name that model with --model, or run the flow "
            "with this one and take the set that it publishes."
        )
    if not record.tensors:  # a set from before they were recorded
        model = check_model(model_path, record.layers)
        return instrument_model(model, record.preprocessing.size)
    return tap_again(model, record.tensors, record.preprocessing.size)


def load_whole(model: ModelRecord) -> onnx.ModelProto:
    """The model with its external weights inside.

    Raises:
        ModelError: together they exceed what one ONNX file can hold.
    """
    proto = load_proto(model.path, weights=True)
    _require_small(sum(Path(path).stat().st_size for path in (model.path, *model.external.values())), model)
    files = {location: Path(path).read_bytes() for location, path in model.external.items()}
    for tensor in external_tensors(proto):
        info = onnx.external_data_helper.ExternalDataInfo(tensor)
        start = info.offset or 0
        content = files[info.location]
        tensor.raw_data = content[start : start + info.length if info.length else len(content)]
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    return proto


def _require_small(size: int, model: ModelRecord) -> None:
    if size > LARGEST_FILE:
        raise ModelError(
            f"{model.path} with all weights and centroids takes {size:,} bytes; one ONNX file can hold {LARGEST_FILE:,}. "
            "A path model is one file; use a smaller model, or fewer layers or clusters."
        )


def _reference(published: PublishedSet) -> Reference:
    scores = np.quantile(published.held_out_ood, np.linspace(0, 1, QUANTILES))
    occupied = zip(published.paths.paths.tolist(), published.paths.counts.tolist(), strict=True)
    return Reference(
        ood_scores=tuple(float(f"{score:.6g}") for score in scores.tolist()),
        paths={path_text(tuple(path)): count for path, count in occupied},
    )


def _replace_outputs(proto: onnx.ModelProto, names: Mapping[str, str], layers: int) -> None:
    """Make the logits and the path model's own the only outputs."""
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    image = next(entry for entry in graph.input if entry.name not in weights)
    batch = image.type.tensor_type.shape.dim[0]
    n = batch.dim_value or batch.dim_param or "batch"
    outputs = [output for output in graph.output if output.name == names.get("logits")]
    outputs += [
        onnx.helper.make_tensor_value_info(names[PATH], onnx.TensorProto.INT64, [n, layers]),
        onnx.helper.make_tensor_value_info(names[DISTANCES], onnx.TensorProto.FLOAT, [n, layers]),
        onnx.helper.make_tensor_value_info(names[OOD_SCORE], onnx.TensorProto.FLOAT, [n]),
    ]
    del graph.output[:]
    graph.output.extend(outputs)


def _describe(proto: onnx.ModelProto, record: SetRecord, note: PathModelNote, model: ModelRecord) -> None:
    """Metadata: the model's own, with the set's preprocessing and class names, and the note."""
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    metadata[PREPROCESSING_KEY] = record.preprocessing.model_dump_json()
    names = record.class_names or model.outputs.class_names
    if names and model.outputs.order:
        names = tuple(names[label] for label in model.outputs.order)  # the file's outputs are in the model's own order
    if names:
        metadata[CLASSES_KEY] = json.dumps(list(names), ensure_ascii=False)
    metadata[PATH_MODEL_KEY] = note.model_dump_json()
    onnx.helper.set_model_props(proto, metadata)


def _serialise(proto: onnx.ModelProto, model: ModelRecord) -> bytes:
    _require_small(proto.ByteSize(), model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"The path model of {model.path} does not pass ONNX's checker: {str(error).splitlines()[0]}. Nothing was "
            "written. Check whether the classifier itself passes onnx.checker.check_model."
        ) from error
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
