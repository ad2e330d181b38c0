"""The page of a network in a real browser, driven as a person drives it: mouse, keys, address.

No page may ask for anything but itself, complain, or be wider than its window.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from tests.browser.pages import Open, portrait_page

from convsmith.analysis import sight
from convsmith.graph import Graph, GraphBuilder, Provenance, parse
from convsmith.graph.operators import Activation, Conv, Linear
from convsmith.portrait import EffectiveMap, portrait, redacted
from convsmith.report import html
from convsmith.sources import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = (
    "<script>document.documentElement.dataset.hurt=1</script>",
    "</script><img src=x onerror=\"document.documentElement.dataset.hurt='1'\">",
    "'\"&amp;%41 #layer=😀",
    "very." * 70 + "long",
)


def script(name: str) -> str:
    """A function to run in a page, from the file beside this one."""
    return (Path(__file__).parent / name).read_text("utf-8").split("\n", 1)[1]


@cache
def network(text: str) -> Graph:
    return load(text, weights=False)


@cache
def made(text: str) -> str:
    return html(portrait(network(text)))


def hostile() -> Graph:
    builder = GraphBuilder()
    x = builder.input(HOSTILE[0] + "in", (1, 1, 16, 16))
    for name in HOSTILE:
        op = Conv(
            channels=4,
            kernel=(3, 3),
            stride=(1, 1),
            padding=((1, 1), (1, 1)),
            dilation=(1, 1),
        )
        x = builder.add(op, x, name=name)
    x = builder.add(Activation(kind="relu"), x, name="relu")
    return builder.build((HOSTILE[1] + "out", x), source=HOSTILE[1])


def chosen(page: Page) -> str:
    return page.inner_text("#layer-panel h3")


def rectangle(page: Page) -> Any:
    page.wait_for_timeout(40)
    found = page.get_attribute("#sight", "data-rectangle")
    return None if found is None else json.loads(found)


def said(net: Graph, layer: str, position: tuple[int, ...]) -> list[list[int]]:
    """The library's rectangle, in the page's words."""
    return [list(part) for part in sight(net).at(layer, position).clipped if part is not None]


# Searching, sorting, choosing ------------------------------------------------------------


def test_the_totals_are_there(opened: Open) -> None:
    page = opened(made("zoo:resnet50"))
    cards = page.inner_text(".cards")
    assert "4,089,184,256" in cards
    assert "25,557,032" in cards
    assert page.locator(".treemap a").count() > 40
    assert page.locator("#table tbody tr").count() == len(network("zoo:resnet50").nodes)


def test_search_finds_and_steps_through(opened: Open) -> None:
    page = opened(made("zoo:resnet50"))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("layer3. .CONV2")
    wanted = [
        node.name
        for node in network("zoo:resnet50").nodes
        if node.name.startswith("layer3.") and node.name.endswith("conv2")
    ]
    assert page.inner_text("#found") == f"{len(wanted)} of 175 layers"
    visible = page.locator("#table tbody tr:not([hidden]) th")
    assert [name.strip() for name in visible.all_inner_texts()] == wanted
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert chosen(page) == wanted[1]
    page.keyboard.press("Escape")
    assert page.locator("#table tbody tr:not([hidden])").count() == 175


def test_a_heading_sorts_by_numbers(opened: Open) -> None:
    page = opened(made("zoo:resnet50"))
    page.click("#table thead th:nth-child(4) button")
    assert page.inner_text("#table tbody tr:first-child th") == "layer4.0.conv2"
    page.click("#table thead th:nth-child(4) button")
    amounts = page.locator("#table tbody td:nth-child(4)").evaluate_all(
        "cells => cells.map((cell) => Number(cell.dataset.value))"
    )
    assert amounts == sorted(amounts)


def test_drawing_and_table_choose_each_other(opened: Open) -> None:
    page = opened(made("zoo:resnet50"))
    page.click("#table tbody tr:nth-child(6) td:nth-child(2)")
    name = chosen(page)
    assert name == network("zoo:resnet50").nodes[5].name
    assert page.evaluate("location.hash") == f"#layer={name}"
    assert page.get_attribute("#graph .layer.chosen", "data-layer") == "5"
    page.click('#graph [data-layer="0"]')
    assert chosen(page) == "conv1"
    assert page.get_attribute("#table tbody tr:first-child", "aria-current") == "true"
    assert page.locator("#graph .edge.near").count() == 2
    page.click(".treemap a >> nth=5", force=True)
    page.wait_for_function("document.querySelector('#layer-panel h3').innerText !== 'conv1'")
    assert chosen(page) != "conv1"


def test_an_address_restores_the_choice(opened: Open) -> None:
    page = opened(made("zoo:resnet50"), "#layer=layer4.2.conv3")
    assert chosen(page) == "layer4.2.conv3"
    shown = page.locator("#graph .layer.chosen").bounding_box()
    frame = page.locator("#graph").bounding_box()
    assert shown is not None
    assert frame is not None
    assert frame["y"] <= shown["y"] <= frame["y"] + frame["height"] - shown["height"]
    page.evaluate("location.hash = '#layer=layer1.0.bn2'")
    page.wait_for_function("document.querySelector('#layer-panel h3').innerText === 'layer1.0.bn2'")
    assert chosen(page) == "layer1.0.bn2"
    assert opened(made("zoo:resnet50"), "#layer=nothing").inner_text("#layer-panel h3") == "conv1"


def test_inception_has_four_branches(opened: Open) -> None:
    page = opened(made("zoo:googlenet"), "#layer=inception3a.concat")
    tops = page.evaluate(
        "network.boxes.filter((box) => /^inception3a.branch.$/.test(box.name))"
        ".map((box) => [box.x, box.y])"
    )
    assert len(tops) == 4
    assert len({y for _, y in tops}) == 1
    assert len({x for x, _ in tops}) == 4


def test_modules_open_and_close(opened: Open) -> None:
    page = opened(made("zoo:unet"))
    page.click("#close-all")
    assert page.locator("#graph .box.open").count() == 0
    few = page.evaluate("network.root.height")
    page.click("#graph .box >> nth=0")
    assert page.locator("#graph .box.open[data-box]").count() > 0
    assert page.evaluate("network.root.height") > few
    page.click('#table a[href="#layer=up1.conv2"]')
    page.wait_for_timeout(60)
    assert chosen(page) == "up1.conv2"
    page.focus("#graph")
    page.keyboard.press("ArrowUp")
    assert chosen(page) == "up1.relu1"
    page.keyboard.press("ArrowDown")
    assert chosen(page) == "up1.conv2"
    page.keyboard.press("Enter")
    assert page.locator("#graph .box.chosen:not(.open)").count() == 1


def test_nothing_in_the_drawing_overlaps(opened: Open) -> None:
    page = opened(made("zoo:googlenet"))
    page.click("#open-all")
    assert page.evaluate(script("overlap.js"))


# What a unit sees ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layer"),
    [("zoo:resnet50", "layer2.0.conv2"), ("zoo:unet", "up3.conv1"), ("zoo:unet", "bottom.conv2")],
)
def test_a_unit_under_the_mouse_sees_what_the_library_says(
    opened: Open, text: str, layer: str
) -> None:
    net = network(text)
    page = opened(made(text), f"#layer={layer}")
    stage = page.locator("#map-stage svg")
    stage.scroll_into_view_if_needed()
    face = page.locator("#map-stage .map-face").bounding_box()
    assert face is not None
    rows, columns = net.shape(layer)[2:]
    for row, column in ((0, 0), (rows // 2, columns // 2), (rows - 1, 0)):
        page.mouse.move(
            face["x"] + (column + 0.5) / columns * face["width"],
            face["y"] + (row + 0.5) / rows * face["height"],
        )
        assert rectangle(page) == said(net, layer, (row, column))
    drawn = page.locator("#image-stage #seen")
    high, _ = said(net, layer, (rows - 1, 0))
    assert [float(drawn.get_attribute(name) or "nan") for name in ("y", "height")] == [
        high[0],
        high[1] - high[0] + 1,
    ]


def test_keys_move_the_unit(opened: Open) -> None:
    net = network("zoo:resnet50")
    page = opened(made("zoo:resnet50"), "#layer=layer3.0.conv1")
    page.focus("#map-stage")
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowUp")
    assert rectangle(page) == said(net, "layer3.0.conv1", (0, 0))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert rectangle(page) == said(net, "layer3.0.conv1", (1, 27))
    page.fill("#unit-inputs input >> nth=0", "9")
    assert rectangle(page) == said(net, "layer3.0.conv1", (9, 27))
    assert re.search(r"in the padding: \d+ columns after", page.inner_text("#sight"))


SAMPLED = (
    "zoo:resnet50",
    "zoo:efficientnet_b0",
    "zoo:unet",
    "3@64 > conv 8 3 > conv 8 5 p4 d2 > maxpool 2/2 > deconv 8 4/2 p1 > conv 4 3 p1",
    "x : <1,2,50>\nc = conv 4 5/2 p2 (x)\nd = conv 4 3 p2 d2 (c)\nreturn y = d",
    "1@6x7x8 > conv 4 3 p1 > maxpool 2/2 > conv 2 3 p1 > gap",
)


@pytest.mark.parametrize("text", SAMPLED)
def test_the_script_counts_as_the_library(opened: Open, text: str) -> None:
    net = network(text)
    oracle = sight(net)
    page = opened(made(text))
    chance = random.Random(1)
    layers = [node.name for node in net.nodes if oracle.field(node.name).status != "unknown"]
    for layer in chance.sample(layers, min(8, len(layers))):
        sizes = net.shape(layer)[2:]
        for _ in range(4):
            place = tuple(chance.randrange(size) for size in sizes)
            found = page.evaluate(
                "([name, at]) => sightOf(placeOf.get(name), at).real", [layer, place]
            )
            clipped = oracle.at(layer, place).clipped
            assert found == (None if None in clipped else [list(part) for part in clipped if part])


@pytest.mark.parametrize("text", SAMPLED)
def test_a_pixel_reaches_the_units_that_the_library_says(opened: Open, text: str) -> None:
    net = network(text)
    oracle = sight(net)
    page = opened(made(text))
    chance = random.Random(2)
    layers = [node.name for node in net.nodes if oracle.field(node.name).status == "exact"]
    for layer in chance.sample(layers, min(4, len(layers))):
        pixel = tuple(chance.randrange(size) for size in oracle.image)
        found = page.evaluate(
            "([name, at]) => reachOf(placeOf.get(name), at)?.map((axis) => runs(axis)) ?? null",
            [layer, pixel],
        )
        reach = oracle.reaches(layer, pixel, local=True)
        ends = None if found is None else [(axis[0][0], axis[-1][1]) for axis in found]
        assert ends == (None if None in reach.ranges or not reach.mask.any() else [*reach.ranges])


def test_a_click_on_the_input_says_whom_it_reaches(opened: Open) -> None:
    page = opened(made("zoo:resnet50"), "#layer=maxpool")
    page.click("#image-stage .frame", position={"x": 4, "y": 4}, force=True)
    page.wait_for_timeout(40)
    words = page.inner_text("#sight")
    pixel = tuple(map(int, re.findall(r"(?:row|column) (\d+)", words)[:2]))
    found = json.loads(page.get_attribute("#sight", "data-reached") or "null")
    ranges = sight(network("zoo:resnet50")).reaches("maxpool", pixel).ranges
    assert found == [[list(part)] for part in ranges if part is not None]
    page.focus("#image-stage")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(40)
    assert f"column {pixel[1] + 10} reaches" in page.inner_text("#sight")


def test_a_measured_field_lies_over_the_image(opened: Open) -> None:
    values = np.zeros((64, 64))
    values[10:30, 20:50] = 4
    found = EffectiveMap(
        layer="conv2", position=(16, 16), contributions=values, images="8 images of noise"
    )
    net = parse("3@64 > conv 8 3/2 p1 > conv 8 3 p1")
    page = opened(html(portrait(net, effective=[found])), "#layer=conv2")
    heat = page.locator("#image-stage image.heat")
    box = {name: heat.get_attribute(name) for name in ("x", "y", "width", "height")}
    assert box == {"x": "0", "y": "0", "width": "64", "height": "64"}
    uri = heat.get_attribute("href") or ""
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert ((drawn > 0) == (values > 0)).all()
    page.uncheck("#heat")
    page.wait_for_timeout(40)
    assert heat.count() == 0
    page.evaluate("location.hash = '#layer=conv1'")
    page.wait_for_timeout(40)
    assert not page.is_visible("#heat-label")  # it was not measured there


def test_the_slider_goes_along_the_depth(opened: Open) -> None:
    page = opened(made("zoo:unet"))
    assert page.locator("#growth .size-line").count() == 1
    page.focus("#depth")
    page.keyboard.press("Home")
    assert chosen(page) == "down1.conv1"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert chosen(page) == "down1.conv2"
    assert "sees 5, stride 1" in (page.get_attribute("#depth", "aria-valuetext") or "")
    page.keyboard.press("End")
    assert chosen(page) == "head"
    assert page.evaluate("location.hash") == "#layer=head"


def test_anchors_lie_around_the_middle_of_the_field(opened: Open) -> None:
    page = opened(made("zoo:resnet50"), "#layer=layer2.0.conv2")
    page.fill("#anchors", "32, 64x128; junk -3 0")
    page.wait_for_timeout(40)
    boxes = page.locator("#image-stage .anchor")
    assert boxes.count() == 3  # the sign of -3 is no number
    rule = json.loads(page.get_attribute("#sight", "data-rule") or "null")
    middle = [(first + last + 1) / 2 for first, last in rule]
    place = [
        float(boxes.nth(1).get_attribute(name) or "nan") for name in ("y", "x", "height", "width")
    ]
    assert place == [middle[0] - 32, middle[1] - 64, 64, 128]


# Looks, names, access --------------------------------------------------------------------


def test_no_page_is_wider_than_its_window(opened: Open) -> None:
    for content in (made("zoo:resnet50"), portrait_page(), html(portrait(hostile()))):
        page = opened(content)
        for width in (320, 375, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(40)
            for name in ("scrollWidth", "clientWidth"):
                assert page.evaluate(f"document.documentElement.{name}") == width


def test_names_are_only_names(opened: Open) -> None:
    page = opened(html(portrait(hostile())), f"#layer={quote(HOSTILE[1], safe='')}")
    assert chosen(page) == HOSTILE[1]
    assert page.locator("#table tbody th").all_inner_texts() == [*HOSTILE, "relu"]
    for index, name in enumerate(HOSTILE):
        page.click(f"#table tbody tr:nth-child({index + 1}) a")
        page.wait_for_timeout(40)
        assert chosen(page) == name
    page.reload()
    assert chosen(page) == HOSTILE[-1]
    assert page.get_attribute("html", "data-hurt") is None
    assert page.locator("img").count() == 0


def test_a_rewritten_layer_says_what_it_stands_for(opened: Open) -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 3, 8, 8))
    for name in ("conv1.0", "conv1.1"):
        builder.add(
            Activation(kind="relu"), x, name=name, provenance=Provenance(replaces="conv1 <b>")
        )
    page = opened(html(portrait(builder.build("conv1.1"))))
    assert "conv1 <b> of the original network" in page.inner_text("#layer-panel")


def test_a_network_without_layers(opened: Open) -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 3, 8, 8))
    page = opened(html(portrait(builder.build(("y", x)))))
    assert page.locator("#graph .end").count() == 2
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert page.is_visible("#help")


def test_nothing_of_a_name_is_left_when_it_is_redacted(opened: Open) -> None:
    content = html(portrait(redacted(network("zoo:googlenet")).graph))
    assert "inception" not in content
    assert "branch" not in content
    page = opened(content)
    assert page.inner_text("h1") == "network"
    assert "module1" in page.inner_text("#table")


def test_a_sum_is_missing_where_an_operator_is_unknown(opened: Open) -> None:
    page = opened(
        html(portrait(parse("8@16 > conv 8 5 p2 > unsupported Foo 8@8 > relu"))), "#layer=relu1"
    )
    assert "Not counted, and left out of the totals" in page.inner_text("main")
    assert "is not known" in page.inner_text("#sight")
    assert page.locator("#table tr.unsupported").count() == 1


def test_networks_without_images_have_no_viewer(opened: Open) -> None:
    builder = GraphBuilder()
    builder.add(Linear(features=8), builder.input("x", (4, 16)), name="fc1")
    page = opened(html(portrait(builder.build("fc1"))))
    assert page.locator("#field").count() == 0
    assert chosen(page) == "fc1"


def test_everything_has_a_name_and_a_place_in_the_order(opened: Open) -> None:
    page = opened(made("zoo:unet"))
    assert page.evaluate(script("nameless.js")) == []
    levels = page.evaluate(
        "[...document.querySelectorAll('main :is(section, article) :is(h2, h3, h4)')]"
        ".map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 2
    assert all(b - a <= 1 for a, b in pairwise(levels))
    reached = []
    page.evaluate("document.querySelector('#search').focus()")
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:6] == ["open-all", "close-all", "smaller", "larger", "fit", "graph"]
    page.keyboard.press("Escape")


def test_help_opens_and_closes(opened: Open) -> None:
    page = opened(made("zoo:unet"))
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.click("#help-button")
    page.click("#help button")
    assert not page.is_visible("#help")
    page.keyboard.press("j")
    assert chosen(page) != ""


def test_kernels_and_rewrite_stand_at_their_layers(opened: Open) -> None:
    page = opened(portrait_page())
    first = page.locator("#table tbody a").first.inner_text()
    assert page.inner_text("section[aria-labelledby=kernels] h2") == "Kernels"
    page.evaluate(f"location.hash = '#layer={first}'")
    page.wait_for_timeout(60)
    panel = page.inner_text("#layer-panel")
    assert "winograd, chosen" in panel
    assert "kept as it is" in panel
    page.click("section[aria-labelledby=rewrite] .bars a >> nth=1")
    page.wait_for_timeout(60)
    assert "spatial:" in page.inner_text("#layer-panel")
    assert page.locator(".axes .peak").count() == 1


def test_formulas_come_to_the_numbers(opened: Open) -> None:
    page = opened(made("zoo:resnet50"), "#layer=layer1.0.conv2")
    formulas = page.inner_text("#layer-panel .formulas")
    assert "115,605,504" in formulas
    assert page.locator("#layer-panel .formulas sub").count() > 3


def test_without_its_script_it_says_what_is_missing(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(made("zoo:unet"), "utf-8")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert "drawn by the script" in page.inner_text("noscript")
    assert "multiply-accumulates" in page.inner_text(".cards")
    context.close()


def test_a_deep_network_stays_small_and_quick(opened: Open) -> None:
    content = made("zoo:resnet152")
    assert len(content.encode()) < 1_000_000
    page = opened(content)
    page.click("#open-all")
    assert page.locator("#graph svg *").count() < 3000  # only what is in sight
    page.evaluate("find('graph').scrollTop = find('graph').scrollHeight")
    page.wait_for_timeout(100)
    last = len(network("zoo:resnet152").nodes) - 1
    assert page.locator(f'#graph [data-layer="{last}"]').count() == 1
