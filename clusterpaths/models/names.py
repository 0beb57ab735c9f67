"""Layer names: the graph's own scope names, shortened, and safe as the name of a directory.

Belongs here: text. Which tensors get a name is `layers.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import onnx

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(
    r"(con|nul|aux|prn|com\d|lpt\d)(\..*)?"  # Windows' devices, with any ending
    r"|set_\d+|examples|.*\.(json|parquet|npz|html|lock|partial)"  # what lies beside the layers' directories
    r"|id|file|split|label|prediction|distance\..*",  # columns of paths.parquet beside the layers'
    re.IGNORECASE,
)
_LONGEST = 80


def scope_of(node: onnx.NodeProto) -> str:
    """The module that a node belongs to, as in layer1.0.relu; empty: the model itself, or the exporter does not record it.

    torch's dynamo exporter lists the modules in the node's metadata; the older one and tf2onnx have
    them in its name: /layer1/layer1.0/relu_1/Relu.
    """
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            scopes = _read_list(entry.value)[:-1]  # the last one is the operation
            return scopes[-1] if scopes and scopes[-1] != _NO_MODULE else ""
    return _dotted([part for part in node.name.split("/")[:-1] if part])


def _read_list(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # an entry of another program: ignored
        return []
    return [str(part) for part in value] if isinstance(value, list) else []


def _dotted(parts: list[str]) -> str:
    """layer1, layer1.0, relu_1 -> layer1.0.relu_1: a module in a sequence repeats the name of the sequence."""
    remaining = [part for at, part in enumerate(parts) if not "".join(parts[at + 1 : at + 2]).startswith(f"{part}.")]
    return ".".join(remaining)


def is_within(scope: str, outer: str) -> bool:
    """Whether a module is `outer` or inside it."""
    return scope == outer or scope.startswith(f"{outer}.")


def common_scope(one: str, other: str) -> str:
    """The innermost module that contains both; empty: only the model itself."""
    shared = []
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def shorten(scopes: list[str]) -> list[str]:
    """Without the outer modules that all share, as long as each name still begins with a letter.

    encoder.layers.encoder_layer_0 … becomes encoder_layer_0 …; features.1, features.2 … stay.
    """
    parts = [scope.split(".") for scope in scopes]
    shared = 0
    while parts and all(len(names) > shared + 1 and names[shared] == parts[0][shared] for names in parts):
        shared += 1
    while shared and not all(names[shared][0].isalpha() for names in parts):
        shared -= 1
    return [".".join(names[shared:]) for names in parts]


def safe_name(text: str) -> str:
    """Letters, digits, . _ and - only, no leading or trailing dot, and no name that is reserved on a file system."""
    name = _UNSAFE.sub("_", text).strip("._-")[:_LONGEST].rstrip("._-") or "layer"
    return f"layer_{name}" if _RESERVED.fullmatch(name) else name


def unique_names(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Safe names, unique also ignoring letter case; later ones get _2, _3 …."""
    used = {name.lower() for name in taken}
    names = []
    for text in wanted:
        name = base = safe_name(text)
        number = 1
        while name.lower() in used:
            number += 1
            name = f"{base}_{number}"
        used.add(name.lower())
        names.append(name)
    return names
