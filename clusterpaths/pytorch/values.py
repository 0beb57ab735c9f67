"""Tensors within what models take and give: tuples, lists, dicts, and the dataclasses of transformers.

Belongs here: walking such values. What a value means is its caller's affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def items(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a value by name ("0", "1" … of a sequence); None: it has none."""
    if isinstance(value, Mapping):  # transformers' ModelOutput and BatchEncoding, too
        return [(str(name), part) for name, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return [(str(at), part) for at, part in enumerate(value)]
    return None


def tensors(value: Any, name: str = "", depth: int = 3) -> list[tuple[str, Any]]:
    """All tensors in a value with their names, such as logits, 0 or hidden_states.3, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [(name, value)]
    parts = items(value) if depth else None
    return [
        found
        for key, part in parts or ()
        for found in tensors(part, f"{name}.{key}" if name else key, depth - 1)
    ]  # fmt: skip


def find_tensor(value: Any) -> Any:
    """The value itself if it is a tensor, else the first tensor in it; None where there is none."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return next((tensor for _, tensor in tensors(value)), None)


def replace_tensor(value: Any, new: NDArray[np.float32]) -> Any:
    """The same value with `find_tensor`'s tensor replaced by these values, on its device and in its dtype."""
    import torch

    old = find_tensor(value)
    tensor = torch.from_numpy(np.ascontiguousarray(new)).to(old.device, old.dtype)
    done = False

    def one(part: Any) -> Any:
        nonlocal done
        if done or part is not old:
            return part
        done = True
        return tensor

    return change(value, one)


def change(value: Any, how: Callable[[Any], Any]) -> Any:
    """The same value with every tensor changed; mappings become dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return how(value)
    if isinstance(value, Mapping):
        return {key: change(part, how) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(part, how) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(change(part, how) for part in value)
    return value


def move(value: Any, device: Any) -> Any:
    """All tensors on the device; those in pinned memory without waiting."""
    return change(value, lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))
