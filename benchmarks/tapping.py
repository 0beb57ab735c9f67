"""What the added outputs cost: the model with its taps compared with the model without, both in one thread.

The model without has its logits as only output. Both run the same batch alternately, timed in CPU time, so that other load on
the machine is excluded; the ratio is taken within a round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from machine import Material, median
from models import session_options, take_turns

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.records import CacheDtype

BATCH = 32
DTYPES: tuple[CacheDtype, ...] = ("float16", "float32")
MOST = 1.10


def measure(material: Material, rounds: int = 15, repeats: int = 16) -> dict[str, Any]:
    """Median ms per batch of the plain and of the tapped model, and the ratio, for each dtype of the cache."""
    checked = check_model(material.model, ("auto",), default_size=(64, 64))
    record = instrument_model(checked, checked.size)
    height, width = record.size
    images = np.random.default_rng(0).standard_normal((BATCH, 3, height, width)).astype(np.float32)
    plain = plain_session(material.model, str(record.logits))
    tapped = {dtype: TapSession(record, dict.fromkeys(record.layers, dtype)) for dtype in DTYPES}
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain.run([record.logits], {record.input: images}),
        "float16": lambda: tapped["float16"].run(images),
        "float32": lambda: tapped["float32"].run(images),
    }
    seconds = take_turns(ways, rounds, repeats)
    return {
        "layers": list(record.layers),
        "batch": BATCH,
        "ms": {way: 1000 * median(values) for way, values in seconds.items()},
        "ratio": {
            dtype: median(a / b for a, b in zip(seconds[dtype], seconds["plain"], strict=True)) for dtype in DTYPES
        },
    }


def plain_session(path: Path, logits: str) -> onnxruntime.InferenceSession:
    """The model with its logits alone, in one thread: outputs that the file has besides are removed."""
    model = onnx.load(str(path))
    kept = [output for output in model.graph.output if output.name == logits]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )


def targets(result: dict[str, Any]) -> list[tuple[str, float, float | None, str]]:
    """What, at most, measured, its format."""
    return [
        (f"model with taps, {dtype}, relative to the model without", MOST, result["ratio"][dtype], ".2f")
        for dtype in DTYPES
    ]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"Batches of {result['batch']}, one thread; layers {', '.join(result['layers'])}.",
        "",
        "| | ms per batch (CPU time) | relative to the model without taps |",
        "|---|---|---|",
    ]
    for way, ms in result["ms"].items():
        name = "without taps" if way == "plain" else f"with taps, {way}"
        lines.append(f"| {name} | {ms:.2f} | {result['ratio'].get(way, 1.0):.2f} |")
    return "\n".join(lines)
