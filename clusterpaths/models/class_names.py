"""Names of a model's classes, from a file that was named, the model's metadata or Hugging Face's config.json beside it.

Belongs here: reading names and where they came from. Whether they fit the output is decided in `find_outputs.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clusterpaths.common.corrupted import one_line, parse_json
from clusterpaths.errors import ConfigError, ModelError

CLASSES_KEY = "clusterpaths.classes"
METADATA = "the model's metadata"
GIVEN = "--class-names"
_CONFIG = "config.json"
_EXPECTED = 'Expected one name per line in the order of the model\'s outputs, or JSON such as ["cat", "dog"].'
_PLACEHOLDER = re.compile(r"(LABEL_)?\d+")  # numbers that stand for names are no names


def find_class_names(metadata: dict[str, str], path: Path, given: Path | None = None) -> tuple[tuple[str, ...], str]:
    """Class names and where they came from; both empty where there are none. Those of a `given` file replace all others.

    Raises:
        ConfigError: as `read_names`.
        ModelError: the entry in the metadata cannot be parsed.
    """
    if given is not None:
        return read_names(given), GIVEN
    if names := read_class_names(metadata, path):
        return names, METADATA
    if names := _config_names(path.parent / _CONFIG):
        return names, f"{_CONFIG} beside the model"
    return (), ""


def read_names(file: Path) -> tuple[str, ...]:
    """Names in the order of the model's outputs: one per line, a JSON list, or a JSON object number -> name.

    Raises:
        ConfigError: no such file, no names in it, an empty line between them, or numbers that do not count from 0.
    """
    try:
        text = file.expanduser().read_text(encoding="utf-8-sig").strip()
        found = parse_json(text) if text[:1] in ("[", "{") else text.splitlines()
        if isinstance(found, dict):
            numbered = {int(number): name for number, name in found.items()}
            found = [numbered[number] for number in range(len(numbered))]
    except OSError as error:
        raise ConfigError(f"{GIVEN} {file} cannot be read ({error.strerror}). Expected a text file.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{GIVEN} {file} has no names that can be parsed: {one_line(error)}. {_EXPECTED}") from error
    names = tuple(str(name).strip() for name in found)
    if not names or not all(names):
        at = names.index("") if names else 0
        what = f"no name for class {at}: name {at + 1} of {len(names)} is empty" if names else "no names"
        raise ConfigError(f"{GIVEN} {file} has {what}. {_EXPECTED}")
    return names


def read_class_names(metadata: dict[str, str], path: Path) -> tuple[str, ...]:
    """Class names from the model's metadata; empty where there are none.

    Raises:
        ModelError: the entry cannot be parsed.
    """
    text = metadata.get(CLASSES_KEY, "[]")
    try:
        names = parse_json(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ModelError(
            f"{path} has the metadata entry {CLASSES_KEY!r}, which cannot be parsed: {text[:80]!r}. "
            'Expected a JSON list of names, such as ["cat", "dog"]. Export the model again, or remove the entry.'
        )
    return tuple(str(name) for name in names)


def _config_names(config: Path) -> tuple[str, ...]:
    """id2label of transformers' PretrainedConfig; empty for any other file."""
    try:
        return names_by_number(parse_json(config.read_text(encoding="utf-8"))["id2label"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def names_by_number(found: Any) -> tuple[str, ...]:
    """The names of a mapping number -> name, by number from 0; empty for anything else, and for placeholders."""
    try:
        names = {int(number): str(name) for number, name in found.items()}
    except (ValueError, TypeError, AttributeError):
        return ()
    if sorted(names) != list(range(len(names))) or all(_PLACEHOLDER.fullmatch(name) for name in names.values()):
        return ()
    return tuple(names[number] for number in range(len(names)))
