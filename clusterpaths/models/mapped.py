"""Reading an ONNX file without its weights: they stay in the file, and ONNX Runtime maps them from there.

Belongs here: the wire format of protocol buffers, as far as that takes. Weights in files beside the model are `external.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx

OWN = "clusterpaths: the model's own file"  # in place of the name of a file with weights
LEAST_FILE = 16 << 20  # bytes from which a file is read this way: a smaller one is read as a whole
MOST_FIELDS = 1_000_000  # of a message: a larger graph is read as a whole
LEAST_TENSOR = 64 << 10  # bytes of values that stay in the file
# numbers of fields in onnx.proto3, and wire types
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA = 7, 5, 9, 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_mapped(path: Path) -> onnx.ModelProto | None:
    """The model with its large initializers in `OWN`, at their place in this file; None where it is to be read as a whole.

    That is where it is small, has no large initializers of raw values, or is not what a serializer of ONNX writes: who reads
    it as a whole then finds out what it is. A graph in a graph (the branches of an If) keeps its own.

    Raises:
        OSError: it cannot be read.
        DecodeError: it is not an ONNX model.
    """
    size = path.stat().st_size
    if size < LEAST_FILE:
        return None
    with path.open("rb") as file:
        try:
            small = _without_weights(file, size)
        except ValueError:
            return None
    return onnx.ModelProto.FromString(small) if small else None


def _without_weights(file: BinaryIO, size: int) -> bytes:
    """The serialised model with references in place of values; empty where there is nothing to take out.

    Raises:
        ValueError: not a serialised model, or one whose graph is in several pieces.
    """
    fields = list(_fields(file, 0, size))
    graphs = [field for field in fields if field[0] == _GRAPH]
    if len(graphs) != 1 or graphs[0][1] != _BYTES:
        raise ValueError("should hold one graph")
    _, _, start, value, end = graphs[0]
    pieces, left, taken = list[bytes](), list[bytes](), False  # `left`: as they are in the file
    for number, wire, at, inner, stop in _fields(file, value, end):
        found = _reference(file, inner, stop) if (number, wire) == (_INITIALIZER, _BYTES) else None
        taken |= found is not None
        if found is None:
            left.append(_read(file, at, stop))
        pieces.append(left[-1] if found is None else _tagged(_INITIALIZER, found))
    before, after = _read(file, 0, start), _read(file, end, size)
    if any(OWN.encode() in piece for piece in (before, *left, after)):
        raise ValueError("should not name itself")
    return before + _tagged(_GRAPH, b"".join(pieces)) + after if taken else b""


def _reference(file: BinaryIO, start: int, end: int) -> bytes | None:
    """The serialised tensor with a reference to its values; None where it keeps them."""
    if end - start < LEAST_TENSOR:
        return None
    fields = list(_fields(file, start, end))
    raw = [field for field in fields if field[0] == _RAW_DATA]
    if len(raw) != 1 or raw[0][1] != _BYTES or any(field[0] == _EXTERNAL_DATA for field in fields):
        return None
    _, _, at, value, stop = raw[0]
    if stop - value < LEAST_TENSOR:
        return None
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, entry in {"location": OWN, "offset": str(value), "length": str(stop - value)}.items():
        tensor.external_data.add(key=key, value=entry)
    # Of a field that is there twice, such as the location, the last one counts.
    return _read(file, start, at) + _read(file, stop, end) + bytes(tensor.SerializeToString())


def _fields(file: BinaryIO, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, wire type, and where the field, its value and the next field begin.

    Raises:
        ValueError: the bytes are not fields, go on beyond `end`, or are more than `MOST_FIELDS`.
    """
    for _ in range(MOST_FIELDS):
        if at == end:
            return
        head = _read(file, at, min(at + 20, end))  # at most two numbers of ten bytes
        key, length = _varint(head, 0)
        wire = key & 7
        if wire == _BYTES:
            size, length = _varint(head, length)
        elif wire == _VARINT:
            size, (_, length) = 0, _varint(head, length)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"should be a wire type of proto3, got {wire}")
        stop = at + length + size
        if stop > end:
            raise ValueError("should end within its message")
        yield key >> 3, wire, at, at + length, stop
        at = stop
    raise ValueError(f"should have at most {MOST_FIELDS:,} fields in a message")


def _read(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    content = file.read(stop - start)
    if len(content) < stop - start:
        raise ValueError("should be as long as before")
    return content


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number, and where the next byte is."""
    number = 0
    for shift, byte in enumerate(content[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    raise ValueError("should be a number of at most ten bytes")


def _tagged(number: int, message: bytes) -> bytes:
    """A field of bytes, of a number below 16."""
    head, length = bytearray([number << 3 | _BYTES]), len(message)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + message
