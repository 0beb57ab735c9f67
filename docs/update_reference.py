"""Write the generated parts of docs/reference/, between their markers: `python docs/update_reference.py`.

Options come from the commands as their own parsers read them, the HTTP API from the server's OpenAPI schema. A test fails while a
page and the code differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts

from clusterpaths.commands import main as library
from clusterpaths.commands.help import MANY, PANELS
from flows.cli import COMMANDS, FLOWS, MODULES

REFERENCE = Path(__file__).resolve().parent / "reference"
ORDER = (
    "run", "sample", "activations", "celeba", "images", "recluster", "compare", "inspect", "explain", "names", "name",
    "export", "serve", "mcp", "find", "monitor", "gate", "accepted", "train", "announce",
    "completion",
)  # fmt: skip
LIKE_RUN = ("sample", "celeba", "images")  # take the options of `run`, but for a few
OF_A_SET = "/api/v1/models/{model}/sets/{set}"
PARSERS = library.parsers(COMMANDS, MODULES, library.OPTIONS | FLOWS)
GROUPS = {
    "sets": "Models and sets",
    "routes": "The Sankey",
    "clusters": "Clusters",
    "paths": "Cluster paths",
    "examples": "Examples",
    "find": "Data work",
    "map": "The map",
    "names": "Names of clusters and paths",
    "monitoring": "Monitoring",
    "explain": "One image",
    "compare": "Two sets",
    "contract": "Addresses of existing dashboards",
}


# Commands -----------------------------------------------------------------------------------------------------------


def commands() -> str:
    """A heading and tables of options for each command."""
    return "\n\n".join(f"## clusterpaths {name}\n\n{_sentence(COMMANDS[name])}\n\n{options(name)}" for name in ORDER)


def options(command: str) -> str:
    """Markdown tables with a row for each argument and option of a command; of those like `run`, what differs from it."""
    rows = _rows(command)
    if command in LIKE_RUN:
        of_run = _rows("run")
        text = "The options of [clusterpaths run](#clusterpaths-run)"
        if missing := [f"`--{name.replace('_', '-')}`" for name in of_run if name not in rows]:
            text += f" without {', '.join(missing)}"
        return f"{text}, and these:\n\n" + _table([row for name, row in rows.items() if row != of_run.get(name)])
    if len(rows) < MANY:
        return _table(list(rows.values()))
    known = {field for fields in PANELS.values() for field in fields}
    panels = {**PANELS, "Other": tuple(name for name in rows if name not in known)}
    return "\n\n".join(
        f"**{title}**\n\n{_table(found)}"
        for title, fields in panels.items()
        if (found := [rows[name] for name in fields if name in rows])
    )


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | default | what it is |", "|---|---|---|", *rows])


def _rows(command: str) -> dict[str, str]:
    """A row of a table for each argument and option, by the name of its field."""
    found = PARSERS[command]().assemble_argument_collection()
    shown = [one for one in found if one.show and one.names != ("*",) and one.field_info.kind.name != "VAR_POSITIONAL"]
    return {_field(one): _row(one) for one in shown}


def _field(one: cyclopts.Argument) -> str:
    """The field behind an option: with several names, behind its last positive one."""
    names = [name for name in one.names if name not in one.negatives]
    return names[-1].removeprefix("--").replace("-", "_")


def _row(one: cyclopts.Argument) -> str:
    positional = "POSITIONAL" in one.field_info.kind.name
    names = [one.names[0].removeprefix("--").upper()] if positional else one.names
    spelling = " ".join(f"`{name}`" for name in names)
    if choices := one.get_choices():
        spelling += " " + " \\| ".join(choices)
    return f"| {spelling} | {_default(one)} | {_cell(one.parameter.help or one.field_info.help or '')} |"


def _default(one: cyclopts.Argument) -> str:
    default, text = (
        one.field_info.default,
        one.parameter.help or one.field_info.help or "",
    )
    if one.required:
        return "required"
    if text.endswith("]") or default in (None, ()) or not isinstance(default, bool | int | float | str):
        return ""  # text in brackets at the end says what is used
    return {True: "on", False: "off"}[default] if isinstance(default, bool) else str(default)


# HTTP API -----------------------------------------------------------------------------------------------------------


def http_api() -> str:
    """A heading for each group of addresses, and for each address what it takes and returns; then the records."""
    from clusterpaths.server.app import create_app
    from clusterpaths.server.settings import ServeConfig

    schema = create_app(ServeConfig()).openapi()
    groups: dict[str, list[str]] = {}
    for address, operations in schema["paths"].items():
        for method, operation in operations.items():
            group = operation["tags"][0]
            groups.setdefault(group, []).append(_operation(f"{method.upper()} {address}", operation))
    last = groups.pop("contract")
    parts = [f"## {GROUPS[name]}\n\n" + "\n\n".join(found) for name, found in groups.items()]
    parts.append(f"## {GROUPS['contract']}\n\n" + "\n\n".join(last))
    records = [
        _record(name, one) for name, one in sorted(schema["components"]["schemas"].items()) if "Body_" not in name
    ]
    parts.append("## Records\n\n" + "\n\n".join(records))
    return "\n\n".join(parts)


def _operation(title: str, operation: dict[str, Any]) -> str:
    short = title.replace(f"{OF_A_SET}/", "…/")
    text = [
        f"### `{short}`",
        *([] if short == title else [f"`{title}`"]),
        _sentence(operation.get("description") or operation["summary"]),
    ]
    if rows := [_parameter(one) for one in operation.get("parameters", []) if one["in"] == "query"]:
        text.append("| parameter | type | default | what it is |\n|---|---|---|---|\n" + "\n".join(rows))
    if body := operation.get("requestBody"):
        [(kind, content)] = body["content"].items()
        text.append(f"Takes {'a form with the file `image`' if 'form' in kind else _type(content['schema'])}.")
    answers = operation["responses"]["200"]["content"]
    kinds = [
        _type(one["schema"]) if kind == "application/json" and one.get("schema") else kind
        for kind, one in answers.items()
    ]
    text.append(f"Returns {' or '.join(kinds)}.")
    return "\n\n".join(text)


def _parameter(one: dict[str, Any]) -> str:
    shape = one["schema"]
    default = shape.get("default")
    shown = "required" if one.get("required") else "" if default in (None, [], "") else f"`{default}`"
    return f"| `{one['name']}` | {_type(shape)} | {shown} | {_cell(one.get('description', ''))} |"


def _record(name: str, shape: dict[str, Any]) -> str:
    rows = [
        f"| `{field}` | {_type(one)} | {_cell(one.get('description', ''))} |"
        for field, one in shape.get("properties", {}).items()
    ]
    text = f"### {name}\n\n"
    if shape.get("description"):
        text += _sentence(shape["description"].split("\n\n")[0]) + "\n\n"
    return text + "| field | type | what it is |\n|---|---|---|\n" + "\n".join(rows)


def _type(shape: dict[str, Any]) -> str:
    """A type of the schema in words; records link to their table."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in shape:
        return " or ".join(dict.fromkeys(_type(one) for one in shape["anyOf"]))
    if "enum" in shape:
        return ", ".join(f"`{one}`" for one in shape["enum"])
    if shape.get("type") == "array":
        return "list of " + _type(shape["items"]) if "items" in shape else "list"
    if isinstance(values := shape.get("additionalProperties"), dict):
        return f"object of {_type(values)}"
    return str(shape.get("type", "any"))


# Pages --------------------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    """With a capital and a full stop, on one line."""
    line = re.sub(r"\s+", " ", text.strip())
    return line[0].upper() + line[1:] + ("" if line.endswith((".", "!", "?")) else ".")


def _cell(text: str) -> str:
    """As a cell of a table: on one line; no pipe, and no star or angle bracket that Markdown would read."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "http_api": http_api}


def updated(page: str, text: str) -> str:
    """The text of docs/reference/PAGE.md with its generated part as the code says."""
    start, end = f"<!-- generated: {page} -->\n", f"\n<!-- end of generated: {page} -->"
    before, found, rest = text.partition(start)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise SystemExit(f"error: docs/reference/{page}.md has no markers of its generated part")
    return before + start + "\n" + PARTS[page]() + "\n" + end + after


if __name__ == "__main__":
    for page in PARTS:
        file = REFERENCE / f"{page}.md"
        file.write_text(updated(page, file.read_text(encoding="utf-8")), encoding="utf-8")
