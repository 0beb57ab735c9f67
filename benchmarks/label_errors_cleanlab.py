"""cleanlab's rankings of labels that benchmarks/label_errors.py wrote; run by the Python of an environment that has it.

python benchmarks/label_errors_cleanlab.py DIRECTORY   reads given.npz there, writes found.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores


def main(folder: Path) -> None:
    """Write rankings by three scores, and the list of `find_label_issues` in its default order."""
    with np.load(folder / "given.npz") as file:
        labels, probabilities = file["labels"], file["probabilities"]
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    found = {
        f"cleanlab, {method.replace('_', ' ')}": np.argsort(
            get_label_quality_scores(labels, probabilities, method=method), kind="stable"
        ).tolist()
        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    }
    listed = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    found["cleanlab, its list"] = listed.tolist()
    (folder / "found.json").write_text(json.dumps({"rankings": found, "version": version("cleanlab")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
