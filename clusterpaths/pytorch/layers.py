"""Which modules of a model are layers: by name, by pattern, or chosen as those of an ONNX graph are.

Belongs here: from what a forward pass showed of the modules (`network.Seen`) to taps. A layer is the output of a module, or, as
MODULE:input, what it is given.
"""

from __future__ import annotations

import fnmatch
import logging
import math
from collections import Counter
from collections.abc import Sequence

from clusterpaths.common.text import did_you_mean
from clusterpaths.errors import ModelError
from clusterpaths.models.layers import AUTO, FEWEST_BLOCKS, FoundLayer, Kind, how_many, propose_layers
from clusterpaths.models.names import unique_names
from clusterpaths.models.reduce import parse_reduce, reduced_axes, resolve_reduce
from clusterpaths.pytorch.network import Network, Seen
from clusterpaths.records import Tap

INPUT = ":input"
log = logging.getLogger(__name__)
_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict"}  # their class says nothing of what is inside
_PASS_THROUGH = ("BatchNorm", "Dropout", "Identity")  # between a layer of weights and its activation
_WIDE = 20  # names in a message


def find_layers(network: Network, seen: Sequence[Seen], batch: int, scores: tuple[int, ...] | None) -> list[FoundLayer]:
    """What `auto` chooses from, in the order in which the modules end.

    Blocks are the outermost modules whose class occurs twice or more and that hold two layers of weights or more: residual and
    inverted residual blocks, transformer layers. With them go the last pooled features. Without blocks, each layer of weights is
    one, at its activation where that is a module. The classifier itself is none.

    Args:
        network: the model.
        seen: its modules in a forward pass.
        batch: examples of that pass.
        scores: the shape of the class scores; None: there are none.
    """
    usable = {one.name: one for one in seen if one.name and why_not(one, batch) is None}
    weighted = [one for one in seen if _has_weights(network.modules[one.name])]
    blocks = _blocks(network, [one for one in usable.values() if one.shape != scores])
    classifier = weighted[-1] if weighted and scores is not None else None
    if len(blocks) >= FEWEST_BLOCKS:
        found = [_layer(one, "block") for one in blocks]
        return [*found, *_pooled(network, seen, usable, blocks[-1], classifier, batch)]
    ends = [_activation(network, seen, one) for one in weighted if one is not classifier]
    chosen = {one.name: one for one in ends if one.name in usable}
    return [_layer(one, "layer") for one in sorted(chosen.values(), key=lambda one: one.order)]


def _layer(one: Seen, kind: Kind) -> FoundLayer:
    return FoundLayer(one.name, one.name, one.module, one.order, kind)


def _has_weights(module: object) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and getattr(weight, "ndim", 0) >= 2 and not list(module.children())  # type: ignore[attr-defined]


def _blocks(network: Network, among: Sequence[Seen]) -> list[Seen]:
    def weights(name: str) -> int:
        return sum(_has_weights(module) for module in network.modules[name].modules())

    classes = Counter(type(network.modules[one.name]) for one in among)
    own = [
        one
        for one in among
        if one.module not in _CONTAINERS and classes[type(network.modules[one.name])] > 1 and weights(one.name) > 1
    ]
    names = {one.name for one in own}
    outermost = [one for one in own if not any(one.name.startswith(f"{name}.") for name in names)]
    return sorted(outermost, key=lambda one: one.order)


def _pooled(
    network: Network, seen: Sequence[Seen], usable: dict[str, Seen], last: Seen, classifier: Seen | None, batch: int
) -> list[FoundLayer]:
    """The last pooled features behind the blocks: of a pooling module, else what the classifier is given."""
    behind = [one for one in seen if one.order > last.order and one.name in usable]
    if pools := [one for one in behind if "Pool" in one.module and not list(network.modules[one.name].children())]:
        return [_layer(pools[-1], "pooled")]
    if classifier is None or classifier.calls != 1 or not classifier.inputs or classifier.inputs[0] != batch:
        return []
    (name,) = unique_names(["features" if "features" not in network.modules else "classifier_input"])
    return [FoundLayer(name, classifier.name + INPUT, classifier.module, classifier.order, "pooled")]


def _activation(network: Network, seen: Sequence[Seen], one: Seen) -> Seen:
    """The activation module behind a layer of weights; the layer itself where the next module is none, or is used twice."""
    leaves = [other for other in seen if not list(network.modules[other.name].children())]
    end = one
    for other in leaves[leaves.index(one) + 1 :]:
        if type(network.modules[other.name]).__module__ == "torch.nn.modules.activation" and other.shape == one.shape:
            return other if other.calls == 1 else end
        if not other.module.startswith(_PASS_THROUGH) or other.shape != one.shape:
            break
        end = other
    return end


def choose(
    network: Network, seen: Sequence[Seen], batch: int, asked: Sequence[str], scores: tuple[int, ...] | None
) -> list[FoundLayer]:
    """The layers that were asked for, each once, in the order in which they are computed.

    Args:
        network: the model.
        seen: its modules in a forward pass.
        batch: examples of that pass.
        asked: any mixture of names, patterns (layer*, layer?.1: `*` does not go beyond a dot), MODULE:input, auto and auto:N.
        scores: the shape of the class scores.

    Raises:
        ModelError: an unknown name (with the nearest ones), a pattern without a match, or a layer that has not one tensor with a
            row for each example.
    """
    by_module = {id(network.modules[one.name]): one for one in seen}
    chosen: dict[str, FoundLayer] = {}
    for text in asked:
        for layer in _resolve(text, network, seen, by_module, batch, scores):
            chosen.setdefault(layer.tensor, layer)
    if not chosen:
        raise ModelError(
            f"{network.name} has no layer that auto could choose: no blocks, and no layer of weights before its output. Expected "
            "a neural network; name its modules with layers=[…]."
        )
    return sorted(chosen.values(), key=lambda layer: layer.depth)


