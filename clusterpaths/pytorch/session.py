"""A live model as what the stages run: the same interface as an ONNX Runtime session (`models.session.TapSession`).

Belongs here: a batch in, `Outputs` out: activations reduced and cast on the model's device, class scores, and products with
centroids. Registering a model, so that evaluation and explanations find it, is here, too.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import ModelError
from clusterpaths.models import live
from clusterpaths.models.products import Products, ProductSession, Values
from clusterpaths.models.reduce import reduced_axes
from clusterpaths.models.session import Outputs
from clusterpaths.pytorch.layers import INPUT
from clusterpaths.pytorch.network import Network, as_numpy
from clusterpaths.pytorch.outputs import scores
from clusterpaths.pytorch.values import find_tensor, replace_tensor
from clusterpaths.records import CacheDtype, ModelRecord, Tap


class Runner:
    """Runs batches of a loader.

    Args:
        network: the model.
        model: its record, with the taps.
        dtypes: layer -> float16 or float32, in which it is given out.
    """

    def __init__(self, network: Network, model: ModelRecord, dtypes: Mapping[str, CacheDtype]) -> None:
        self.network, self.model = network, model
        self._dtypes = {tap.layer: dtypes.get(tap.layer, "float32") for tap in model.taps}

    def run(self, inputs: Any, count: int, put: tuple[Tap, NDArray[np.float32]] | None = None) -> Outputs:
        """Run a batch of `count` examples; `products` has the squared lengths of every layer's rows.

        Args:
            inputs: the batch.
            count: of its examples.
            put: a layer, and values (count, *full shape) that are put in for what it outputs.

        Raises:
            ModelError: a layer has not one row per example, or another shape than in the first batch.
        """
        import torch

        found: dict[str, Any] = {}
        squares: dict[str, Any] = {}

        def keep(tap: Tap, value: Any) -> None:
            tensor = find_tensor(value)
            if tensor is None or not tensor.ndim or len(tensor) != count:
                shape = "no tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
                raise ModelError(
                    f"Layer {tap.layer} outputs {shape} for {count} examples of this batch, and {tap.full_shape} per example in "
                    "the first one. Leave it out of layers."
                )
            if tap.layer in found:
                raise ModelError(
                    f"Layer {tap.layer} is called more than once for this batch, and once for the first one. Leave "
                    "it out of layers."
                )
            rows = reduce_tensor(tensor, tap)
            if tuple(rows.shape[1:]) != tap.shape:
                raise ModelError(
                    f"Layer {tap.layer} outputs shape {tuple(rows.shape[1:])} per example of this batch, and {tap.shape} in the "
                    "first one. Activations of one layer have one shape: pad or resize the inputs alike, or reduce it "
                    f"(reduce='{tap.layer}=mean')."
                )
            # a copy in any case: what follows may be computed in place
            kept = rows.to(torch.float16 if self._dtypes[tap.layer] == "float16" else torch.float32, copy=True)
            found[tap.layer] = kept.contiguous()
            squares[tap.layer] = kept.flatten(1).float().square().sum(1)

        def after(tap: Tap) -> Callable[..., None]:
            return lambda module, args, kwargs, output: keep(tap, output)  # noqa: ARG005 - torch's names

        def before(tap: Tap) -> Callable[..., None]:
            return lambda module, args, kwargs: keep(tap, [*args, *kwargs.values()])  # noqa: ARG005

        given = [tap for tap in self.model.taps if tap.tensor.endswith(INPUT)]
        hooks = [(tap.tensor, after(tap)) for tap in self.model.taps if tap not in given]
        first = [(tap.tensor.removesuffix(INPUT), before(tap)) for tap in given]
        if put is not None and put[0].tensor.endswith(INPUT):
            first = [(put[0].tensor.removesuffix(INPUT), _put_before(put[1])), *first]
        elif put is not None:
            hooks = [(put[0].tensor, _put_after(put[1])), *hooks]  # the hooks that follow see what it returns
        output = self.network.run(inputs, hooks, first)
        if missing := [tap.layer for tap in self.model.taps if tap.layer not in found]:
            raise ModelError(
                f"Layer {missing[0]} was not reached for this batch, although it was for the first one. Leave it out of layers."
            )
        layers = {tap.layer: as_numpy(found[tap.layer]) for tap in self.model.taps}
        products = {layer: Products(as_numpy(value), None) for layer, value in squares.items()}
        return Outputs(layers, scores(self.model.outputs, output, count), products)


def _put_after(values: NDArray[np.float32]) -> Callable[..., Any]:
    return lambda module, args, kwargs, output: replace_tensor(output, values)  # noqa: ARG005 - torch's names


def _put_before(values: NDArray[np.float32]) -> Callable[..., Any]:
    def put(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if find_tensor(list(args)) is not None:
            return replace_tensor(args, values), kwargs
        return args, replace_tensor(kwargs, values)

    return put


def reduce_tensor(tensor: Any, tap: Tap) -> Any:
    """A layer's tensor, reduced as its tap says, as the nodes of `models.reduce.add_reduction` do it."""
    if not tensor.is_floating_point():
        tensor = tensor.float()
    if tap.reduce == "none":
        return tensor.detach()
    axes = reduced_axes(tap.reduce, tap.full_shape)
    if tap.reduce == "cls":
        return tensor.select(axes[0], 0)
    return tensor.amax(axes) if tap.reduce == "max" else tensor.float().mean(axes)


