"""Execution providers of ONNX Runtime, by short names.

Belongs here: which are installed, and how to install others. Which provider really ran is reported by the session.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import onnxruntime

from clusterpaths.errors import ConfigError

AUTO = "auto"
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class _Provider:
    """ONNX Runtime's name, its package, and whether auto takes it where it is installed."""

    name: str
    package: str
    auto: bool = True


# In the order that auto prefers. auto does not take TensorRT: it compiles for minutes before the first image.
_PROVIDERS = {
    "tensorrt": _Provider("TensorrtExecutionProvider", "onnxruntime-gpu", auto=False),
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "migraphx": _Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "rocm": _Provider("ROCMExecutionProvider", "onnxruntime-rocm"),
    "directml": _Provider("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime", auto=False),
    "openvino": _Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "cpu": _Provider(CPU, "onnxruntime"),
}


def choose_providers(asked: str = AUTO) -> tuple[str, ...]:
    """ONNX Runtime's names in order of preference, the CPU always last.

    Args:
        asked: "auto" for what is installed, or names such as "cuda" or "cuda,cpu".

    Raises:
        ConfigError: an unknown name, or a provider that is not installed (with the line that installs it).
    """
    installed = onnxruntime.get_available_providers()
    words = [word.strip().lower() for word in asked.split(",") if word.strip()]
    if words in ([], [AUTO]):
        chosen = [provider.name for provider in _PROVIDERS.values() if provider.auto and provider.name in installed]
    else:
        chosen = [_named(word, installed) for word in words]
    return tuple(dict.fromkeys([*chosen, CPU]))


def _named(word: str, installed: list[str]) -> str:
    provider = _PROVIDERS.get(word)
    if provider is None:
        near = difflib.get_close_matches(word, _PROVIDERS, n=1)
        raise ConfigError(
            f"There is no execution provider {word!r}. " + (f"Did you mean {near[0]}? " if near else "")
            + f"Expected auto, or some of {', '.join(_PROVIDERS)}."
        )  # fmt: skip
    if provider.name not in installed:
        raise ConfigError(
            f"--providers {word} needs {provider.name}, which is not installed here; installed are {', '.join(installed)}. "
            f"Install it with `pip uninstall onnxruntime && pip install {provider.package}` (one of the two packages at a "
            "time), or use --providers auto."
        )
    return provider.name


def require_ran(asked: str, ran: tuple[str, ...]) -> None:
    """Check that a provider that was requested by name was not silently skipped.

    Raises:
        ConfigError: it was.
    """
    if asked.strip().lower() in ("", AUTO):
        return
    wanted = choose_providers(asked)[0]
    if wanted in ran:
        return
    raise ConfigError(
        f"--providers {asked}: ONNX Runtime could not start {wanted} and ran {', '.join(ran)} instead; its message is "
        "above. Expected a driver and libraries of the versions that onnxruntime names. Update them, or use --providers auto."
    )
