"""The page of an optimization in a real browser: what was replaced, by what, and what it sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.browser.pages import HOSTILE, optimization, optimization_page

from convsmith.analysis import sight
from convsmith.report import html

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from tests.browser.pages import Open


@pytest.fixture
def page(opened: Open) -> Page:
    return opened(optimization_page())


def chosen(page: Page) -> str:
    return page.inner_text("#layer-panel h3")


def test_layers_stand_in_the_box_of_the_one_that_they_replace(page: Page) -> None:
    assert page.evaluate("network.boxes.map((box) => [box.name, box.layers, box.origin.text])") == [
        [HOSTILE, 2, "conv 4 5 p2"]
    ]
    box = page.locator("#graph .box.open.rewritten")
    assert box.count() == 1
    assert page.locator("#graph .layer.rewritten .swap").count() == 2
    assert page.locator("#graph .layer:not(.rewritten)").count() == 1
    assert "stands for a layer of the original" in page.inner_text("#kinds")
    page.click("#close-all")
    closed = page.locator("#graph .box.rewritten .what").text_content()
    assert closed == "25.6 k → 12.8 k MACs, 2 layers"


def test_the_panel_and_the_table_say_what_was_replaced(page: Page) -> None:
    page.click("#table tbody a >> nth=0")
    page.wait_for_timeout(40)
    assert chosen(page) == f"{HOSTILE}.1"
    panel = page.inner_text("#layer-panel")
    assert f"{HOSTILE} of the original network: conv 4 5 p2" in panel
    assert "by spatial, 25.6 k → 12.8 k MACs, error as fitted 10 %" in panel
    column = page.locator("#table tbody td.origin").all_inner_texts()
    assert column == [f"{HOSTILE}: conv 4 5 p2"] * 2 + [""]
    page.click("#table tbody a >> nth=2")
    page.wait_for_timeout(40)
    assert "kept as it is" in page.inner_text("#layer-panel")


def test_search_finds_layers_by_what_they_replaced(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("conv 4 5 p2")
    assert page.inner_text("#found") == "2 of 3 layers"


def test_the_bars_lead_to_the_layers_in_the_drawing(page: Page) -> None:
    page.click("section[aria-labelledby=layers] .bars a >> nth=0")
    page.wait_for_timeout(40)
    assert chosen(page) == HOSTILE
    rows = page.locator("section[aria-labelledby=layers] tbody tr")
    assert rows.nth(0).locator("td").all_inner_texts()[:3] == [
        "conv 4 5 p2",
        "spatial",
        "conv 2 5x1 > conv 4 1x5",
    ]


@pytest.mark.parametrize("place", [(0, 0), (8, 8), (15, 3)])
def test_fields_are_seen_on_the_photograph(page: Page, place: tuple[int, int]) -> None:
    assert page.locator("#image-stage use").count() == 1
    href = page.locator("#scene image").get_attribute("href") or ""
    assert href.startswith("data:image/jpeg")
    page.evaluate("location.hash = '#layer=conv2'")
    page.wait_for_timeout(40)
    for axis, position in enumerate(place):
        page.fill(f"#unit-inputs input >> nth={axis}", str(position))
    page.wait_for_timeout(40)
    net = optimization().rewriting.net
    found = json.loads(page.get_attribute("#sight", "data-rectangle") or "null")
    assert found == [list(part) for part in sight(net).at("conv2", place).clipped if part]


def test_predictions_stand_beside_each_other(page: Page) -> None:
    shown = page.locator("article.is-prediction")
    assert shown.count() == 1
    assert shown.locator(".count").all_inner_texts() == ["75.0 → 50.0 %", "25.0 → 50.0 %"]
    widths = shown.locator("rect").evaluate_all(
        "(all) => all.map((each) => each.width.baseVal.value)"
    )
    assert widths == [75, 50, 25, 50]
    assert f"belongs to {HOSTILE}" in shown.inner_text()


def test_the_foot_says_what_was_read(page: Page) -> None:
    assert f"SHA-256 of the original file: {'0' * 64}" in page.inner_text("footer")


def test_a_rewriting_alone_has_a_page_of_what_came_of_it(opened: Open) -> None:
    page = opened(html(optimization().rewriting))
    assert page.locator("#graph .box.rewritten").count() == 1
    assert "What was done to the original network: at most 50 %" in page.inner_text("main")
    assert "conv 4 5 p2" in page.inner_text("section[aria-labelledby=rewrite] table")
