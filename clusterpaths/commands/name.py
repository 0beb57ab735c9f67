"""Name clusters with a vision-language model: `clusterpaths name CelebA/set_01 --endpoint URL --model NAME`.

Prints what would be sent, asks, and writes the names beside the set. Without --endpoint nothing is sent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.config import IMAGES, CacheRoot
from clusterpaths.errors import ConfigError, DatasetError
from clusterpaths.naming.endpoint import KEY_VARIABLE, Budget, Endpoint
from clusterpaths.naming.from_model import Plan, name_by_model, plan, require_images
from clusterpaths.records import Record
from clusterpaths.sets.images import find_images


class NameConfig(Record):
    """Options of `clusterpaths name`."""

    endpoint: str | None = Field(
        None,
        description="base address of a chat completions API that takes images, such as http://localhost:8000/v1; its key "
        f"comes from {KEY_VARIABLE} [none: the plan is printed, nothing is sent]",
    )
    model: str | None = Field(None, description="the server's name for the model")
    budget_calls: int = Field(100, ge=1, description="requests at most, repetitions included")
    budget_tokens: int = Field(200_000, ge=1, description="tokens at most, as the server counts them")
    max_images: int = Field(2000, ge=1, description="photographs that may leave this machine")
    timeout: float = Field(120.0, gt=0, description="seconds to wait for an answer")
    yes: Annotated[bool, cyclopts.Parameter(negative=())] = Field(False, description="send without asking")
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )
    data_root: Annotated[Path | None, IMAGES] = Field(
        None, description="the data set's directory [where the images were]"
    )


def name(
    set: Annotated[str, cyclopts.Parameter(help="the set: NAME/set_NN, or NAME for its newest set")],  # noqa: A002
    *,
    config: Annotated[NameConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Ask a vision-language model what distinguishes clusters. Montages of exemplars are sent to the endpoint."""
    config = config or NameConfig()
    published = find_set(set, config.cache_root)
    require_images(published.index)
    planned = plan(published.index, config.budget_calls)
    if config.endpoint is None:
        sys.stdout.write(f"{describe(planned, config, 'the endpoint')}\nNothing was sent: there is no --endpoint.\n")
        return
    if not config.model:
        raise ConfigError("--model is missing: the name that the server has for the model, such as qwen2.5-vl-7b.")
    endpoint = Endpoint(config.endpoint, config.timeout, lambda line: _to_stderr(f"warning: {line}"))
    if endpoint.in_clear:
        _to_stderr(
            f"warning: {endpoint.host} is not this machine and has no https: photographs and key travel unencrypted."
        )
    sys.stdout.write(describe(planned, config, endpoint.host) + "\n")
    sys.stdout.flush()
    _confirm(config.yes)

    def lost(_: DatasetError) -> None:
        _to_stderr(
            "warning: The images of the set are no longer where they were; name their directory with --data-root."
        )

    budget = Budget(config.budget_calls, config.max_images, config.budget_tokens)
    read_image = find_images(published, config.data_root, lost)
    outcome = name_by_model(published, endpoint, config.model, budget, read_image, _to_stderr)
    sys.stdout.write(f"{outcome.sentence}\n")


def describe(planned: Plan, config: NameConfig, host: str) -> str:
    """What would be sent, in words."""
    images, tokens = min(planned.images, config.max_images), min(planned.tokens, config.budget_tokens)
    text = (
        f"Asks about {planned.pairs} pairs of paths that differ in one layer, and twice about each of {planned.clusters} "
        f"clusters: at most {planned.calls} requests with {images:,} photographs (in montages of nine) and about {tokens:,} "
        f"tokens; answers that are cached cost nothing. The photographs leave this machine for {host}."
    )
    return text + (f" {planned.left_out} questions are beyond --budget-calls." if planned.left_out else "")


def _confirm(yes: bool) -> None:
    """Raises: ConfigError: nobody said yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was sent: nobody can be asked here. Repeat the command with --yes.")
    if input("Send? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError("Nothing was sent.")


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("name", name, "SET")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()
