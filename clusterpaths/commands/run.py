"""Cluster paths without Prefect: `clusterpaths run MODEL IMAGES`.

Belongs here: the options that a plain run takes, and how it is shown. The stages are `clusterpaths/pipeline.py`, which the
flows run too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter
from pydantic import BaseModel, Field

from clusterpaths.commands.options import read_options
from clusterpaths.commands.shell import one_paragraph, require_working_directory, run_log
from clusterpaths.config import RunConfig
from clusterpaths.running.inputs import describe, require_inputs

if TYPE_CHECKING:
    from clusterpaths.running.report import Report
    from clusterpaths.running.view import View

Config = TypeVar("Config", bound=BaseModel)
HIDDEN = Parameter(show=False)


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
    """Cluster paths of images through one ONNX model: publish a set, and write its report. Needs no Prefect."""

    dataset: str = Field("folder", description=RunConfig.model_fields["dataset"].description)
    model: Path | None = Field(None, description="ONNX image classifier (required but for --dataset faces and celeba)")
    sample: Annotated[bool, HIDDEN] = described("sample")
    sample_size: Annotated[int, HIDDEN] = described("sample_size")


def publish(config: RunConfig, *, verbose: bool) -> None:
    """Run the pipeline without Prefect; with `config.plan`, only show what it would do.

    Raises:
        ClusterPathsError: as `clusterpaths.pipeline.run`.
    """
    require_inputs(config)

    def run(report: Report) -> None:
        from clusterpaths import pipeline  # takes 2 s; a missing file is reported before

        pipeline.run(config, report=report)

    show(describe(config), run, verbose=verbose)


def show(lines: Iterable[str], run: Callable[[Report], None], *, verbose: bool) -> None:
    """Run stages in this process, and show them on stderr: a line for each, or the complete log.

    Args:
        lines: what will be done, printed at once.
        run: the stages.
        verbose: show the log.
    """
    if not verbose:
        announce(lines)
    from clusterpaths.running.report import Report  # imports pyarrow

    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s | %(message)s"))
        with run_log(handler):
            run(Report())
        return
    from clusterpaths.running.view import View

    with View() as view, run_log(_ToView(view)):
        run(Report(view))


def announce(lines: Iterable[str]) -> None:
    """Print what will be done, before anything slow is imported."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


class _ToView(logging.Handler):
    """Shows log records: warnings as lines, others as what the running stage has found."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        (self._view.warning if record.levelno >= logging.WARNING else self._view.message)(record.getMessage())


def run_plainly(name: str, model: type[Config], argv: list[str] | None, run: Callable[[Config, bool], None]) -> None:
    """A command that runs stages: exit code 0, 2 with one paragraph, or 130 for Ctrl-C.

    Args:
        name: of the command.
        model: whose fields are its options.
        argv: the words after the command; those of this process if left out.
        run: takes the configuration, and whether the complete log is shown.
    """
    with one_paragraph("Stopped. Recorded results are preserved: run the same command to resume."):
        require_working_directory()
        if (read := read_options(name, model, sys.argv[1:] if argv is None else argv)) is not None:
            run(*read)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_plainly("run", ImagesRun, argv, lambda config, verbose: publish(config, verbose=verbose))


if __name__ == "__main__":
    main()
