"""A model's image input: name, type, size, and the order of its axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from clusterpaths.errors import ModelError
from clusterpaths.models.load import type_name
from clusterpaths.records import InputType, Layout

_TYPES: dict[int, InputType] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}
_EXPECTED = (
    "Expected one input of shape (batch, 3, height, width) or (batch, height, width, 3), of float32, float16 or uint8."
)


@dataclass(frozen=True)
class ImageInput:
    """What a model takes.

    Attributes:
        name: of the input in the graph.
        batch: fixed batch size; None: any.
        sides: fixed height and fixed width; None: any.
        layout: the order of the axes.
        type: of the values.
        joint: whether an image's values depend on the others in its batch.
    """

    name: str
    batch: int | None
    sides: tuple[int | None, int | None]
    layout: Layout
    type: InputType
    joint: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Fixed (height, width); None where a side is open."""
        height, width = self.sides
        return (height, width) if height and width else None

    def at_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Fixed sides, and those of this (height, width) where they are open."""
        return self.sides[0] or size[0], self.sides[1] or size[1]

    def default_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """A size where nothing else says one: fixed sides, a square where one is open, and this one where both are."""
        side = self.sides[0] or self.sides[1]
        return self.at_size((side, side) if side else size)


def find_image_input(model: onnx.ModelProto, path: Path) -> ImageInput:
    """The one input that takes images of three colours.

    Raises:
        ModelError: no such input, or more than one input; `path` is for the message.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    described = ", ".join(f"{entry.name} {shape_text(entry)}" for entry in inputs) or "none"
    whole_numbers = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
    if inputs and all(
        entry.type.tensor_type.elem_type in whole_numbers and len(entry.type.tensor_type.shape.dim) <= 2
        for entry in inputs
    ):
        raise ModelError(
            f"{path} has no image input: its input is {described}, which looks like the tokens of a text model. {_EXPECTED} "
            "Choose an image classifier."
        )
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs ({described}). {_EXPECTED}")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value or None for dim in tensor.shape.dim]
    layout = _layout(dims)
    if layout is None or tensor.elem_type not in _TYPES:
        raise ModelError(
            f"{path} has no image input: its input is {described}. {_EXPECTED} {_about_channels(dims)}Choose an image classifier."
        )
    height, width = dims[2:] if layout == "NCHW" else dims[1:3]
    return ImageInput(inputs[0].name, dims[0], (height, width), layout, _TYPES[tensor.elem_type])


def _layout(dims: list[int | None]) -> Layout | None:
    """From the axis of three; where there is none, channels come first."""
    if len(dims) != 4:
        return None
    if dims[1] == 3 or (dims[1] is None and dims[3] != 3):
        return "NCHW"
    return "NHWC" if dims[3] == 3 else None


def _about_channels(dims: list[int | None]) -> str:
    for axis in (1, 3):
        if len(dims) == 4 and dims[axis] in (1, 4):
            kind = "grey images" if dims[axis] == 1 else "images with an alpha channel"
            return (
                f"It seems to take {kind} ({dims[axis]} channel{'s' if dims[axis] != 1 else ''}): export it with a layer in "
                "front that makes them of RGB. "
            )
    return ""


def shape_text(entry: onnx.ValueInfoProto) -> str:
    """Such as float (batch, 3, 64, 64)."""
    tensor = entry.type.tensor_type
    dims = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{type_name(tensor.elem_type).lower()} ({dims})"
