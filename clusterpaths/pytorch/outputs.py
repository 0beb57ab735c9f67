"""Which tensor of a model's output holds the class scores.

Belongs here: the output of a forward pass in, `ModelOutputs` out. What rows mean is `models/outputs.py`, as for any model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.text import did_you_mean
from clusterpaths.errors import ModelError
from clusterpaths.models.outputs import NO_LOGITS, as_rows, check_on_rows
from clusterpaths.pytorch.network import as_numpy
from clusterpaths.pytorch.values import tensors
from clusterpaths.records import ModelOutputs, OutputKind

LOGITS = "logits"  # what the only tensor of an output is called, as in an exported file
_SCORES = ("logits", "scores", "probs", "probabilities", "predictions", "out")  # names of scores, the likeliest first


def find_outputs(
    output: Any,
    batch: int,
    asked: str | int | None,
    kind: OutputKind | None,
    class_names: tuple[tuple[str, ...], str],
) -> ModelOutputs:
    """The tensor with class scores, and what they are by a first batch.

    One that is called logits, scores, probabilities or the like; else the first one with one row of scores per example.

    Args:
        output: of the model.
        batch: examples in it.
        asked: the key or index of the tensor, such as "logits", 0 or "0.scores"; "none": there are no scores.
        kind: overrules what the values look like.
        class_names: names, and where they came from.

    Raises:
        ModelError: there is no such tensor, or it holds no scores; or another number of names than of classes.
    """
    if asked == NO_LOGITS or kind == "none":
        return ModelOutputs(reason="asked for")
    found = {name or LOGITS: tensor for name, tensor in tensors(output)}
    usable = [name for name, tensor in found.items() if _is_scores(tensor, batch)]
    if asked is not None:
        name = str(asked)
        if name not in found:
            raise ModelError(
                f"The model's output has no tensor {name!r}.{did_you_mean(name, found)} It has {_listed(found)}. Expected a key "
                'or an index of one of them, or output="none" for a model without class scores.'
            )
        if name not in usable:
            raise ModelError(
                f"The output {name!r} does not hold class scores: it has shape {tuple(found[name].shape)} for {batch} examples, "
                f"expected (batch, classes). Outputs of that shape: {', '.join(usable) or 'none'}. Name one with output=…, or "
                'output="none".'
            )
    else:
        if not usable:
            return ModelOutputs(
                reason=f"no tensor of the output has one row of scores per example: {_listed(found) or 'none'}"
            )
        by_name = [name for word in _SCORES for name in usable if name.rpartition(".")[2].lower() == word]
        name = (by_name or usable)[0]
    return _describe(name, found[name], batch, kind, class_names)


def _is_scores(tensor: Any, batch: int) -> bool:
    shape = tuple(tensor.shape)
    return (
        bool(shape)
        and shape[0] == batch
        and tensor.is_floating_point()
        and sum(size > 1 for size in shape[1:]) <= 1
        and tensor.numel() > 0
    )


def _listed(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.items())


def _describe(
    name: str, tensor: Any, batch: int, kind: OutputKind | None, class_names: tuple[tuple[str, ...], str]
) -> ModelOutputs:
    width = tensor.numel() // batch
    if kind in ("binary-logit", "binary-sigmoid") and width > 1:
        raise ModelError(
            f"The output {name!r} has {width} values per example; output_kind={kind!r} is for one. Choose logits, probabilities "
            "or multi-label."
        )
    reason = "asked for" if kind else "the values of a first batch, neither probabilities nor an embedding of length 1"
    if kind is None and width == 1:
        kind_found: OutputKind = "values"
        reason = "one value per example: a regression (output_kind='binary-logit' or 'binary-sigmoid' for a classifier)"
    else:
        kind_found = kind or "logits"
    classes = {"values": 0, "binary-logit": 2, "binary-sigmoid": 2}.get(kind_found, width)
    names, source = class_names
    if names and len(names) != classes:
        if source == GIVEN:
            raise ModelError(
                f"class_names has {len(names)} names and the output {name!r} has {classes} classes. Expected one name for each."
            )
        names, source = (), ""
    described = ModelOutputs(
        name=name,
        kind=kind_found,
        layout="(N)" if tensor.ndim == 1 else "(N, C)",
        classes=classes,
        reason=reason,
        asked=kind is not None,
        class_names=names,
        class_names_source=source,
    )
    return check_on_rows(described, as_rows(described, as_numpy(tensor), batch))


GIVEN = "class_names"


def scores(outputs: ModelOutputs, output: Any, batch: int) -> NDArray[np.float32] | None:
    """(batch, width) class scores of a model's output; None where it has none.

    Raises:
        ModelError: this batch has no such tensor.
    """
    if outputs.name is None:
        return None
    found = {name or LOGITS: tensor for name, tensor in tensors(output)}
    if outputs.name not in found:
        raise ModelError(
            f"The output {outputs.name!r} of the first batch is missing in a later one, which has {_listed(found)}."
        )
    return as_rows(outputs, as_numpy(found[outputs.name]), batch)


def shape_of(outputs: ModelOutputs, output: Any) -> tuple[int, ...] | None:
    """The shape of the class scores, the batch included; None: there are none."""
    return next((tuple(tensor.shape) for name, tensor in tensors(output) if (name or LOGITS) == outputs.name), None)


def names_in_config(module: Any) -> tuple[str, ...]:
    """Class names of a transformers model's configuration; empty for any other model, and for placeholders."""
    from clusterpaths.models.class_names import names_by_number

    return names_by_number(getattr(getattr(module, "config", None), "id2label", None))
