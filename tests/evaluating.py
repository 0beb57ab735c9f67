"""What tests of the stage evaluate share: a set, and the job that filled its cache."""

from __future__ import annotations

from pathlib import Path

from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.find import default_model
from clusterpaths.pipeline import run


def publish(config: RunConfig) -> tuple[Path, ExtractionJob]:
    """The set's folder, and the job."""
    model = config.model or default_model(SAMPLE_MODEL)
    outcome = run(config.model_copy(update={"model": model, "evaluate": False}))
    assert outcome.published
    return outcome.published.path, outcome.job
