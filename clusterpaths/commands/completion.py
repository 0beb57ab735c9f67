"""Shell completion: `clusterpaths completion bash|zsh|fish` prints a script.

Belongs here: the script, which cyclopts writes of every command's options, and the few lines of it that need a change. It is
static: completing a word starts no Python. File names are completed by the shell.
"""

# No "from __future__ import annotations" here: `of_options` annotates a function with a class that its caller passes.

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from pydantic import BaseModel

from clusterpaths.commands.help import HELP, HELP_ALL
from clusterpaths.commands.options import VERBOSE
from clusterpaths.commands.shell import command_parser, run_command

Shell = Literal["bash", "zsh", "fish"]

# What cyclopts 5 writes -> what is needed. A test runs each shell on the result.
CHANGES: dict[Shell, tuple[tuple[str, str], ...]] = {
    "bash": (
        # bash itself completes file names with quotes and a slash after directories, also where a word may be anything
        (r"COMPREPLY=\( \$\(compgen -f -- .*", "COMPREPLY=()"),
        (r"^complete -F", "complete -o default -F"),
        # only the first word is a command: a folder may be called images
        (r'\[\[ (" \$all_commands " =~)', r"[[ ${#cmd_path[@]} -eq 0 && \1"),
    ),
    # zsh calls the function that has the name of its file
    # and completes no text: an address of results is most often a directory
    "zsh": (("_cyclopts_clusterpaths", "_clusterpaths"), (r":cache-root'", ":cache-root:_files'")),
    "fish": ((r'if (string match -q -- .* " \$all_commands ")', r"if test (count $subcommands) -eq 0; and \1"),),
}


def script(shell: Shell, commands: Mapping[str, Callable[[], cyclopts.App]]) -> str:
    """The completion script of a shell.

    Args:
        shell: its name.
        commands: the parser of each command, by its name, made when it is called.
    """
    app = cyclopts.App(name="clusterpaths", help_flags=[*HELP, HELP_ALL], version_flags=["--version"])
    for name, parser in commands.items():
        app.command(parser(), name=name)
    found = app.generate_completion(shell=shell)
    for pattern, changed in CHANGES[shell]:
        found = re.sub(pattern, changed, found, flags=re.MULTILINE)
    return found


def of_options(name: str, text: str, model: type[BaseModel]) -> cyclopts.App:
    """A parser with the options of a configuration, and words of any number, which may be files."""

    def command(
        *files: Path,
        config: Annotated[model, cyclopts.Parameter(name="*")] = None,  # type: ignore[valid-type]
        verbose: Annotated[bool, cyclopts.Parameter(help=VERBOSE)] = False,
    ) -> None:
        """Is never called: only its signature is read."""

    app = cyclopts.App(name=name, help=text, default_parameter=cyclopts.Parameter(negative=()))
    app.default(command)
    return app


def parser(commands: Mapping[str, Callable[[], cyclopts.App]]) -> cyclopts.App:
    """The parser of `clusterpaths completion`.

    Args:
        commands: as `script`.
    """

    def completion(shell: Annotated[Shell, cyclopts.Parameter(help="bash, zsh or fish")], /) -> None:
        """Print the script that completes commands, options and file names; write it where the shell looks for it:

        - clusterpaths completion bash > ~/.local/share/bash-completion/completions/clusterpaths (of the package bash-completion)

        - clusterpaths completion zsh > "${fpath[1]}/_clusterpaths"

        - clusterpaths completion fish > ~/.config/fish/completions/clusterpaths.fish

        Then open a new shell. Write it again after an update.
        """
        sys.stdout.write(script(shell, commands))

    return command_parser("completion", completion, "SHELL")


def main(commands: Mapping[str, Callable[[], cyclopts.App]], argv: list[str]) -> None:
    """Run from a shell."""
    run_command(parser(commands), argv)
