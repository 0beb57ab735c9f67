"""What tests of the server share: a results folder with all kinds of sets, served, and a real browser.

Sets: SampleFaces/set_01 (five layers, k=5, measured, with a series of windows) and set_02 (another seed) of 200 drawn faces;
Foreign/set_01, another program's, of three documents; Foreign/set_02, broken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.sets.published import open_set
from tests.evaluating import publish
from tests.server.watched import record_windows
from tests.serving import serving

MODEL = "SampleFaces"
EXAMPLES = 200


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; not to be changed."""
    root: Path = tmp_path_factory.mktemp("site")
    cache = root / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: root / "data")
        config = RunConfig(sample=True, sample_size=EXAMPLES, cache_root=cache)
        set_dir, job = publish(config)
        evaluate_set(open_set(set_dir), job)
        record_windows(open_set(set_dir))
        publish(config.model_copy(update={"seed": 1}))
    write_foreign(cache / "Foreign")
    return cache


def write_foreign(folder: Path) -> None:
    """A set as another program leaves it, without classes, images and distances; and one that cannot be read."""
    (folder / "set_01").mkdir(parents=True)
    paths = {f"example_{i:04d}": [i % 3, i % 2, i % 7 // 3] for i in range(60)}
    centroids = {layer: [[float(c), 1.0]] * k for layer, k in zip(("a", "b", "c"), (3, 3, 3), strict=True) for c in [0]}
    (folder / "set_01" / "paths.json").write_text(json.dumps(paths))
    (folder / "set_01" / "centroids.json").write_text(json.dumps(centroids))
    (folder / "metadata.json").write_text(json.dumps({"num_examples": 60, "layers": ["a", "b", "c"], "k": 3}))
    (folder / "set_02").mkdir()
    (folder / "set_02" / "paths.json").write_text("{")


@dataclass(frozen=True)
class Site:
    """The folder served. `set` is measured, `other` is of the same model and images; `foreign` is MODEL/SET."""

    url: str  # http://127.0.0.1:PORT
    root: Path
    model: str = MODEL
    set: str = "set_01"
    other: str = "set_02"
    foreign: str = "Foreign/set_01"
    layers: tuple[str, ...] = ("conv1", "conv2", "conv3", "fc1", "fc2")
    k: int = 5
    n: int = EXAMPLES

    @property
    def overview(self) -> str:
        return f"/explore/{self.model}/{self.set}"


@pytest.fixture(scope="session")
def site(results: Path) -> Iterator[Site]:
    """Started once; its folder is not to be changed."""
    with serving(results) as address:
        yield Site(address, results)


CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@dataclass
class Visit:
    """What a browser tells of one page: all that should not be there."""

    address: str
    page: Any
    problems: list[str] = field(default_factory=list)

    def listen(self) -> None:
        page = self.page
        page.on("console", lambda m: m.type in ("error", "warning") and self.problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", lambda r: r.status >= 400 and self.problems.append(f"{r.status}: {r.url}"))
        page.on("request", self._asked)

    def _failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # an image that was still loading when the page was left
            self.problems.append(f"failed: {request.url} {request.failure}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"another host: {request.url}")


@pytest.fixture(
    scope="module"
)  # as long as it is there, so is playwright's event loop: Prefect's functions would wait on it
def chromium() -> Iterator[Any]:
    """A real Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the system's package chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visitor(chromium: Any, site: Site) -> Iterator[Any]:
    """One browser's memory for a module: plotly is fetched and compiled once."""
    context = chromium.new_context(base_url=site.url, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def open_page(visitor: Any, site: Site) -> Iterator[Any]:
    """open_page(path, width=, scheme=) -> playwright's page; fails at the end if the browser complained of anything.

    The page has `seen`, a Visit: a test that expects a complaint takes it out of `seen.problems`.
    """
    opened: list[tuple[Any, Visit]] = []

    def start(path: str, width: int = 1440, scheme: str = "light") -> Any:
        page = visitor.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.seen = Visit(site.url, page)
        page.seen.listen()
        opened.append((page, page.seen))
        page.goto(path)
        return page

    yield start
    problems = [problem for _, seen in opened for problem in seen.problems]
    for page, _ in opened:
        page.close()
    assert problems == []


@pytest.fixture
def browser_page(open_page: Any) -> Any:
    """A page on the list of models, 1440 pixels wide, light."""
    return open_page("/")


def violations(page: Any) -> list[str]:
    """What axe finds, a line each with the first element; empty: nothing."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:160]}" for one in found]


SMALL = """() => [...document.querySelectorAll("a, button, input, select, summary")].filter((element) => {
  const box = element.getBoundingClientRect();
  const inText = getComputedStyle(element).display === "inline" && element.closest("p.lead, p.hint, .blank p, footer");
  return box.width && box.height && (box.width < 24 || box.height < 24) && !inText && !element.closest("label.box, svg");
}).map((element) => `small: ${element.outerHTML.slice(0, 120)}`)"""


def misfits(page: Any) -> list[str]:
    """What is too small for a finger (24 pixels), and whether the page is wider than the screen; empty: nothing."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*page.evaluate(SMALL), *([f"{wide} pixels too wide"] if wide > 0 else [])]
