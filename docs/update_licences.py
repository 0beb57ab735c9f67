"""Write the table of docs/licences.md, between its markers: `python docs/update_licences.py`, with all extras installed.

One row for each package of constraints.txt: its version, what brings it, and the licence that it declares. Packages that are
not installed here (those of `make wheel` and `make audit`) keep the row that the page has. A test fails while the two differ.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- licences: written by docs/update_licences.py -->", "<!-- /licences -->"
BASE, TOOLS = "base", "make wheel, make audit"

# What packages without an SPDX expression call their licence.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Those that declare several or none, as their licence files have it.
BY_HAND = {
    "axe-playwright-python": "MIT AND MPL-2.0",  # its own, and axe-core's
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "text-unidecode": "Artistic-1.0-Perl OR GPL-2.0-or-later",
}


def pinned() -> dict[str, tuple[str, str]]:
    """Name and version of each package of constraints.txt, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): (name, version) for name, version in pairs}


def licence(name: str) -> str | None:
    """The licence of an installed package, as an SPDX expression where it declares one; None: it is not installed.

    Raises:
        LookupError: it declares none that is understood.
    """
    if name in BY_HAND:
        return BY_HAND[name]
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if expression := found.get("License-Expression"):
        return str(expression)
    text = (found.get("License") or "").strip()
    first = text.splitlines()[0].strip() if text else ""
    classified = [entry.split(" :: ")[-1] for entry in found.get_all("Classifier") or [] if entry.startswith("License")]
    for said in (first, *classified):
        said = re.sub(r"\s+(Copyright|-).*", "", said).strip()
        if said in SPDX:
            return SPDX[said]
        if re.fullmatch(
            r"(MIT|ISC|BSD-\d-Clause|Apache-2\.0|MPL-2\.0|PSF-2\.0|LicenseRef-[\w-]+)( (AND|OR) \S+)*", said
        ):
            return said
    if {first, *classified} & {"BSD", "BSD License"}:
        return "BSD"  # which of them, only its licence file says
    raise LookupError(f"{name} declares the licence {first!r} {classified}: add it to SPDX or BY_HAND")


def brought_by() -> dict[str, str]:
    """The first of base, the extras in pyproject.toml's order, that brings a package, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {BASE: project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, str] = {}
    for group, requirements in groups.items():
        for name in _closure(Requirement(text) for text in requirements):
            found.setdefault(name, group)
    return found


def _closure(requirements: Iterable[Requirement]) -> Iterator[str]:
    own = "clusterpaths"  # extras that name other extras
    waiting = [one for one in requirements if canonicalize_name(one.name) != own and _applies(one, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        try:
            needs = [Requirement(text) for text in metadata.requires(key[0]) or ()]
        except metadata.PackageNotFoundError:
            continue
        waiting += [need for need in needs if _applies(need, key[1])]


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def rows(page: str) -> list[str]:
    """Of the table, in order of name."""
    before = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in _table(page) if line.count("|") == 5}
    brought, lines = brought_by(), []
    for key, (name, version) in sorted(pinned().items()):
        declared = licence(key) or before.get(name)
        if declared is None:
            raise LookupError(f"{name} is not installed, and the page has no row of it")
        lines.append(f"| {name} | {version} | {brought.get(key, TOOLS)} | {declared} |")
    return lines


def _table(page: str) -> list[str]:
    return page.partition(BEGIN)[2].partition(END)[0].splitlines()


def updated(page: str) -> str:
    """The page with its table as it should be."""
    head, _, rest = page.partition(BEGIN)
    table = "\n".join(["| Package | Version | Comes with | Licence |", "|---|---|---|---|", *rows(page)])
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