def _resolve(
    text: str,
    network: Network,
    seen: Sequence[Seen],
    by_module: dict[int, Seen],
    batch: int,
    scores: tuple[int, ...] | None,
) -> list[FoundLayer]:
    names = [name for name in network.modules if name]
    name = text.removesuffix(INPUT)
    if name not in network.modules:
        name = name.removeprefix("module.")  # as DataParallel calls them
    if name in names:
        one = by_module.get(id(network.modules[name]))
        if one is None:
            raise ModelError(
                f"The module {name} was not reached: the model's forward does not call it for this batch (a branch that is not "
                "taken, a list of modules, or a head of training). Name another one in layers."
            )
        return [_named(name, one, batch, given=text.endswith(INPUT))]
    if text == AUTO or text.startswith(f"{AUTO}:"):
        found = find_layers(network, seen, batch, scores)
        shapes = {one.name: one.shape[1:] for one in seen if one.shape}
        return propose_layers(found, how_many(text), shapes)
    if any(sign in text for sign in "*?["):
        return _matching(text, network, by_module, batch)
    listed = [*dict.fromkeys(name.rpartition(".")[0] or name for name in names)]
    raise ModelError(
        f"{network.name} has no module {text!r}.{did_you_mean(text, names)} Expected a name that named_modules gives, such as "
        f"{', '.join(listed[:_WIDE])}{' …' if len(listed) > _WIDE else ''}."
    )


def _named(name: str, one: Seen, batch: int, *, given: bool) -> FoundLayer:
    if given:
        if one.calls != 1 or not one.inputs or one.inputs[0] != batch:
            raise ModelError(
                f"The module {name} is not given one tensor with a row for each of {batch} examples, once."
            )
        return FoundLayer(unique_names([f"{name}_input"])[0], name + INPUT, one.module, one.order, "tensor")
    if (why := why_not(one, batch)) is not None:
        raise ModelError(f"The module {name} cannot be a layer: {why} Name another one in layers.")
    return FoundLayer(unique_names([name])[0], name, one.module, one.order, "tensor")


def _matching(text: str, network: Network, by_module: dict[int, Seen], batch: int) -> list[FoundLayer]:
    """Those modules of a pattern that can be layers; the others are named in a warning."""
    parts = text.split(".")
    names = [
        name
        for name in network.modules
        if name and len(own := name.split(".")) == len(parts) and all(map(fnmatch.fnmatchcase, own, parts))
    ]
    found, left_out = [], []
    for name in names:
        one = by_module.get(id(network.modules[name]))
        why = "it is not reached." if one is None else why_not(one, batch)
        if one is None or why is not None:
            left_out.append(f"{name}: {why}")
        else:
            found.append(_named(name, one, batch, given=False))
    if not found:
        raise ModelError(
            f"No module of {network.name} that can be a layer matches the pattern {text!r}"
            + (f" ({' '.join(left_out[:3])})" if left_out else "")
            + f".{did_you_mean(text.replace('*', ''), filter(None, network.modules))} A * stands for a part of a name between "
            "dots: layer* is layer1, layer*.* its modules."
        )
    if left_out:
        log.warning("The pattern %s leaves out %d modules: %s", text, len(left_out), " ".join(left_out[:3]))
    return found


def why_not(one: Seen, batch: int) -> str | None:
    """Why a module is no layer, as a sentence; None: it can be one."""
    if one.calls > 1:
        return (
            f"it is called {one.calls} times in one pass, so it has no one output (such as a ReLU that a block uses again; take "
            "the block, or the module before)."
        )
    if one.shape is None:
        return f"its output is a {one.says} without a tensor."
    if len(one.shape) < 2 or one.shape[0] != batch:
        return (
            f"its output has shape {one.shape} for {batch} examples, expected one row per example in the first axis (attention "
            "layers with batch_first=False have it in the second)."
        )
    if math.prod(one.shape) == 0:
        return f"its output is empty, of shape {one.shape}."
    return None


def make_taps(layers: Sequence[FoundLayer], seen: Sequence[Seen], network: Network, reduce: str) -> tuple[Tap, ...]:
    """The taps of layers, with the reduction of each.

    Raises:
        ConfigError, ModelError: as `models.reduce`.
    """
    names = unique_names([layer.name for layer in layers])
    by_module = {id(network.modules[one.name]): one for one in seen}
    asked = parse_reduce(reduce, tuple(names))
    taps = []
    for name, layer in zip(names, layers, strict=True):
        given = layer.tensor.endswith(INPUT)
        one = by_module[id(network.modules[layer.tensor.removesuffix(INPUT)])]
        shape = ((one.inputs if given else one.shape) or ())[1:]
        way = resolve_reduce(name, asked[name], shape)
        reduced = reduced_axes(way, shape)
        taps.append(
            Tap(
                layer=name,
                tensor=layer.tensor,
                shape=tuple(size for axis, size in enumerate(shape, 1) if axis not in reduced),
                operator=layer.operator,
                reduce=way,
                full_shape=shape,
                dtype=one.dtype,
            )
        )
    return tuple(taps)
