"""What tests of the stage evaluate share: a set, and the job that filled its cache."""

from __future__ import annotations

from pathlib import Path

from clusterpaths.chain import run_stages
from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.extraction.extract import ExtractionJob
from clusterpaths.models.check import default_model


def publish(config: RunConfig) -> tuple[Path, ExtractionJob]:
    """The set's folder, and the job."""
    model = config.model or default_model(SAMPLE_MODEL)
    published, job = run_stages(config.model_copy(update={"model": model}))
    return published.path, job
