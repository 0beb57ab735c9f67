"""Build the site in build/site: `make docs`, or `python docs/build_site.py` in an environment with the extra [docs].

Gathers the pages in build/docs: those of docs/, those that lie elsewhere in the checkout, and the executed notebooks. Links that
lead out of the pages become plain text, as the site has no copy of the code. Then mkdocs builds it, strictly.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "docs"
ELSEWHERE = {  # pages that lie where readers of the checkout look for them
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "deployments/README.md": "deployments.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(
    r"(?P<image>!?)\[(?P<label>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
)
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
COPIED = (".svg", ".png", ".css")


def pages() -> dict[str, str]:
    """Every page by its place in the site, with the path in the checkout that it is made of."""
    own = {file.relative_to(ROOT / "docs").as_posix(): file for file in sorted((ROOT / "docs").rglob("*"))}
    found = {place: f"docs/{place}" for place in own if place.endswith((".md", *COPIED))}
    found |= {place[: -len(".ipynb")] + ".md": f"docs/{place}" for place in own if place.endswith(".ipynb")}
    return found | {place: source for source, place in ELSEWHERE.items()}


def with_links_of_the_site(text: str, source: str, places: dict[str, str]) -> str:
    """The text of a page with its relative links as the site has them.

    Args:
        text: Markdown.
        source: the page's path in the checkout.
        places: the place in the site of each path in the checkout.
    """
    here = posixpath.dirname(places[source])

    def replaced(found: re.Match[str]) -> str:
        image, label, target, anchor = found["image"], found["label"], found["target"], found["anchor"] or ""
        label = LINK.sub(replaced, label)
        if not target or "://" in target:
            return f"{image}[{label}]({target}{anchor})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in places:
            return f"{image}[{label}]({posixpath.relpath(places[path], here or '.')}{anchor})"
        return label  # a file that the site does not have

    parts = FENCED.split(text)  # text and code, alternating
    parts[::2] = [LINK.sub(replaced, part) for part in parts[::2]]
    return "".join(parts)


def gather() -> None:
    """Write all pages into build/docs."""
    import notebooks  # nbclient, which reading links does not need

    shutil.rmtree(BUILT, ignore_errors=True)
    found = pages()
    places = {source: place for place, source in found.items()}
    for place, source in found.items():
        target = BUILT / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(COPIED):
            shutil.copyfile(ROOT / source, target)
            continue
        if source.endswith(".ipynb"):
            text = notebooks.as_markdown(notebooks.execute(ROOT / source), target.with_suffix(""))
        else:
            text = (ROOT / source).read_text(encoding="utf-8")
        if place == "index.md":
            text = "---\nhide: [navigation]\n---\n\n" + text
        target.write_text(with_links_of_the_site(text, source, places), encoding="utf-8")


def main() -> int:
    """Gather the pages and build the site; exit code."""
    gather()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    environment = {**os.environ, "SITE_FOOTER": f"ClusterPaths {version}", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
