"""Stages check and instrument: what a run needs to know about a model, before any slow stage.

Belongs here: file in, `ModelRecord` out. Nothing is written: the tapped graph is in memory (`session.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import onnx
from pydantic import ValidationError

from clusterpaths.common.corrupted import one_line, parse_json, what_does_not_fit
from clusterpaths.errors import ModelError
from clusterpaths.models.axes import channels_axis
from clusterpaths.models.batch import settle_batch
from clusterpaths.models.class_names import find_class_names
from clusterpaths.models.dequantise import quantisation
from clusterpaths.models.external import find_external_files, hash_files
from clusterpaths.models.feed import PREPROCESSING_KEY
from clusterpaths.models.find import require_model
from clusterpaths.models.find_outputs import find_outputs
from clusterpaths.models.graph import DataPath
from clusterpaths.models.inputs import ImageInput, find_image_input
from clusterpaths.models.layers import FoundLayer, choose_layers, find_layers
from clusterpaths.models.load import load_graph, load_proto
from clusterpaths.models.names import safe_name, unique_names
from clusterpaths.models.providers import CPU
from clusterpaths.models.reduce import parse_reduce, reduced_axes, resolve_reduce
from clusterpaths.models.session import TapSession
from clusterpaths.models.shapes import inferred_shapes, require_memory
from clusterpaths.models.sidecar import find_sidecar, read_sidecar
from clusterpaths.records import DEQUANTISED, ModelRecord, OutputKind, Preprocessing, Reduce, Tap

LAYERS_KEY = "clusterpaths.layers"  # JSON, layer -> tensor: what a run takes where no layers are named
TORCH_KEY = "clusterpaths.torch"  # the digest of the PyTorch model that the file was exported from


def check_model(
    path: Path,
    layers: tuple[str, ...] | None = None,
    default_size: tuple[int, int] = (64, 64),
    logits: str | None = None,
    providers: tuple[str, ...] = (CPU,),
    output_kind: OutputKind | None = None,
    class_names: Path | None = None,
) -> ModelRecord:
    """Load the model and find its image input, logits, layers and weights.

    `layers` None takes the model's own added outputs, else auto (at most 6 over the depth); `default_size`
    (height, width) is used where the model leaves both sides of its input open; `logits` names the output with class scores,
    or is "none"; `output_kind` overrules what they are; `class_names` is a file with the classes' names.

    Raises:
        ConfigError: as `class_names.read_names`, or another number of names than of classes.
        ModelError: no file, no ONNX, no image input, an unknown layer, missing weights, or larger than the memory.
    """
    require_model(path)
    model = load_graph(path)
    external, warnings = find_external_files(model, path.parent)
    entry = find_image_input(model, path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    preprocessing, source = read_preprocessing(metadata, path, entry)
    used = preprocessing.size if preprocessing else entry.default_size(default_size)
    files = {location: str(file.resolve()) for location, file in external.items()}
    require_memory(model, path, entry, used)
    entry, about_batch = settle_batch(model, path, entry, files, used)
    outputs = find_outputs(model, path, logits, output_kind, find_class_names(metadata, path, class_names), used)
    found = find_layers(model, outputs.name)
    shapes = inferred_shapes(model, path, [layer.tensor for layer in found], used)
    stated = _stated_layers(metadata, model, path)
    taps = stated if layers is None and stated else choose_layers(_named_as(stated, found), model, layers, shapes)
    return ModelRecord(
        path=str(path.resolve()),
        sha256=hash_files([path, *(external[location] for location in sorted(external))]),
        external=files,
        input=entry.name,
        batch=entry.batch,
        joint=entry.joint,
        layout=entry.layout,
        input_type=entry.type,
        providers=providers,
        size=used,
        outputs=outputs,
        taps=tuple(
            Tap(
                layer=tap.name,
                tensor=tap.tensor,
                shape=(),
                operator=tap.operator,
                dequantised=bool(quantisation(model.graph, tap.tensor)),
            )
            for tap in taps
        ),
        preprocessing=preprocessing,
        preprocessing_source=source,
        warnings=(*warnings, *about_batch),
        exported_from=metadata.get(TORCH_KEY, ""),
    )


def _stated_layers(metadata: dict[str, str], model: onnx.ModelProto, path: Path) -> list[FoundLayer]:
    """Layers that the file's metadata names, in their order.

    Raises:
        ModelError: the entry cannot be parsed, or names a tensor that the graph does not have.
    """
    if LAYERS_KEY not in metadata:
        return []
    depth = {name: at for at, node in enumerate(model.graph.node) for name in node.output}
    try:
        stated = {str(name): str(tensor) for name, tensor in parse_json(metadata[LAYERS_KEY]).items()}
        return [
            FoundLayer(safe_name(name), tensor, model.graph.node[depth[tensor]].op_type, depth[tensor], "tensor")
            for name, tensor in stated.items()
        ]
    except (ValueError, AttributeError, KeyError) as error:
        raise ModelError(
            f"{path} has the metadata entry {LAYERS_KEY!r}, which cannot be used ({one_line(error)}): "
            f"{metadata[LAYERS_KEY][:80]!r}. Expected JSON, layer -> tensor of the graph. Export the model again, or "
            "remove the entry."
        ) from error


def _named_as(stated: list[FoundLayer], found: list[FoundLayer]) -> list[FoundLayer]:
    """All layers that were found, under the stated names, and the stated ones that were not found."""
    if not stated:
        return found
    names = {one.tensor: one.name for one in stated}
    tensors = {one.tensor for one in found}
    others = [one.name for one in found if one.tensor not in names]
    free = iter(unique_names(others, names.values()))
    renamed = [replace(one, name=names[one.tensor] if one.tensor in names else next(free)) for one in found]
    return sorted([*renamed, *(one for one in stated if one.tensor not in tensors)], key=lambda one: one.depth)


def read_preprocessing(metadata: dict[str, str], path: Path, image: ImageInput) -> tuple[Preprocessing | None, str]:
    """Preprocessing from the model's metadata, else from a file beside it, at a size that the input takes; and its source."""
    if PREPROCESSING_KEY not in metadata:
        sidecar = find_sidecar(path)
        found = read_sidecar(sidecar, image.size) if sidecar else None
        sized = found.at_size(image.at_size(found.size)) if found else None  # one of its sides may be fixed
        return sized, f"{sidecar.name} beside the model" if found and sidecar else ""
    try:
        found = Preprocessing.model_validate_json(metadata[PREPROCESSING_KEY])
        return found.at_size(image.at_size(found.size)), "the model's own metadata"
    except ValidationError as error:
        raise ModelError(
            f"{path} has the metadata entry {PREPROCESSING_KEY!r}, which cannot be parsed: {what_does_not_fit(error)}. "
            "Export the model again, or remove the entry and use --preprocessing."
        ) from error


