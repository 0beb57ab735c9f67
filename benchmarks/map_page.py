"""The map page in headless Chromium without a graphics card, at CelebA's full size: 202,599 examples, five layers.

Belongs here: the first picture, frames per second while zooming, how long every view takes to follow a filter, and what is
transferred. The set is the tests' generated one; the server and the browser share the cores.

    python benchmarks/map_page.py                  results/map_page.json: two minutes
    python benchmarks/map_page.py --quick --out DIRECTORY      few examples: a check that it works
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
from load import free_port, served
from machine import PROJECT, RESULTS, describe_machine

sys.path.insert(0, str(PROJECT))  # the generator of large sets is the tests'

from tests.generated_set import CELEBA, generate, write_random_maps

TARGETS = {"first_picture_ms": 1500, "frames_per_second": 30, "filter_ms": 100}
MODES = {  # how pages are put on the screen without a graphics card
    "headless": ("--no-sandbox",),
    "swiftshader": ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
}
STATE = "document.querySelector('#map')?.dataset.state"
FRAMES = """async (seconds) => {
  const canvas = document.querySelector("#map-canvas"), box = canvas.getBoundingClientRect();
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  const start = performance.now();
  let frames = 0;
  while (performance.now() - start < 1000 * seconds) {
    const at = { clientX: box.left + box.width / 2 + 40 * Math.sin(frames / 9), clientY: box.top + box.height / 2 };
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 40 * Math.cos(frames++ / 12), cancelable: true, ...at }));
    await frame();
  }
  return frames / ((performance.now() - start) / 1000);
}"""
FILTERS = "performance.getEntriesByName('map-filter').map((one) => one.duration)"
BYTES = "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)"


def visit(browser: Any, url: str, seconds: float) -> dict[str, Any]:
    """One visit in a new profile: nothing is cached in the browser."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})  # processor time, whatever else runs
    page.goto(url)
    deadline = time.monotonic() + 60
    while page.evaluate(STATE) != "ready":
        if time.monotonic() > deadline or page.evaluate(STATE) == "failed":
            raise RuntimeError(f"{url} was not drawn: {page.evaluate(STATE)}")
        time.sleep(0.05)
    found = {
        "first_picture_ms": page.evaluate("performance.getEntriesByName('map-first-picture')[0].startTime"),
        "transferred_bytes": page.evaluate(BYTES),
    }
    before = _processor_ms(meter)
    found["frames_per_second"] = page.evaluate(FRAMES, seconds)
    found["frame_processor_ms"] = (_processor_ms(meter) - before) / (seconds * found["frames_per_second"])
    before = _processor_ms(meter)
    found["brush_ms"] = _measured(page, lambda: _brush(page))
    found["brush_processor_ms"] = (_processor_ms(meter) - before) / len(found["brush_ms"])
    found["class_ms"] = _measured(page, lambda: page.locator("button.map-entry").first.click())
    page.locator("#map-clear").click()
    found["lasso_ms"] = _measured(page, lambda: _lasso(page))
    page.close()
    return found


def _processor_ms(meter: Any) -> float:
    """Of the page's main thread until now."""
    metrics = {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}
    return 1000 * float(metrics["TaskDuration"])


def _measured(page: Any, act: Any) -> list[float]:
    before = len(page.evaluate(FILTERS))
    act()
    page.wait_for_timeout(400)
    durations: list[float] = page.evaluate(FILTERS)[before:]
    return durations


def _brush(page: Any) -> None:
    """Drag over the histogram of the OOD score."""
    chart = page.locator(".map-range svg").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.down()
    for step in range(25):
        page.mouse.move(box["x"] + (0.22 + 0.02 * step) * box["width"], y)
        page.wait_for_timeout(60)
    page.mouse.up()


def _lasso(page: Any) -> None:
    """A circle of 48 corners around the middle."""
    canvas = page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    page.locator("#map-lasso").click()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    around = [(middle[0] + 120 * _cos(i), middle[1] + 120 * _cos(i - 12)) for i in range(48)]
    page.mouse.move(*around[0])
    page.mouse.down()
    for place in around[1:]:
        page.mouse.move(*place)
    page.mouse.up()


def _cos(step: int) -> float:
    return math.cos(2 * math.pi * step / 48)


def summary(visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of all visits; of the first mode, the first visit opens the set on the server."""
    flat = {name: [value for one in visits for value in one[name]] for name in ("brush_ms", "class_ms", "lasso_ms")}
    return {
        "first_picture_of_first_visit_ms": round(visits[0]["first_picture_ms"]),
        **{
            name: round(statistics.median(one[name] for one in visits), 1)
            for name in (
                "first_picture_ms",
                "frames_per_second",
                "frame_processor_ms",
                "brush_processor_ms",
                "transferred_bytes",
            )
        },
        **{
            name: {"median": round(statistics.median(values), 1), "largest": round(max(values), 1), "of": len(values)}
            for name, values in flat.items()
            if values
        },
    }


def main(*, quick: bool = False, out: Path = RESULTS, visits: int = 3) -> None:
    """Measure, and write map_page.json.

    Parameters
    ----------
    quick
        2,000 examples, one visit
    out
        directory of the results
    visits
        how often the page is opened
    """
    from playwright.sync_api import sync_playwright

    examples, visits, seconds = (2000, 1, 0.3) if quick else (CELEBA, visits, 4.0)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    result: dict[str, Any] = {**describe_machine(), "examples": examples, "targets": TARGETS}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        work = Path(temporary)
        write_random_maps(generate(work / "cache", n=examples))
        port = free_port()
        command = [sys.executable, "-m", "clusterpaths.commands.serve", "--cache-root", str(work / "cache")]
        with served(command, port, work / "server.log"):
            url = f"http://127.0.0.1:{port}/explore/CelebA/set_01/map"
            for name, arguments in MODES.items():
                browser = playwright.chromium.launch(executable_path=chromium, args=list(arguments))
                result["browser"] = browser.version
                result[name] = summary([visit(browser, url, seconds) for _ in range(visits)])
                browser.close()
    out.mkdir(parents=True, exist_ok=True)
    (out / "map_page.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "versions"}, indent=1))


if __name__ == "__main__":
    cyclopts.run(main)
