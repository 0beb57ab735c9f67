"""Write the options of the flows into README.md, between its markers: `python docs/update_readme.py`.

A test fails while README.md and the options differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args, get_origin

from cyclopts import Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clusterpaths.commands.explain import ExplainConfig
from clusterpaths.commands.export import ExportConfig
from clusterpaths.comparison.compare import CompareConfig
from clusterpaths.config import RunConfig
from clusterpaths.server.settings import ServeConfig
from clusterpaths.training.train import TrainConfig
from flows.options import ReclusterConfig

README = Path(__file__).resolve().parent.parent / "README.md"
TABLES: dict[str, type[BaseModel]] = {
    "celeba": RunConfig,
    "recluster": ReclusterConfig,
    "compare": CompareConfig,
    "explain": ExplainConfig,
    "export": ExportConfig,
    "train": TrainConfig,
    "serve": ServeConfig,
}


def options(model: type[BaseModel]) -> str:
    """A Markdown table with a row for each field."""
    lines = ["| option | default | what it is |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if any(isinstance(entry, Parameter) and entry.show is False for entry in field.metadata):
            continue
        lines.append(f"| {_spelling(name, field)}{_choices(field)} | {_default(field)} | {field.description} |")
    return "\n".join(lines)


def _spelling(name: str, field: FieldInfo) -> str:
    """As the command line has it: a name of its own, and what turns it off."""
    own = next((entry for entry in field.metadata if isinstance(entry, Parameter)), Parameter())
    names = [*(own.name or [f"--{name.replace('_', '-')}"]), *(own.negative or [])]
    return " ".join(f"`{one}`" for one in names)


def _choices(field: FieldInfo) -> str:
    words: list[str] = []
    for annotation in (field.annotation, *get_args(field.annotation)):
        if get_origin(annotation) is Literal:
            words += map(str, get_args(annotation))
    return " " + " \\| ".join(words) if words else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default in (None, ()):
        return ""
    return {True: "on", False: "off"}[field.default] if isinstance(field.default, bool) else str(field.default)


def updated(text: str) -> str:
    """README.md's text with the tables as the code says."""
    for name, model in TABLES.items():
        start, end = f"<!-- options of {name} -->\n", f"\n<!-- end of options of {name} -->"
        before, found, rest = text.partition(start)
        _, also_found, after = rest.partition(end)
        if not (found and also_found):
            raise SystemExit(f"error: README.md has no markers for the options of {name}")
        text = before + start + options(model) + end + after
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