def tap_again(record: ModelRecord, tensors: Mapping[str, str], size: tuple[int, int]) -> ModelRecord:
    """As `instrument_model`, with the taps of a cache or set: layer -> `Tap.identity`.

    Raises:
        ModelError: ONNX Runtime rejects the model, or it has no such tensor.
    """
    known = {tap.tensor: tap.operator for tap in record.taps}
    taps, ways = [], []
    for layer, identity in tensors.items():
        tensor, bar, way = identity.rpartition("|")
        if not bar or way not in get_args(Reduce):  # a tensor may have a reduction's name, as torch calls a ReduceMean
            tensor, way = identity, "none"
        plain = tensor.removesuffix(f"|{DEQUANTISED}")  # a set from before has bytes as they are
        operator = known.get(plain, "")
        taps.append(Tap(layer=layer, tensor=plain, shape=(), operator=operator, dequantised=plain != tensor))
        ways.append(f"{layer}={way}")
    return instrument_model(record.model_copy(update={"taps": tuple(taps)}), size, ",".join(ways))


def instrument_model(record: ModelRecord, size: tuple[int, int], reduce: str = "auto") -> ModelRecord:
    """Tap the layers, run the graph on a blank image of this (height, width), and record its outputs.

    Args:
        record: what `check_model` found.
        size: of the input.
        reduce: the reduction of large layers, as `reduce.parse_reduce` reads it.

    Raises:
        ConfigError: `reduce` names a layer that is not tapped.
        ModelError: ONNX Runtime rejects the model, it does not accept such an image, or a layer cannot be reduced so.
    """
    asked = parse_reduce(reduce, record.layers)
    bare = tuple(tap.model_copy(update={"reduce": "none", "shape": (), "dtype": ""}) for tap in record.taps)
    sized = record.model_copy(update={"size": size, "taps": bare})
    session = TapSession(sized)
    outputs = session.run_blank()
    shapes = {tap.layer: tuple(outputs.layers[tap.layer].shape[1:]) for tap in bare}
    ways = {layer: resolve_reduce(layer, asked[layer], shape) for layer, shape in shapes.items()}
    path = DataPath(load_proto(record.path).graph, record.logits) if set(ways.values()) - {"none"} else None
    taps = []
    for tap in bare:
        way, shape = ways[tap.layer], shapes[tap.layer]
        channels = channels_axis(path, tap.tensor, len(shape) + 1, record.layout) if path and way != "none" else 0
        reduced = reduced_axes(way, shape, channels)
        remaining = tuple(size for axis, size in enumerate(shape, 1) if axis not in reduced)
        changes = {"reduce": way, "full_shape": shape, "shape": remaining, "channels": channels}
        taps.append(tap.model_copy(update=changes | {"dtype": str(outputs.layers[tap.layer].dtype)}))
    meant = record.outputs
    if outputs.logits is not None and not meant.is_binary and meant.has_scores:
        meant = meant.model_copy(update={"classes": int(outputs.logits.shape[1])})  # the graph may leave it open
    ran = tuple(session.providers)
    tapped = sized.model_copy(update={"taps": tuple(taps), "outputs": meant, "providers": ran})
    if any(tap.reduce != "none" for tap in taps):
        TapSession(tapped).run_blank()  # shows that the added nodes run, before an hour's download
    return tapped
