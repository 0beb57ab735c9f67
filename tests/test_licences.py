"""docs/licences.md has every package of constraints.txt, and the SBOM every package of the environment."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# What may be installed without a decision: permissive, or limited to changes of the package's own files.
KNOWN = {
    "0BSD", "Apache-2.0", "Artistic-1.0-Perl", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python",
    "GPL-2.0-or-later", "ISC", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
    "LicenseRef-NVIDIA-Proprietary",
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_licences", ROOT / "docs" / "update_licences.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(script: ModuleType) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in script._table(script.PAGE.read_text(encoding="utf-8"))]
    return {canonicalize_name(cells[0]): cells[1:] for cells in lines[3:] if len(cells) == 4}


def test_the_page_is_what_the_script_writes(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.updated(text) == text, "run python docs/update_licences.py"


def test_every_package_that_is_asked_for_is_pinned_and_on_the_page(table: dict[str, list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {canonicalize_name(Requirement(one).name) for group in groups for one in group} - {"clusterpaths"}
    assert len(asked) > 50
    unbound = {"setuptools"}  # builds the wheel; of the environment
    assert asked - unbound - set(table) == set(), "add it to constraints.txt, then run docs/update_licences.py"


def test_a_licence_that_nobody_decided_on_is_not_on_the_page(table: dict[str, list[str]]) -> None:
    assert len(table) > 300
    for name, (_, _, licence) in table.items():
        terms = {term for term in re.split(r"[()\s]+", licence) if term not in ("", "AND", "OR", "WITH")}
        assert terms <= KNOWN, (name, licence)
        # a choice has to leave one that is no GPL
        assert any("GPL" not in choice for choice in licence.split(" OR ")), (name, licence)


def test_what_is_proprietary_comes_with_torch_alone(table: dict[str, list[str]]) -> None:
    found = {group for _, group, licence in table.values() if licence.startswith("LicenseRef-")}
    assert found == {"torch"}


def test_a_package_without_a_licence_that_is_understood_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Package(dict[str, str]):
        def get_all(self, _: str) -> list[str]:
            return []

    monkeypatch.setattr(script.metadata, "metadata", lambda _: Package(License="Ask our lawyer"))
    with pytest.raises(LookupError, match="Ask our lawyer"):
        script.licence("new")


def test_the_sbom_is_valid_and_has_every_package_of_the_base_installation(
    script: ModuleType, table: dict[str, list[str]], tmp_path: Path
) -> None:
    made = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    options = ["--output-reproducible", "--validate", "--output-format", "JSON", "--output-file", str(made)]
    done = subprocess.run([*command, *options, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(made.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "clusterpaths"
    found = {canonicalize_name(one["name"]): one["version"] for one in document["components"]}
    base = {name for name, (_, group, _) in table.items() if group == "base"}
    assert len(base) > 20
    assert base - set(found) == set()
    assert all(found[name] == metadata.version(name) for name in base)
    assert "sbom:" in (ROOT / "Makefile").read_text()