@dataclass(frozen=True)
class Takes:
    """How a batch of images goes into a model.

    Attributes:
        key: the name of the argument; "": the only one.
        dtype: of the tensor, a torch.dtype.
        channels: 3, or 1 for a model of grey images.
    """

    key: str
    dtype: Any
    channels: int


class LiveSession:
    """A session of a live model; see `models.live.Session`. Its weights must be those that were collected."""

    def __init__(
        self,
        network: Network,
        takes: Takes,
        model: ModelRecord,
        dtypes: Mapping[str, CacheDtype],
        centroids: Mapping[str, Values] | None,
        keep: bool,
    ) -> None:
        self.model = model
        self._runner, self._takes, self._keep = Runner(network, model, dtypes), takes, keep
        self._versions = network.versions()
        self._products = {}
        if centroids is not None:
            for tap in model.taps:
                width, dtype = math.prod(tap.shape), dtypes.get(tap.layer, "float32")
                self._products[tap.layer] = ProductSession(width, dtype, centroids.get(tap.layer))

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """Run (n, 3, height, width) float32.

        Raises:
            ModelError: the model was trained since this session began, or does not take such images.
        """
        return self._run(images, None)

    def run_with(self, images: NDArray[np.float32], tap: Tap, values: NDArray[np.float32]) -> Outputs:
        """As `run`, with these values (n, *full shape) as what the tap's layer outputs.

        Raises:
            ModelError: as `run`.
        """
        return self._run(images, (tap, values))

    def _run(self, images: NDArray[np.float32], put: tuple[Tap, NDArray[np.float32]] | None) -> Outputs:
        import torch

        if self._runner.network.versions() != self._versions:
            raise ModelError(_changed(self.model))
        images = images[:, : self._takes.channels]
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self._takes.dtype)
        try:
            out = self._runner.run({self._takes.key: tensor} if self._takes.key else tensor, len(images), put)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"The model cannot be run on a batch of shape {images.shape}: {error}") from error
        products = {layer: one.run(out.layers[layer].reshape(len(images), -1)) for layer, one in self._products.items()}
        return Outputs(out.layers if self._keep else {}, out.logits, products)


def register(network: Network, takes: Takes, model: ModelRecord) -> None:
    """Offer a model to whatever runs one in this process, as long as the module lives and has these weights.

    The module is not held: deleting it frees its memory.
    """
    module, digest = weakref.ref(network.module), model.sha256
    settings = (network.device, network.autocast, network.forward)
    checked = threading.Lock()
    versions: list[tuple[int, ...]] = []

    def opens(
        record: ModelRecord, dtypes: Mapping[str, CacheDtype], centroids: Mapping[str, Values] | None, keep: bool
    ) -> LiveSession:
        there = module()
        if there is None:
            raise ModelError(f"The model {model.path or digest[:12]} is no longer in memory.")
        own = Network(there, *settings)
        with checked:  # one digest for the sessions of many threads
            if own.versions() not in versions:
                if own.digest() != digest:
                    raise ModelError(_changed(model))
                versions.append(own.versions())
        return LiveSession(own, takes, record, dtypes, centroids, keep)

    earlier = live.live_model(digest)  # sets of other layers are still open
    taps = {(tap.layer, tap.identity): tap for tap in (*(earlier.taps if earlier else ()), *model.taps)}
    live.register(model.model_copy(update={"taps": tuple(taps.values())}), opens)
    weakref.finalize(network.module, live.forget, digest, opens)


def _changed(model: ModelRecord) -> str:
    return (
        f"The model's weights are no longer those that were collected (sha256 {model.sha256[:12]}): it was trained or loaded "
        "again since. Collect its activations again, into another directory, or load the weights of then."
    )
