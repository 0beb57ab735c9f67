"""What is in a model file: inputs, outputs, preprocessing, and its layers.

Belongs here: file in, `Inspection` out, and its text. Two images are run, to see what the graph takes; and
one where it lacks shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx
from pydantic import Field

from clusterpaths.errors import ModelError
from clusterpaths.models.batch import settle_batch
from clusterpaths.models.check import read_preprocessing
from clusterpaths.models.class_names import find_class_names
from clusterpaths.models.external import find_external_files, hash_files
from clusterpaths.models.find_outputs import find_outputs
from clusterpaths.models.inputs import find_image_input
from clusterpaths.models.layers import MOST, FoundLayer, choose_layers, find_layers
from clusterpaths.models.load import load_graph, type_name
from clusterpaths.models.shapes import inferred_shapes, layer_shapes, require_memory
from clusterpaths.records import Layout, ModelOutputs, OutputKind, Preprocessing, Record


class TensorInfo(Record):
    """An input or output of the graph."""

    name: str
    type: str = Field(description="of its values, such as float")
    shape: tuple[int | str, ...] = Field(description="a number, a symbol, or ? for each axis")


class LayerInfo(Record):
    """A row of the table of layers."""

    name: str
    tensor: str = Field(description="its name in the graph")
    operator: str
    kind: str = Field(description="layer, block, pooled, inner, outside or tensor")
    shape: tuple[int, ...] | None = Field(description="of one example; None: the tensor has not one row per image")
    values: int | None = Field(description="an example")
    bytes_float16: int | None
    bytes_float32: int | None
    proposed: bool = Field(description="whether a run with these --layers looks at it")
    why: str


class Inspection(Record):
    """What `inspect_model` found."""

    file: str
    sha256: str = Field(description="of the ONNX file and its external weights")
    bytes: int = Field(description="of all of these files")
    external: tuple[str, ...] = Field(description="files with weights beside the model")
    ir_version: int
    opset: dict[str, int] = Field(description="domain -> version; ai.onnx is ONNX's own")
    producer: str
    nodes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input: str = Field(description="the one that takes the images")
    layout: Layout
    batch: int | None = Field(description="fixed batch size; None: any")
    size: tuple[int | None, int | None] | None = Field(
        description="fixed height and width; None: any, or any of one side"
    )
    meaning: ModelOutputs = Field(description="which output holds class scores, of which kind they are, and why")
    preprocessing: Preprocessing | None
    preprocessing_source: str
    layers: tuple[LayerInfo, ...]
    warnings: tuple[str, ...]

    @property
    def proposed(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers if layer.proposed)

    def text(self, *, all_layers: bool = False) -> str:
        """For a terminal; conv and fc layers in and around blocks only with `all_layers`, or where they are proposed."""
        rows = [row for row in self.layers if all_layers or row.proposed or row.kind not in ("inner", "outside")]
        hidden = len(self.layers) - len(rows)
        lines = [
            f"{self.file}  {self.bytes:,} bytes, sha256 {self.sha256[:16]}",
            *_aligned([(label, text) for label, text in self._facts() if text], right=()),
            "",
            *_aligned([_HEAD, *(_cells(row) for row in rows)], right=(3, 4, 5, 6)),
        ]
        if hidden:
            lines.append(
                f"and {hidden} layers in and around the blocks, which --all shows; each can be named with --layers."
            )
        lines += ["", f"A run takes {', '.join(self.proposed)}."]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)]) + "\n"

    def _facts(self) -> list[tuple[str, str]]:
        batch = "any" if self.batch is None else f"fixed at {self.batch}"
        size = "any size" if self.size is None else "x".join(str(side or "any") for side in self.size)
        opset = ", ".join(f"{domain} {version}" for domain, version in self.opset.items())
        inputs, outputs = (
            ", ".join(f"{t.name} {t.type} ({', '.join(map(str, t.shape))})" for t in found)
            for found in (self.inputs, self.outputs)
        )
        names = self.meaning.class_names
        found = self.preprocessing
        preprocessing = "not given by the file"
        if found is not None:
            preprocessing = f"{found.name}, mean {found.mean}, std {found.std}, from {self.preprocessing_source}"
        return [
            (
                "opset",
                f"{opset}, ir version {self.ir_version}, {self.nodes} nodes, by {self.producer or 'an unknown program'}",
            ),
            ("inputs", inputs),
            ("image", f"{self.input}, {self.layout}, {size}, batch {batch}"),
            ("outputs", outputs),
            ("class scores", self.meaning.text()),
            ("class names", f"{', '.join(names)}, from {self.meaning.class_names_source}" if names else ""),
            ("preprocessing", preprocessing),
            ("weights in", ", ".join(self.external)),
        ]


_DEFAULT_SIZE = (224, 224)
_ASKED = "asked for"
_PUT_OUT = "the model puts it out"
_HEAD = ("layer", "operator", "shape", "values", "float16", "float32", "run", "why", "tensor")


def inspect_model(
    path: Path,
    layers: tuple[str, ...] | None = None,
    logits: str | None = None,
    size: tuple[int, int] | None = None,
    sha256: str | None = None,
    output_kind: OutputKind | None = None,
) -> Inspection:
    """Inspect a model file.

    Args:
        path: the ONNX file.
        layers: as `choose_layers` reads them; None: the default of a run.
        logits: the output with class scores, or "none"; None: found automatically.
        sha256: where it is known already; gigabytes take a while to hash.
        size: (height, width) where the model takes any; None: from a file beside it, else 224x224.
        output_kind: overrules what the graph says of the output.

    Raises:
        ModelError: no file, no ONNX, no image input, an unknown layer, or missing weights.
    """
    if not path.is_file():
        raise ModelError(f"There is no model at {path}. Expected an ONNX file. Name one: `clusterpaths inspect MODEL`.")
    model = load_graph(path)
    external, warnings = find_external_files(model, path.parent)
    image = find_image_input(model, path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    preprocessing, source = read_preprocessing(metadata, path, image)
    used = preprocessing.size if preprocessing else image.default_size(_DEFAULT_SIZE)
    used = image.at_size(size) if size else used
    require_memory(model, path, image, used)
    image, about_batch = settle_batch(
        model, path, image, {location: str(file.resolve()) for location, file in external.items()}, used
    )
    warnings += about_batch
    meaning = find_outputs(model, path, logits, output_kind, find_class_names(metadata, path), used)
    found = find_layers(model, meaning.name)
    named = found if layers is None else sorted({*found, *choose_layers(found, model, layers)}, key=_by_depth)
    tensors = [layer.tensor for layer in named]
    shapes = layer_shapes(model, path, tensors, used)
    chosen = choose_layers(
        found, model, layers, inferred_shapes(model, path, tensors, used)
    )  # as a run's check does it
    files = [path, *(external[location] for location in sorted(external))]
    outputs = tuple(_tensor_info(entry) for entry in model.graph.output)
    if image.size is None:
        sides = "size" if image.sides == (None, None) else "width" if image.sides[0] else "height"
        warnings.append(
            f"The model takes images of any {sides}; the shapes are those of {used[0]}x{used[1]}. Use --size."
        )
    if meaning.name is None:
        warnings.append(
            "No output looks like class scores: paths cannot be compared with predictions. Name one with --logits."
        )
    if preprocessing is None:
        warnings.append("The file does not describe its preprocessing: give --preprocessing, or --mean and --std.")
    weights = {tensor.name for tensor in model.graph.initializer}
    return Inspection(
        file=str(path),
        sha256=sha256 or hash_files(files),
        bytes=sum(file.stat().st_size for file in files),
        external=tuple(str(file) for file in files[1:]),
        ir_version=model.ir_version,
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        nodes=len(model.graph.node),
        inputs=tuple(_tensor_info(entry) for entry in model.graph.input if entry.name not in weights),
        outputs=outputs,
        input=image.name,
        layout=image.layout,
        batch=image.batch,
        size=None if image.sides == (None, None) else image.sides,
        meaning=meaning,
        preprocessing=preprocessing,
        preprocessing_source=source,
        layers=tuple(
            _row(
                layer,
                shapes[layer.tensor],
                layer in chosen,
                _why(layer, found, chosen, model, layers, shapes[layer.tensor]),
            )
            for layer in named
        ),
        warnings=tuple(warnings),
    )


def _by_depth(layer: FoundLayer) -> tuple[int, str]:
    return layer.depth, layer.tensor


def _row(layer: FoundLayer, shape: tuple[int, ...] | None, proposed: bool, why: str) -> LayerInfo:
    values = None if shape is None else math.prod(shape)
    return LayerInfo(
        name=layer.name,
        tensor=layer.tensor,
        operator=layer.operator,
        kind=layer.kind,
        shape=shape,
        values=values,
        bytes_float16=None if values is None else values * 2,
        bytes_float32=None if values is None else values * 4,
        proposed=proposed,
        why=why,
    )


def _why(
    layer: FoundLayer,
    found: Sequence[FoundLayer],
    chosen: Sequence[FoundLayer],
    model: onnx.ModelProto,
    asked: tuple[str, ...] | None,
    shape: tuple[int, ...] | None,
) -> str:
    """A short reason why a run extracts a layer, or not."""
    same = [each for each in found if each.kind == layer.kind]
    place = f"{same.index(layer) + 1} of {len(same)}" if layer in same else ""
    what = {
        "layer": f"layer {place}",
        "block": f"block output, {place}",
        "pooled": "last pooled features",
        "inner": "inside a block",
        "outside": "before or behind the blocks",
        "tensor": "a tensor of the graph",
    }[layer.kind]
    if layer in chosen:
        if asked is not None and not all(text.startswith("auto") for text in asked):
            return _ASKED
        return _PUT_OUT if asked is None and _put_out(chosen, model) else what
    if shape is None:
        return "not proposed: not one row per image"
    if layer.kind in ("inner", "outside"):
        return f"not proposed: {what}"
    if asked is not None and not all(text.startswith("auto") for text in asked):
        return f"{what}; not asked for"
    if asked is None and _put_out(chosen, model):
        return f"{what}; not put out by the model"
    if math.prod(shape) < 2:
        return "not proposed: a single value"
    return f"{what}; auto takes {len(chosen) if asked else min(MOST, len(chosen))} over the depth"


def _put_out(chosen: Sequence[FoundLayer], model: onnx.ModelProto) -> bool:
    outputs = {output.name for output in model.graph.output}
    return all(layer.tensor in outputs for layer in chosen)


def _tensor_info(entry: onnx.ValueInfoProto) -> TensorInfo:
    tensor = entry.type.tensor_type
    return TensorInfo(
        name=entry.name,
        type=type_name(tensor.elem_type).lower(),
        shape=tuple(int(dim.dim_value) or dim.dim_param or "?" for dim in tensor.shape.dim),
    )


def _cells(row: LayerInfo) -> tuple[str, ...]:
    numbers = [row.values, row.bytes_float16, row.bytes_float32]
    shape = "?" if row.shape is None else "x".join(map(str, row.shape))
    return (
        row.name,
        row.operator,
        shape,
        *("?" if number is None else f"{number:,}" for number in numbers),
        "yes" if row.proposed else "no",
        row.why,
        row.tensor,
    )


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Lines of columns, two spaces apart; those of numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
