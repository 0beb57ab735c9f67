"""The command line of a run: options of a configuration, words before them, `--verbose`, `--help` and `--help-all`.

Belongs here: reading; the same for the library's commands and for flows. What an option is says its field, the panels are
`help.py`.
"""

# No "from __future__ import annotations" here: `run_parser` annotates a function with a class that its caller passes.

import itertools
from typing import Annotated, TypeVar

import cyclopts
from pydantic import BaseModel, ValidationError

from clusterpaths.commands.help import EXAMPLES, HELP, HELP_ALL, Panels
from clusterpaths.commands.shell import USER_ERROR, fail, invalid, option_message

Config = TypeVar("Config", bound=BaseModel)

# Of each command, the words before the options, by the option that each stands for.
POSITIONAL = {
    "images": {"--model": "MODEL", "--images": "FOLDER"},
    "run": {"--model": "MODEL", "--images": "IMAGES"},
    "activations": {"--source": "DIR"},
}
VERBOSE = "show the complete log instead of a line per stage"


def run_parser(name: str, model: type[Config], given: list[tuple[Config, bool]], *, everything: bool) -> cyclopts.App:
    """The parser of a command's options.

    Args:
        name: of the command.
        model: whose fields are the options.
        given: takes the configuration of a command line, and whether its complete log is shown.
        everything: `--help` shows also what is rarely needed.
    """

    def read(
        *,
        config: Annotated[model, cyclopts.Parameter(name="*")] = None,  # type: ignore[valid-type]
        verbose: Annotated[bool, cyclopts.Parameter(help=VERBOSE)] = False,
    ) -> None:
        given.append((config if config is not None else model(), verbose))

    words = POSITIONAL.get(name, {}).values()
    usage = " ".join(["clusterpaths", name, *(f"[{word}]" for word in words), "[OPTIONS]"])
    parser = cyclopts.App(
        name=name, help=model.__doc__, usage=f"Usage: {usage}", version_flags=[], help_flags=[*HELP, HELP_ALL],
        help_formatter=Panels(name, everything=everything), default_parameter=cyclopts.Parameter(negative=()),
    )  # fmt: skip
    parser.default(read)
    return parser


def read_options(name: str, model: type[Config], argv: list[str]) -> tuple[Config, bool] | None:
    """The options of a command line, and whether its complete log is shown; None if it asks for help, which is printed.

    A mistake ends with one paragraph.
    """
    given: list[tuple[Config, bool]] = []
    positional = POSITIONAL.get(name, {})
    if positional and not argv:
        fail(f"{_words(name)} {'is' if len(positional) == 1 else 'are'} missing. {_as_in(name)}", USER_ERROR)
    parser = run_parser(name, model, given, everything=HELP_ALL in argv)
    try:
        parser(by_name(argv, positional), exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        message = _by_position(option_message(error), positional)
        if positional and isinstance(error, cyclopts.UnusedCliTokensError):
            message = message.replace("Try --help.", _as_in(name))
        fail(message, USER_ERROR)
    except ValidationError as error:  # without any option, the model is made here
        fail(_by_position(invalid(error), positional), USER_ERROR)
    return given[0] if given else None


def _by_position(message: str, positional: dict[str, str]) -> str:
    """A message that calls what is missing as the usage does."""
    for option, word in positional.items():
        message = message.replace(f"{option} is missing", f"{word} is missing")
    return message


def _words(name: str) -> str:
    return " and ".join(POSITIONAL[name].values())


def _as_in(name: str) -> str:
    return f"Expected {_words(name)} before the options, as in: {EXAMPLES[name][0][0]}. Try --help."


def by_name(argv: list[str], positional: dict[str, str]) -> list[str]:
    """The words before the first option as the options that they stand for."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    named = [part for option, word in zip(positional, words, strict=False) for part in (option, word)]
    return [*named, *argv[min(len(words), len(positional)) :]]
