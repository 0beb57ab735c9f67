"""The path service with the bare classifier in place of the path model: what the path service is compared with.

The same server, decoding, batching, log and answer; the graph is the classifier's own, and paths, distances and scores are
empty. Takes the path service's arguments and, before them, the classifier.

    python benchmarks/bare_service.py CLASSIFIER.onnx PATHS.onnx --log-dir DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from machine import PROJECT

sys.path.insert(0, str(PROJECT))  # deployments are of the checkout

from clusterpaths.models.outputs import as_rows, decide
from deployments.path_service import __main__ as program
from deployments.path_service import model
from deployments.path_service.model import PathModel


class BareModel(PathModel):
    """The classifier with the path model's metadata: its class scores only."""

    def _run(self, images: Any) -> list[model.Routed]:
        (scores,) = self._session.run([self.meaning.name], {self._input: images})
        decisions = decide(self.meaning, as_rows(self.meaning, scores, len(images)))
        assert decisions.probabilities is not None
        return [
            model.Routed((), (), 0.0, prediction, tuple(shares), True)
            for prediction, shares in zip(decisions.predictions.tolist(), decisions.probabilities.tolist(), strict=True)
        ]

    def _path_prediction(self, _: tuple[int, ...]) -> int | None:
        return None


def main(classifier: Path, words: list[str]) -> None:
    """Serve it."""
    opened = model.open_session

    def open_classifier(path: Path, threads: int) -> Any:
        """The classifier's session, which says the path model's metadata."""
        session, described = opened(classifier, threads), onnx.load(str(path), load_external_data=False)
        metadata = {entry.key: entry.value for entry in described.metadata_props}

        session.get_modelmeta = lambda: SimpleNamespace(custom_metadata_map=metadata)
        return session

    model.open_session = open_classifier
    program.PathModel = BareModel  # type: ignore[misc]
    program.main(words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
