"""The documentation site: what is generated is what the code says; pages are gathered with links that lead somewhere.

The site itself, and the notebooks in it, are built and executed by `make docs`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import clusterpaths
from clusterpaths.commands.explain import ExplainConfig
from clusterpaths.commands.export import ExportConfig
from clusterpaths.comparison.compare import CompareConfig
from clusterpaths.config import RunConfig
from clusterpaths.server.settings import ServeConfig
from clusterpaths.training.train import TrainConfig
from flows.cli import COMMANDS
from flows.options import ReclusterConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"


def script(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = script("update_reference")


@pytest.mark.parametrize("page", REFERENCE.PARTS)
def test_the_reference_is_what_the_code_says(page: str) -> None:
    text = (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8")
    assert REFERENCE.updated(page, text) == text, "run python docs/update_reference.py"


def test_every_command_has_its_options_in_the_reference() -> None:
    assert set(REFERENCE.ORDER) == set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("celeba", RunConfig),
        ("recluster", ReclusterConfig),
        ("compare", CompareConfig),
        ("explain", ExplainConfig),
        ("export", ExportConfig),
        ("train", TrainConfig),
        ("serve", ServeConfig),
    ],
)
def test_every_field_is_an_option_with_its_description(command: str, config: type[RunConfig]) -> None:
    text = REFERENCE.options(command) + (REFERENCE.options("run") if command == "celeba" else "")
    shown = {name: field for name, field in config.model_fields.items() if not hidden(field)}
    assert len(shown) >= 3
    for name, field in shown.items():
        described = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|").replace("*", "\\*")
        assert f"| {described} |" in text, name


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    homes = {name: f"::: clusterpaths.{module}.{name}" for name, module in clusterpaths._HOMES.items()}
    assert [line for name, line in homes.items() if line not in page and f"`cp.{name}` holds" not in page] == []


def test_a_default_is_shown_unless_the_description_says_what_is_used() -> None:
    rows = {line.split("`")[1]: line.split(" | ")[1] for line in REFERENCE.options("run").splitlines() if "`--" in line}
    assert rows["--k"] == "5"
    assert rows["--evaluation-images"] == "150"
    assert rows["--check-preprocessing"] == "on"
    assert rows["--workers"] == ""  # of this machine


def test_headings_of_the_reference_differ() -> None:
    """Links to a record lead to it, not to a group of the same name."""
    for page in REFERENCE.PARTS:
        titles = re.findall(r"^#+ (.*)$", (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
        assert sorted(set(anchors)) == sorted(anchors)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("README.md", "[a](docs/models.md#x)", "[a](models.md#x)"),
        ("README.md", "![a](docs/images/report.png)", "![a](images/report.png)"),
        ("README.md", "[b](deployments/README.md)", "[b](deployments.md)"),
        ("README.md", "[`pipeline.py`](clusterpaths/pipeline.py) first", "`pipeline.py` first"),
        ("docs/tutorials/celeba.md", "[a](../models.md)", "[a](../models.md)"),
        ("docs/tutorials/celeba.md", "[b](../../deployments/README.md)", "[b](../deployments.md)"),
        ("docs/models.md", "[n](notebooks/sample.ipynb)", "[n](notebooks/sample.md)"),
        ("docs/notebooks/sample.ipynb", "[n](pytorch_model.ipynb)", "[n](pytorch_model.md)"),
        ("docs/models.md", "[w](https://example.org) [h](#here)", "[w](https://example.org) [h](#here)"),
        ("docs/models.md", "```python\nx[0](y)\n```", "```python\nx[0](y)\n```"),
        ("deployments/README.md", "[y](../prefect.yaml)", "y"),
    ],
)
def test_links_of_the_checkout_become_links_of_the_site(source: str, text: str, expected: str) -> None:
    site = script("build_site")
    places = {source: place for place, source in site.pages().items()}
    assert site.with_links_of_the_site(text, source, places) == expected


@pytest.mark.parametrize("file", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_notebooks_are_committed_without_outputs(file: Path) -> None:
    cells = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"]] == []


def test_outputs_of_a_cell_become_a_page(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", text="gone\n\x1b[1A\x1b[2K10%\r\x1b[32m100%\x1b[0m\nlast"),
        v4.new_output("display_data", data={"text/html": "<b>a</b>\n\n<b>c</b>"}),
        v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="}),
        v4.new_output("execute_result", data={"text/plain": "5"}),
    ]
    cell = v4.new_code_cell("f()", outputs=outputs)
    page = script("notebooks").as_markdown(
        v4.new_notebook(cells=[v4.new_markdown_cell("# T"), cell]), tmp_path / "page"
    )
    assert page.startswith("# T\n\n```python\nf()\n```\n\n")
    assert "\n100%\nlast\n" in page
    assert "10%\r" not in page
    assert "gone" not in page
    assert "<b>a</b>\n<b>c</b>" in page
    assert "(page/0.png)" in page
    assert (tmp_path / "page" / "0.png").read_bytes() == b"\x89PNG\r\n\x1a\n"


def hidden(field: object) -> bool:
    """Whether the command line does not show this field."""
    return any(getattr(entry, "show", None) is False for entry in field.metadata)  # type: ignore[attr-defined]
