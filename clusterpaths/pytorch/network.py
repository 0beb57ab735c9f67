"""A PyTorch model as it is run here: unwrapped, in evaluation mode, with hooks on some of its modules.

Belongs here: the torch module itself: its device, its digest, one forward pass, and what its modules output in it. Which modules
are layers is `layers.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.pytorch.values import find_tensor, move

log = logging.getLogger(__name__)
Forward = Callable[[Any, Any], Any]
Hook = tuple[str, Callable[..., None]]
Shape = tuple[int, ...]

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_running = threading.Lock()  # hooks are the module's, not a thread's


@dataclass
class Seen:
    """What one forward pass showed of a module.

    Attributes:
        name: as `named_modules` gives it.
        module: the class's name.
        calls: how often it was called.
        order: when its last call ended, among all modules.
        shape: of its output, the batch included; None: it is no tensor.
        dtype: of that tensor.
        says: of an output that is no tensor, what it is.
        inputs: the shape of the first tensor that it was given.
    """

    name: str
    module: str
    calls: int = 0
    order: int = -1
    shape: Shape | None = None
    dtype: str = ""
    says: str = ""
    inputs: Shape | None = field(default=None)


class Network:
    """A model to run.

    Args:
        model: torch.nn.Module; DataParallel and torch.compile are unwrapped.
        device: where batches go; the model's own, if None.
        autocast: None, True, or a dtype or its name.
        forward: called with the model and a batch, in place of the model.

    Raises:
        ConfigError: no module, or a dtype that does not exist.
        ModelError: its weights are on the meta device.
    """

    def __init__(self, model: Any, device: Any = None, autocast: Any = None, forward: Forward | None = None) -> None:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise ConfigError(
                f"The model is a {type(model).__name__}, expected a torch.nn.Module, such as torchvision.models.resnet18(). Of "
                "an ONNX file, call clusterpaths.run(model=…, data=…)."
            )
        self.module: Any = model
        while (inner := _WRAPPERS.get(type(self.module).__name__)) and hasattr(self.module, inner):
            self.module = getattr(self.module, inner)
        self.modules: dict[str, Any] = dict(self.module.named_modules(remove_duplicate=False))
        weights = [*self.module.parameters(), *self.module.buffers()]
        if any(weight.is_meta for weight in weights):
            raise ModelError(
                "The model's weights are on the meta device: they have shapes and no values. Load them first, as with "
                "model.to_empty(device=…) and load_state_dict."
            )
        self.device = (
            torch.device(device) if device is not None else weights[0].device if weights else torch.device("cpu")
        )
        self.autocast = _dtype(autocast, self.device)
        self.forward = forward
        self._takes = _arguments(self.module)

    @property
    def name(self) -> str:
        """The class's name, for people."""
        return type(self.module).__name__

    def digest(self) -> str:
        """SHA-256 of what the model computes with: its structure as torch prints it, and all weights by name.

        Where it is run in another precision by autocast, that is part of it.
        """
        import torch

        digest = hashlib.sha256(_ADDRESS.sub("", repr(self.module)).encode())
        for name, value in self.module.state_dict().items():
            if not isinstance(value, torch.Tensor) or value.is_quantized or value.layout != torch.strided:
                digest.update(f"\n{name} {value}".encode())
                continue
            digest.update(f"\n{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if self.autocast is not None:
            digest.update(f"\nautocast {self.autocast}".encode())
        return digest.hexdigest()

    def versions(self) -> tuple[int, ...]:
        """Changes with every step of an optimizer: torch counts writes to each tensor."""
        weights = (*self.module.parameters(), *self.module.buffers())
        return tuple(0 if weight.is_inference() else weight._version for weight in weights)

    def look(self, inputs: Any) -> tuple[list[Seen], Any]:
        """One forward pass that looks at every module: in the order in which they ended, and the model's output."""
        seen: dict[int, Seen] = {}
        order = iter(range(1 << 62))

        def hook(name: str) -> Callable[..., None]:
            def note(module: Any, given: Any, kwargs: Any, output: Any) -> None:
                one = seen.setdefault(id(module), Seen(name, type(module).__name__))
                one.calls += 1
                one.order = next(order)
                tensor = find_tensor(output)
                one.says = type(output).__name__
                one.shape = None if tensor is None else tuple(tensor.shape)
                one.dtype = "" if tensor is None else str(tensor.dtype).removeprefix("torch.")
                first = find_tensor([*given, *kwargs.values()])
                one.inputs = None if first is None else tuple(first.shape)

            return note

        output = self.run(inputs, [(name, hook(name)) for name, _ in self.module.named_modules()])
        return sorted(seen.values(), key=lambda one: one.order), output

    def run(self, inputs: Any, hooks: Iterable[Hook], before: Iterable[Hook] = ()) -> Any:
        """One forward pass on the device, in evaluation mode and without gradients; the model's output.

        Args:
            inputs: of a batch: a tensor, or tensors by name.
            hooks: (module, function): called with (module, args, kwargs, output) when it has run.
            before: (module, function): called with (module, args, kwargs) before it runs.
        """
        import torch

        with contextlib.ExitStack() as stack:
            stack.enter_context(_running)
            stack.enter_context(self.evaluating())
            stack.enter_context(
                torch.no_grad()
            )  # what a model caches in inference mode could not be trained with later
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, self.autocast))
            for name, hook in hooks:
                handle = self.modules[name].register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            for name, hook in before:
                handle = self.modules[name].register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            return self._call(move(inputs, self.device))

    def _call(self, inputs: Any) -> Any:
        if self.forward is not None:
            return self.forward(self.module, inputs)
        if isinstance(inputs, Mapping):
            own = {name: value for name, value in inputs.items() if self._takes is None or name in self._takes}
            return self.module(**own)
        return self.module(inputs)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode; each module's own mode is restored."""
        training = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _arguments(module: Any) -> set[str] | None:
    """The names that `forward` takes; None: any."""
    parameters = inspect.signature(module.forward).parameters.values()
    return None if any(one.kind is one.VAR_KEYWORD for one in parameters) else {one.name for one in parameters}


def _dtype(asked: Any, device: Any) -> Any:
    """The dtype of autocast; None: none."""
    import torch

    if asked is None or asked is False:
        return None
    if asked is True:
        return torch.get_autocast_dtype(device.type)
    found = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if found not in (torch.float16, torch.bfloat16):
        raise ConfigError(
            f"autocast should be True, torch.bfloat16 or torch.float16, got {asked!r}. Leave it out for the "
            "model's own precision."
        )
    return found


def as_numpy(tensor: Any) -> Any:
    """A tensor in the memory of this process; bfloat16, which numpy does not have, as float32."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.cpu().numpy())
