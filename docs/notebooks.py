"""Execute the notebooks of docs/notebooks/, and write them as Markdown pages with their outputs.

They are committed without outputs; `docs/build_site.py` executes them, so a cell that fails ends the build.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
SECONDS = 600  # that a cell may take
LINE_UP = "\x1b[1A"
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # and other codes of a terminal


def execute(file: Path) -> Any:
    """The notebook with its outputs, run in an empty directory that also holds its results.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook_") as home:
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "CLUSTERPATHS_HOME": home, "PYTHONPATH": paths}
        client = NotebookClient(  # a progress line that is rewritten stays one line
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": home}},
            extra_arguments=["--log-level=ERROR"],  # it warns that its ports, on this machine, are not encrypted
        )
        client.execute(env=environment)
    return notebook


def as_markdown(notebook: Any, images: Path) -> str:
    """The page of an executed notebook.

    Args:
        notebook: with outputs.
        images: where pictures are written; the page lies beside this directory.
    """
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(_fenced("python", cell.source))
            parts += [text for output in cell.outputs if (text := _output(output, images))]
    return "\n\n".join(parts) + "\n"


def _output(output: Any, images: Path) -> str:
    """What a cell printed or showed."""
    if output.output_type == "stream":
        return _shown(output.text)
    data = output.get("data", {})
    if "text/html" in data:
        lines: Iterable[str] = filter(str.strip, data["text/html"].splitlines())  # a blank line would end the block
        return '<div class="output">\n' + "\n".join(lines) + "\n</div>"
    if "image/svg+xml" in data:
        return '<div class="output">\n' + "\n".join(filter(str.strip, data["image/svg+xml"].splitlines())) + "\n</div>"
    if "image/png" in data:
        images.mkdir(parents=True, exist_ok=True)
        file = images / f"{len(list(images.iterdir()))}.png"
        file.write_bytes(base64.b64decode(data["image/png"]))
        return f"![Output of the cell above]({images.name}/{file.name})"
    return _shown(data["text/plain"]) if "text/plain" in data else ""


def _shown(text: str) -> str:
    """As a terminal shows it: without colours, and only the last state of a line that was rewritten."""
    lines: list[str] = []
    for line in text.splitlines():
        if erased := line.count(LINE_UP):
            del lines[-erased:]
        lines.append(COLOURS.sub("", line).rstrip("\r").rpartition("\r")[2].rstrip())
    return _fenced("text", "\n".join(lines).strip("\n"), "output")


def _fenced(language: str, text: str, name: str = "") -> str:
    heading = f"{{.{language} .{name}}}" if name else language
    return f"```{' ' if name else ''}{heading}\n{text}\n```" if text else ""
