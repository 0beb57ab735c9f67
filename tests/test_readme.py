"""The README says what the code does."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

from flows.cli import COMMANDS
from tests.generated_set import generate

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_options_in_the_readme_are_those_of_the_code() -> None:
    updated = runpy.run_path(str(ROOT / "docs" / "update_readme.py"))["updated"]
    assert updated(README) == README, "run python docs/update_readme.py"


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_of_the_readme_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make (\w+)`", README))
    assert {"sample", "test"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_python_that_reads_a_set_runs_with_what_is_installed(tmp_path: Path) -> None:
    [code] = [
        block for block in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if "parquet" in block
    ]
    generate(tmp_path / "activation_cache", n=50)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'conv1'" in done.stdout
    assert done.stdout.endswith(" 50\n")


def test_every_command_of_the_readme_is_one() -> None:
    named = set(re.findall(r"\bclusterpaths ([a-z]+)(?: |`|$)", README, re.MULTILINE))
    assert {"images", "inspect", "serve"} <= named
    assert named <= set(COMMANDS)
