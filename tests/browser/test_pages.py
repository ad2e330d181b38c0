"""Pages in a real browser: Debian's chromium, without a network.

The browser opens a page, runs its script, and says what document came of it. A few lines of
script, added to a copy of the page and allowed by its policy, do what a person would do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.pages import (
    HOSTILE,
    analysis_page,
    bench_page,
    comparison_page,
    difference_page,
    explanation_page,
    image_spectrum_page,
    lint_page,
    networks_page,
    optimization_page,
    rules_page,
    spectrum_page,
    sweep_page,
    symbolic_page,
    view_page,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from tests.browser.pages import Open

Browse = Callable[..., tuple[str, str]]


@pytest.fixture
def browser(chromium: Browser, tmp_path: Path) -> Iterator[Browse]:
    """Opens a page and returns its document as it is then, and what the browser complained of."""
    context = chromium.new_context()

    def opened(page: str, script: str = "") -> tuple[str, str]:
        if script:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
            page = page.replace("</body>", f"<script>{script}</script></body>")
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        tab = context.new_page()
        console: list[str] = []
        tab.on("console", lambda message: console.append(message.text))
        tab.on("pageerror", lambda error: console.append(str(error)))
        tab.goto(file.as_uri())
        return tab.content(), "\n".join(console)

    yield opened
    context.close()


PAGES = [
    *(analysis_page, comparison_page, networks_page, optimization_page),
    *(view_page, difference_page, symbolic_page, bench_page, spectrum_page, image_spectrum_page),
]


@pytest.mark.parametrize("make", PAGES)
def test_it_opens_without_a_complaint(browser: Browse, make: Callable[[], str]) -> None:
    measure = (
        "document.documentElement.dataset.styled ="
        " getComputedStyle(document.querySelector('.card')).borderRadius;"
    )
    document, console = browser(make(), measure)
    assert console == ""
    assert 'data-ready="true"' in document
    assert 'data-styled="10px"' in document
    assert "data-hurt" not in document
    assert "😀" in document


@pytest.mark.parametrize("make", [explanation_page, lint_page, sweep_page])
def test_pages_of_words_open_too(browser: Browse, make: Callable[[], str]) -> None:
    document, console = browser(make())
    assert console == ""
    assert 'data-ready="true"' in document
    assert "data-hurt" not in document
    assert "😀" in document


@pytest.mark.parametrize("make", [*PAGES, explanation_page, lint_page, rules_page, sweep_page])
def test_it_fits(chromium: Browser, tmp_path: Path, make: Callable[[], str]) -> None:
    file = tmp_path / "page.html"
    file.write_text(make(), "utf-8")
    tab = chromium.new_page()
    tab.goto(file.as_uri())
    for width in (320, 768, 1920):
        tab.set_viewport_size({"width": width, "height": 800})
        widths = tab.evaluate(
            "['clientWidth', 'scrollWidth'].map((name) => document.documentElement[name])"
        )
        assert widths == [width, width]
    tab.close()


def test_budgets_stand_in_a_picture(browser: Browse) -> None:
    document, console = browser(sweep_page())
    assert console == ""
    picture = re.findall(r'<svg class="axes".*?</svg>', document, flags=re.DOTALL)
    assert len(picture) == 1
    assert picture[0].count("<circle") == 3  # the original and the two budgets that can be met
    assert "cannot be met" in document


def test_the_check_can_fail(browser: Browse) -> None:
    broken = analysis_page().replace('<p class="lead">', f'<p class="lead">{HOSTILE}', 1)
    _, console = browser(broken)
    assert "Content Security Policy" in console


def names(document: str) -> list[str]:
    body = re.findall(r"<tbody>(.*?)</tbody>", document, flags=re.DOTALL)[-1]
    return re.findall(r'<th scope="row"[^>]*>(.*?)</th>', body, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("clicks", "order", "expected"),
    [
        ([0], "ascending", ["&lt;img", "b9", "b10", "relu"]),
        ([0, 0], "descending", ["relu", "b10", "b9", "&lt;img"]),
        ([0, 0, 0], None, ["b10", "&lt;img", "b9", "relu"]),
        ([4], "descending", ["b9", "&lt;img", "b10", "relu"]),
    ],
)
def test_a_heading_sorts(
    browser: Browse, clicks: list[int], order: str | None, expected: list[str]
) -> None:
    script = "".join(
        f"document.querySelectorAll('table th button')[{column}].click();" for column in clicks
    )
    document, console = browser(analysis_page(), script)
    assert console == ""
    assert [name.split(" ")[0] for name in names(document)] == expected
    assert re.findall(r'<th [^>]*aria-sort="(\w+)"', document) == ([order] if order else [])


def test_the_slider_wipes(browser: Browse) -> None:
    script = (
        "const range = document.querySelector('.wipe input'); range.value = 30;"
        "range.dispatchEvent(new Event('input'));"
        "const two = document.querySelector('.wipe .two img');"
        "document.documentElement.dataset.clip = getComputedStyle(two).clipPath;"
    )
    document, console = browser(optimization_page(), script)
    assert console == ""
    assert 'data-clip="inset(0px 0px 0px 30%)"' in document
    assert 'aria-valuetext="30 percent of the original"' in document


def test_without_its_script_both_outputs_stand_side_by_side(browser: Browse) -> None:
    page = re.sub(r"<script>.*?</script>", "", optimization_page(), flags=re.DOTALL)
    script = (
        "const [one, two] = document.querySelectorAll('.wipe img');"
        "const [a, b] = [one.getBoundingClientRect(), two.getBoundingClientRect()];"
        "document.documentElement.dataset.apart = String(a.right <= b.left && a.top === b.top);"
    )
    document, console = browser(page, script)
    assert console == ""
    assert 'data-apart="true"' in document
    assert 'data-ready="' not in document


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_chart_of_a_spectrum_has_the_colors_of_the_page(opened: Open, scheme: str) -> None:
    page = opened(image_spectrum_page(), color_scheme=scheme)
    chart = page.locator("svg.profile")
    assert chart.locator("polyline").count() == 2
    card = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    paper = "(svg) => getComputedStyle(svg.closest('.scroll')).backgroundColor"
    assert chart.evaluate(paper) == card
    quiet = page.evaluate("getComputedStyle(document.querySelector('p.quiet')).color")
    inks = chart.locator("text").evaluate_all(
        "(words) => [...new Set(words.map((each) => getComputedStyle(each).fill))]"
    )
    assert quiet in inks
    assert len(inks) == 2  # the second curve has its own
    lines = chart.locator("polyline").evaluate_all(
        "(lines) => lines.map((each) => getComputedStyle(each).stroke)"
    )
    assert sorted(lines) == sorted(inks)
