"""Which output of a graph holds the class scores."""

from __future__ import annotations

import difflib

import onnx

from clusterpaths.errors import ModelError

NO_LOGITS = "none"
_SCORES = ("logit", "prob", "softmax", "score", "class", "pred")
_FEATURES = ("embed", "feature", "pool", "hidden", "repr", "latent")


def find_logits(graph: onnx.GraphProto, asked: str | None = None) -> str | None:
    """The output of shape (batch, classes) that holds class scores; None where there is none.

    Of several, one whose name says so (logits, probabilities …); else the one that is computed from all the others, as
    class scores are from an embedding or from layers that were added as outputs; else the first. An output whose name
    says that it is an embedding is none.

    Args:
        graph: the model's.
        asked: the name of an output to take, or "none".

    Raises:
        ModelError: there is no such output, or it is not of that shape.
    """
    if asked == NO_LOGITS:
        return None
    two = [str(output.name) for output in graph.output if _axes(output) == 2]
    if asked is not None:
        return _asked(graph, asked, two)
    candidates = [name for name in two if not _says(name, _FEATURES) or _says(name, _SCORES)]
    named = [name for name in candidates if _says(name, _SCORES)]
    if named:
        return named[0]
    makers = {output: node for node in graph.node for output in node.output}
    for name in candidates:
        if set(candidates) - {name} <= _ancestors(name, makers):
            return name
    return candidates[0] if candidates else None


def _asked(graph: onnx.GraphProto, asked: str, two: list[str]) -> str:
    names = [str(output.name) for output in graph.output]
    if asked in two or asked in [n.name for n in graph.output if _axes(n) is None]:
        return asked
    if asked in names:
        raise ModelError(
            f"The output {asked!r} does not hold class scores: it has {_axes(graph.output[names.index(asked)])} axes, expected "
            f"(batch, classes). Outputs of that shape: {', '.join(two) or 'none'}. Name one with --logits, or --logits none."
        )
    near = difflib.get_close_matches(asked, names, n=3)
    raise ModelError(
        f"The model has no output {asked!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"Its outputs are {', '.join(names)}. Name one with --logits, or --logits none for a model without class scores."
    )


def _axes(output: onnx.ValueInfoProto) -> int | None:
    tensor = output.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _says(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def _ancestors(tensor: str, makers: dict[str, onnx.NodeProto]) -> set[str]:
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        node = makers.get(waiting.pop())
        for name in node.input if node else ():
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found
