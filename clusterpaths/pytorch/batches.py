"""Batches of a loader: what goes into the model, and what is known of each example.

Belongs here: reading a loader in its own order, again from a position where that can be done, and the parts of a batch. What the
data set behind it says of files and classes is `examples.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.errors import DatasetError
from clusterpaths.pytorch.network import as_numpy
from clusterpaths.pytorch.values import change, tensors

_LABELS = ("labels", "label", "targets", "target", "y")  # keys of a batch that is a dict
_SHUFFLING = ("RandomSampler", "WeightedRandomSampler", "SubsetRandomSampler")
_IMAGE = "pixel_values"


@dataclass(frozen=True)
class Batch:
    """n examples.

    Attributes:
        inputs: for the model: a tensor, or tensors by name.
        image: the tensor of images in it, (n, 1 or 3, height, width), and its key ("": the inputs themselves); None.
        digests: (n,) xxh3 of each example's inputs.
        labels: (n,) class numbers, -1 where there is none; None: the loader gives none.
        attributes: (n, A) of 1 and -1, where the labels are (n, A) of 0 and 1.
        notes: what was not used, one sentence each.
    """

    inputs: Any
    image: tuple[str, Any] | None
    digests: NDArray[np.uint64]
    labels: NDArray[np.int32] | None = None
    attributes: NDArray[np.int8] | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.digests)


class Loader:
    """A loader's batches, in order.

    Args:
        loader: torch's DataLoader, not shuffled, or any iterable of batches.

    Attributes:
        batches: which examples of the data set each batch has; None: not known, so every reading begins at the first batch.
        dataset: behind the loader; None: not known.

    Raises:
        DatasetError: it cannot be iterated, or shuffles.
    """

    def __init__(self, loader: Any) -> None:
        from torch.utils.data import DataLoader, IterableDataset

        if isinstance(loader, (str, bytes)) or not isinstance(loader, Iterable):
            raise DatasetError(
                f"The loader is a {type(loader).__name__}. Expected a torch.utils.data.DataLoader, or an iterable of batches."
            )
        self._loader: Any = loader
        self.dataset = getattr(loader, "dataset", None)
        self.once = not isinstance(loader, DataLoader) and iter(loader) is loader
        self.batches: list[list[int]] | None = None
        self.left_out = 0
        if not isinstance(loader, DataLoader):
            return
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            shuffles = type(sampler).__name__ in _SHUFFLING or getattr(sampler, "shuffle", False) is True
            if shuffles:
                raise DatasetError(_shuffled(type(sampler).__name__))
        # of another class, reading may be more than its data set and its sampler
        if (
            type(loader) is DataLoader
            and not isinstance(loader.dataset, IterableDataset)
            and loader.batch_sampler is not None
        ):
            self.batches = _drawn(loader.batch_sampler)
            self.left_out = sum(1 for _ in loader.sampler) - self.count if loader.drop_last else 0

    @property
    def count(self) -> int:
        """Examples; only where `batches` are known."""
        return sum(map(len, self.batches or ()))

    def read(self, first: int = 0) -> Iterator[Batch]:
        """Batches from this one on; from another one than 0 only where `batches` are known.

        Raises:
            DatasetError: as `parse`.
        """
        if self.batches is None or not first:
            return map(parse, self._loader)
        return self._again(self.batches[first:], self._loader.num_workers)

    def some(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """These batches, read in this process; only where `batches` are known."""
        return self._again([(self.batches or [])[number] for number in numbers], 0)

    def _again(self, batches: list[list[int]], workers: int) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        own = self._loader
        if not batches:
            return iter(())
        more: dict[str, Any] = {}
        if workers:
            more = {
                name: getattr(own, name)
                for name in ("timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")
            }
        part: Any = DataLoader(
            own.dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=own.collate_fn,
            pin_memory=own.pin_memory,
            **more,
        )
        return map(parse, part)


def _drawn(sampler: Any) -> list[list[int]]:
    """The batches of indices of a sampler that gives the same ones each time."""
    batches, again = ([list(map(int, batch)) for batch in sampler] for _ in range(2))
    if batches != again:
        raise DatasetError(_shuffled(type(sampler).__name__))
    return batches


def _shuffled(sampler: str) -> str:
    return (
        f"The loader shuffles ({sampler}): which example a row belongs to would not be known, and another reading would have "
        "another order. Expected a loader in a fixed order: DataLoader(dataset, batch_size=…, shuffle=False)."
    )


def parse(raw: Any) -> Batch:
    """A batch in any of the usual forms: x, (x, y, …), or a dict such as {"pixel_values": x, "labels": y}.

    Raises:
        DatasetError: it has no tensor, or rows that differ in number.
    """
    import torch

    raw = change(raw, lambda tensor: tensor) if isinstance(raw, Mapping) else raw
    inputs, given = raw, None
    if isinstance(raw, Mapping):
        key = next((name for name in _LABELS if name in raw), None)
        inputs = {name: _as_tensor(value) for name, value in raw.items() if name not in _LABELS}
        inputs = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        given = None if key is None else raw[key]
    elif isinstance(raw, (tuple, list)) and raw:
        inputs, given = raw[0], raw[1] if len(raw) > 1 else None
        if isinstance(inputs, Mapping):
            inputs = parse(inputs).inputs
    if isinstance(inputs, np.ndarray):
        inputs = _as_tensor(inputs)
    found = tensors(inputs)
    if not found or not all(tensor.ndim for _, tensor in found):
        raise DatasetError(
            f"The loader gives batches of {_described(raw)}. Expected a tensor with one row per example, (tensor, labels), or "
            "a dict of tensors such as pixel_values and labels."
        )
    counts = {name or "x": len(tensor) for name, tensor in found}
    if len(set(counts.values())) > 1 or not next(iter(counts.values())):
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DatasetError(
            f"The tensors of a batch differ in their rows: {listed}. Expected one row per example in each."
        )
    count = len(found[0][1])
    labels, attributes, notes = _labels(given, count)
    return Batch(inputs, _image(inputs), _digests([tensor for _, tensor in found]), labels, attributes, notes)


def _as_tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value


def _described(raw: Any) -> str:
    if isinstance(raw, (tuple, list)):
        return f"{type(raw).__name__} of {', '.join(type(part).__name__ for part in raw[:4]) or 'nothing'}"
    if isinstance(raw, Mapping):
        return f"dict of {', '.join(map(str, list(raw)[:6])) or 'nothing'}"
    return type(raw).__name__


def _image(inputs: Any) -> tuple[str, Any] | None:
    parts = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    for name in sorted(parts, key=lambda name: name != _IMAGE):
        value = parts[name]
        if getattr(value, "ndim", 0) == 4 and value.shape[1] in (1, 3) and str(value.dtype) != "torch.bool":
            return name, value
    return None


def _digests(found: Sequence[Any]) -> NDArray[np.uint64]:
    """(n,) of the bytes of each row in all tensors."""
    arrays = [as_numpy(tensor) for tensor in found]
    digests = np.empty(len(arrays[0]), np.uint64)
    for at in range(len(digests)):
        digest = xxhash.xxh3_64()
        for array in arrays:
            digest.update(np.ascontiguousarray(array[at]).data if array[at].ndim else array[at].tobytes())
        digests[at] = digest.intdigest()
    return digests


def _labels(given: Any, count: int) -> tuple[NDArray[np.int32] | None, NDArray[np.int8] | None, tuple[str, ...]]:
    """(n,) class numbers and (n, A) attributes of what a batch has as labels; None where it has none, and notes."""
    import torch

    if isinstance(given, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in given):
        given = next(part for part in given if isinstance(part, torch.Tensor))  # torchvision's target_type=[…]
    if given is None:
        return None, None, ()
    try:
        values = as_numpy(given) if isinstance(given, torch.Tensor) else np.asarray(given)
    except ValueError:  # lists of several lengths
        values = np.empty(0, object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape == (count,) and values.dtype.kind in "iub":
        return np.maximum(values.astype(np.int32), -1), None, ()
    if values.ndim == 2 and len(values) == count and values.dtype.kind in "iufb" and np.isin(values, (0, 1)).all():
        return None, np.where(values > 0, 1, -1).astype(np.int8), ()
    return (
        None,
        None,
        (
            f"The second part of a batch, {values.dtype} of shape {values.shape}, is not used: labels are one whole number per "
            "example, or a row of 0 and 1.",
        ),
    )
