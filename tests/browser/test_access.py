"""Every kind of page for people who read with other eyes, or work with keys alone.

The rules are those of axe-core, which looks at a page as it stands: names and roles, contrast,
the order of headings. What keys do is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser import pages

from convsmith import report

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from tests.browser.pages import Open

CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8").split("\n", 1)[1]
"""Of every text, also of those whose background axe-core cannot tell."""

KINDS: list[Callable[[], str]] = [
    make for name, make in sorted(vars(pages).items()) if name.endswith("_page")
]


@cache
def axe() -> str:
    """The rules, as a script that nothing downloads."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")


def complaints(page: Page) -> list[str]:
    """What axe-core finds: the rule, the element, and why."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe())
    found: list[dict[str, Any]] = page.evaluate(
        "axe.run({ resultTypes: ['violations'] }).then((found) => found.violations)"
    )
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


def open_everything(page: Page) -> None:
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


@pytest.mark.parametrize("make", KINDS)
def test_everyone_can_read_it(opened: Open, make: Callable[[], str]) -> None:
    page = opened(make(), color_scheme="light")
    open_everything(page)
    papers = set()
    for _ in range(2):
        assert complaints(page) == []
        assert page.evaluate(CONTRAST) == []
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.click("button.theme")
    assert len(papers) == 2


def test_every_kind_of_page_is_looked_at() -> None:
    folder = Path(report.__file__).parent / "as_page"
    sources = "".join(file.read_text("utf-8") for file in folder.glob("*.py"))
    templates = set(re.findall(r'page\(\s*"(\w+)\.html"', sources))
    names = {make.__name__ for make in KINDS}
    # Comparisons have two kinds of pages, arrangements and networks; one page is for all rules.
    assert names == {f"{template}_page" for template in templates} | {"networks_page"}


def test_the_help_can_be_read(opened: Open) -> None:
    page = opened(pages.portrait_page())
    page.keyboard.press("?")
    assert complaints(page) == []


def test_the_rules_can_fail(opened: Open) -> None:
    page = opened(pages.sweep_page(), color_scheme="light")
    page.evaluate("document.querySelector('h1').style.color = '#d0d0d0'")
    page.evaluate("document.documentElement.removeAttribute('lang')")
    page.evaluate("document.querySelector('button.theme').ariaLabel = ''")
    page.evaluate("document.querySelector('button.theme').textContent = ''")
    rules = {found.split(":")[0] for found in complaints(page)}
    assert rules >= {"color-contrast", "html-has-lang", "button-name"}
    assert any("h1" in found.lower() for found in page.evaluate(CONTRAST))


# Keys ------------------------------------------------------------------------------------


def reached(page: Page, most: int = 400) -> list[str]:
    """What the tab key comes to, in its order, until it leaves the page or comes round."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "(() => { const at = document.activeElement; if (at === document.body) return null;"
            " if (at.dataset.reached) return null; at.dataset.reached = 'true';"
            " return at.id || at.getAttribute('aria-label') || at.textContent; })()"
        )
        if place is None:
            break
        found.append(place)
    return found


def test_the_tab_key_goes_through_the_page_in_the_order_of_reading(opened: Open) -> None:
    page = opened(pages.optimization_page())
    found = reached(page)
    wanted = [
        *("Switch to dark colors", "Result", "Network", "help-button"),
        f"{pages.HOSTILE}: from the rewritten to the original output",
        *("search", "open-all", "graph", "table", "depth", "image-stage", "map-stage", "anchors"),
    ]
    places = [found.index(each) for each in wanted if each != "open-all"]
    assert places == sorted(places)
    everything = page.evaluate(
        "[...document.querySelectorAll('button, a[href], input, summary, [tabindex=\"0\"]')]"
        ".filter((each) => each.checkVisibility() && each.tabIndex >= 0).length"
    )
    assert len(found) == everything  # nothing is left out, and nothing holds the key


def test_whatever_has_the_keys_is_seen_to_have_them(opened: Open) -> None:
    page = opened(pages.optimization_page())
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"


def test_keys_sort_a_table(opened: Open) -> None:
    page = opened(pages.analysis_page())
    heading = page.locator("#table ~ .scroll th button").nth(4)
    heading.focus()
    for key, order in (("Enter", "descending"), ("Space", "ascending"), ("Enter", None)):
        page.keyboard.press(key)
        sorted_by = heading.evaluate("(button) => button.closest('th').getAttribute('aria-sort')")
        assert sorted_by == order


def test_keys_wipe(opened: Open) -> None:
    page = opened(pages.optimization_page())
    page.focus(".wipe input")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('.wipe').style.getPropertyValue('--at')") == "51%"
    page.keyboard.press("Home")
    clip = page.evaluate("getComputedStyle(document.querySelector('.wipe .two img')).clipPath")
    assert clip in ("inset(0px)", "inset(0px 0px 0px 0%)")


def test_keys_open_what_is_folded(opened: Open) -> None:
    page = opened(pages.optimization_page())
    page.focus("summary >> nth=0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")


def test_what_moves_stands_still_for_who_asks(opened: Open) -> None:
    page = opened(pages.portrait_page(), reduced_motion="reduce")
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter((each) => {"
        " const style = getComputedStyle(each);"
        " return style.animationName !== 'none' || style.transitionDuration !== '0s'; }).length"
    )
    assert moving == 0


def test_colors_that_the_system_forces_leave_the_keys_of_drawings(opened: Open) -> None:
    page = opened(pages.portrait_page(), forced_colors="active")
    colors = page.locator("#kinds .key").evaluate_all(
        "(keys) => keys.map((key) => getComputedStyle(key).backgroundColor)"
    )
    assert len(set(colors)) == len(colors) > 2
