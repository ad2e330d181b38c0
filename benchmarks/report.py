"""How large the page of a network is, how long it takes to make, and when a browser shows it.

    python benchmarks/report.py                              everything
    python benchmarks/report.py --networks zoo:resnet152 --runs 9
    python benchmarks/report.py --pages build/demo/report.html

Needs Playwright and Debian's chromium. Pages are made and opened in turns; medians of all rounds.

``make``: from the network to the text of its page, analysis included. ``first paint``: from the
navigation to the first contentful paint, as the browser says. ``ready``: to the end of the page's
own script, when the network is drawn and everything can be used. ``open all``: from the click that
opens every module to the next frame.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convsmith.graph import parse
from convsmith.portrait import portrait
from convsmith.report import html
from convsmith.sources import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHAIN = "chain-2000"
NETWORKS = ("zoo:resnet50", "zoo:unet", "zoo:resnet152", CHAIN)
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
READY = "performance.getEntriesByType('navigation')[0].domInteractive"
OPENED = """() => new Promise((done) => {
  const start = performance.now();
  document.getElementById("open-all").click();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


@dataclass(slots=True, kw_only=True)
class Times:
    """What was measured of one page, in milliseconds."""

    name: str
    layers: int = 0
    size: int = 0
    made: list[float] = field(default_factory=list)
    painted: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)


def chain(layers: int = 2000) -> str:
    """A network of that many layers, with convolutions, activations and poolings."""
    block = ["conv 16 3 p1", "relu", "conv 16 1", "relu"]
    return " > ".join(["3@64", *(block[place % 4] for place in range(layers))])


def page_of(name: str, times: Times) -> str:
    """Makes the page of a network, and says how long it took."""
    net = parse(chain()) if name == CHAIN else load(name, weights=False)
    start = time.perf_counter()
    content = html(portrait(net))
    times.made.append(1000 * (time.perf_counter() - start))
    times.layers = len(net.nodes)
    return content


def look(browser: Browser, file: Path, times: Times) -> None:
    """Opens a page in a browser that has seen nothing yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(file.as_uri())
    while (painted := page.evaluate(PAINTED)) is None:  # the page forbids scripts that wait for it
        time.sleep(0.02)
    times.painted.append(painted)
    times.ready.append(page.evaluate(READY))
    if page.locator("#open-all").count():
        times.opened.append(page.evaluate(OPENED))
    context.close()


def measured(networks: Sequence[str], pages: Sequence[Path], runs: int) -> list[Times]:
    """Every page, in turns."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("chromium is not installed; give apt-get install chromium")
    found = [Times(name=name) for name in (*networks, *map(str, pages))]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(runs):
            for times in found:
                file = Path(times.name)
                if times.name in networks:
                    file = Path(folder, "report.html")
                    file.write_text(page_of(times.name, times), "utf-8")
                times.size = file.stat().st_size
                look(browser, file, times)
        browser.close()
    return found


def table(found: Sequence[Times]) -> str:
    """One line a page."""

    def median(values: list[float], show: Callable[[float], str]) -> str:
        return show(statistics.median(values)) if values else "-"

    def milliseconds(value: float) -> str:
        return f"{value:.0f} ms"

    header = ("page", "layers", "size", "make", "first paint", "ready", "open all")
    rows: list[tuple[str, ...]] = [header]
    rows += [
        (
            each.name,
            f"{each.layers:,}" if each.layers else "-",
            f"{each.size / 1000:,.0f} kB",
            median(each.made, lambda value: f"{value / 1000:.2f} s"),
            *(median(some, milliseconds) for some in (each.painted, each.ready, each.opened)),
        )
        for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if not column else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--pages", nargs="*", type=Path, default=[], help="pages that exist")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    names = [name for name in options.networks.split(",") if name]
    print(table(measured(names, options.pages, options.runs)))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
