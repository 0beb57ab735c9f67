"""alibi-detect's KSDrift and MMDDrift on windows that benchmarks/drift.py wrote; run by the Python of an environment that has it.

python benchmarks/drift_alibi.py DIRECTORY   reads windows.npz and given.json there, writes found.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alibi_detect.cd import KSDrift, MMDDrift

FOUND = 0.8
PERMUTATIONS = 100  # alibi-detect's default


def main(folder: Path) -> None:
    """Write the share of quiet windows called drifted, and the smallest amount of each shift that is found."""
    torch.set_num_threads(1)
    given = json.loads((folder / "given.json").read_text())
    alpha, splits = given["alpha"], range(given["splits"])
    with np.load(folder / "windows.npz") as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    size = arrays["quiet 0"].shape[1]
    alarms, power = {}, []
    for name, make in MAKERS.items():
        detectors = [make(arrays[f"reference {at}"], alpha) for at in splits]
        drifted = [drifts(detectors[at], window) for at in splits for window in arrays[f"quiet {at}"]]
        alarms[name] = {str(size): share(drifted)}
        for shift, amounts in given["shifts"].items():
            least, measured = smallest(
                amounts,
                lambda amount, shift=shift, detectors=detectors: float(
                    np.mean([drifts(detectors[at], one) for at in splits for one in arrays[f"{shift} {amount} {at}"]])
                ),
            )
            row = {"shift": shift, "detector": name, "window": size, "alpha": alpha, "smallest": least}
            power.append(row | {"found": {f"{amount:g}": round(value, 3) for amount, value in measured.items()}})
    versions = {package: version(package) for package in ("alibi-detect", "torch", "numpy")}
    (folder / "found.json").write_text(json.dumps({"alibi versions": versions, "detectors": alarms, "rows": power}))


MAKERS: dict[str, Callable[[Any, float], Any]] = {
    "alibi-detect KSDrift, last layer": lambda reference, alpha: KSDrift(reference, p_val=alpha),
    "alibi-detect MMDDrift, last layer": lambda reference, alpha: MMDDrift(
        reference, backend="pytorch", p_val=alpha, n_permutations=PERMUTATIONS
    ),
}


def drifts(detector: Any, window: Any) -> bool:
    """Its decision."""
    return bool(detector.predict(window)["data"]["is_drift"])


def share(drifted: list[bool]) -> dict[str, float]:
    """With Wilson's 95% interval."""
    n, p, z = len(drifted), float(np.mean(drifted)), 1.96
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    return {"mean": round(p, 4), "low": round(max(float(middle - half), 0), 4), "high": round(float(middle + half), 4)}


def smallest(amounts: list[float], power: Callable[[float], float]) -> tuple[float | None, dict[float, float]]:
    """As in `drift_shifts.py`, whose imports are not installed here."""
    low, high, measured = 0, len(amounts), {}
    while low < high:
        middle = (low + high) // 2
        measured[amounts[middle]] = power(amounts[middle])
        if measured[amounts[middle]] >= FOUND:
            high = middle
        else:
            low = middle + 1
    return (amounts[low] if low < len(amounts) else None), dict(sorted(measured.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
