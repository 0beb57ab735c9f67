"""The README and the pages of docs/ say what the code does, and lead where they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import clusterpaths
from clusterpaths.report.terminal import next_steps, result_rows
from flows.cli import COMMANDS
from tests.generated_set import generate

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
    for file in (
        ROOT / "README.md",
        ROOT / "deployments" / "README.md",
        ROOT / "benchmarks" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "docs").rglob("*.ipynb")),
    )
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_readme_is_short_and_shows_a_picture() -> None:
    assert len(README.splitlines()) <= 150
    first = README.index("![")
    assert README[:first].count("\n") <= 5
    assert all((ROOT / "docs" / "images").iterdir())
    assert {
        file.name: size for file in (ROOT / "docs" / "images").iterdir() if (size := file.stat().st_size) > 200_000
    } == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_heading_that_a_page_links_to_is_there(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = []
    for link in links:
        path, _, anchor = link.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in headings(file)):
            missing.append(link)
    assert missing == []


def test_pages_have_links() -> None:
    assert len([link for text in PAGES.values() for link in LINK.findall(text) if "://" not in link]) > 150


def test_what_the_sample_ends_with_has_the_rows_of_a_run(tmp_path: Path) -> None:
    block = README.partition("The first one ends with")[2].partition("So the path alone")[0]
    shown = [line[4:].partition("  ")[0] for line in block.splitlines() if re.match(r"    \w.*?  ", line)]
    generate(tmp_path / "activation_cache", n=50)
    published = clusterpaths.load(next((tmp_path / "activation_cache").iterdir()))
    printed = result_rows(published, None, new=True, seconds=1.0)  # that set is not evaluated
    assert [name for name in shown if name != "decision alignment"] == list(printed)
    [step] = next_steps(published)
    assert step.partition(" --cache-root")[0] in block


def test_every_make_target_of_the_pages_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for text in PAGES.values()
        for target in re.findall(r"(?:`|^    |^)make (\w+)(?:`|  )", text, re.MULTILINE)
    }
    assert {"sample", "serve", "test", "docs"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_python_that_reads_a_set_runs_with_what_is_installed(tmp_path: Path) -> None:
    [code] = [block for block in python_of("docs/reference/documents.md") if "parquet" in block]
    generate(tmp_path / "activation_cache", n=50)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'conv1'" in done.stdout
    assert done.stdout.endswith(" 50\n")


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_the_python_of_a_page_is_python(page: str) -> None:
    for code in python_of(page):
        compile(code, page, "exec")


def test_every_command_of_the_pages_is_one() -> None:
    named = {
        name
        for text in PAGES.values()
        for name in re.findall(r"(?<!import )\bclusterpaths ([a-z]+)(?: |`|$)", text, re.MULTILINE)
    }
    assert {"images", "inspect", "serve"} <= named
    assert named <= set(COMMANDS)


def headings(file: Path) -> set[str]:
    """The anchors of a page: of its headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def python_of(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
