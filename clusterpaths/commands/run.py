"""Cluster paths without Prefect: `clusterpaths run MODEL IMAGES`.

Belongs here: the options that a plain run takes, and what is printed at its end. The stages are `clusterpaths/pipeline.py`,
which the flows run too.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from pydantic import Field

from clusterpaths.commands.shell import USER_ERROR, fail, run_command, run_log_on_stderr
from clusterpaths.config import RunConfig
from clusterpaths.running.inputs import require_inputs

if TYPE_CHECKING:
    from clusterpaths.running.report import Outcome

HIDDEN = Parameter(show=False)
POSITIONAL = ("--model", "--data-root")  # options that the first words of the command line stand for


def described(name: str) -> Any:
    """A field of `RunConfig` as it is there: default, bounds and description."""
    return RunConfig.model_fields[name]


class PlainConfig(RunConfig):
    """Options of a run without Prefect."""

    engine: Annotated[Literal["threads"], HIDDEN] = Field("threads", description="threads of this process")
    dask_address: Annotated[None, HIDDEN] = Field(None, description="only flows run on Dask")
    model_sha256: Annotated[str | None, HIDDEN] = described("model_sha256")
    time_limit: Annotated[float, HIDDEN] = described("time_limit")


class ImagesRun(PlainConfig):
    """Options of `clusterpaths run`."""

    dataset: str = Field("folder", description=RunConfig.model_fields["dataset"].description)
    model: Path | None = Field(None, description="ONNX image classifier (required but for --dataset faces and celeba)")
    sample: Annotated[bool, HIDDEN] = described("sample")
    sample_size: Annotated[int, HIDDEN] = described("sample_size")


def run(*, config: Annotated[ImagesRun | None, Parameter(name="*")] = None) -> None:
    """Cluster paths of images through one ONNX model: publish a set, and write its report.

    clusterpaths run resnet18.onnx photos/ --k auto
    """
    if config is None:
        fail("Name a model and a directory of images: clusterpaths run MODEL IMAGES. Try --help.", USER_ERROR)
    publish(config)


def publish(config: RunConfig) -> None:
    """Run the pipeline; log on stderr, and print the set, its report and the next step."""
    require_inputs(config)
    from clusterpaths import pipeline  # takes 2 s; a missing file is reported before

    try:
        with run_log_on_stderr():
            outcome = pipeline.run(config)
    except KeyboardInterrupt:
        fail("Stopped. Recorded results are preserved: run the same command to resume.", 130)
    sys.stdout.write(_end(config, outcome))


def _end(config: RunConfig, outcome: Outcome) -> str:
    """What is printed when a run has ended; nothing after a plan, which is logged."""
    if outcome.published is None:
        return ""
    from clusterpaths.report import markdown

    root = f" --cache-root {shlex.quote(config.cache_root)}" if config.cache_root else ""
    return (
        f"{markdown.in_one_sentence(outcome.published)}\n"
        f"Set:    {outcome.published.path}\n"
        f"Report: {outcome.report}\n"
        f"Next:   clusterpaths serve{root}\n"
    )


def by_name(words: list[str]) -> list[str]:
    """The words of a command line, with the names of the options that its first words are meant for."""
    given = [word.startswith("-") for word in words]
    count = min(given.index(True) if True in given else len(given), len(POSITIONAL))
    return [word for pair in zip(POSITIONAL, words[:count], strict=False) for word in pair] + words[count:]


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    app = cyclopts.App(
        name="run", help=run.__doc__, version_flags=[], default_parameter=Parameter(negative=()),
        usage="Usage: clusterpaths run MODEL [IMAGES] [OPTIONS]",
    )  # fmt: skip
    app.default(run)
    run_command(app, by_name(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
