"""Pages in a real browser: Debian's chromium, without a network.

The browser opens a page, runs its script, and says what document came of it. A few lines of
script, added to a copy of the page and allowed by its policy, do what a person would do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.benches import made_bench
from tests.random_weights import random_network

from convsmith.analysis import Analysis, analyze, diff, fields
from convsmith.analysis.comparing import arrangements, side_by_side
from convsmith.analysis.explaining import explain
from convsmith.analysis.symbolic import symbolic
from convsmith.graph import GraphBuilder, parse
from convsmith.graph.operators import Activation, Conv
from convsmith.linting import Rules, lint
from convsmith.optimization import Files, Optimization, Picture
from convsmith.report import html
from convsmith.rewrite import Choice, Plan, Rewriting, Verification, calibrate
from convsmith.rewrite.sweeping import sweep
from convsmith.rewrite.verifying import OutputError
from convsmith.runtime.timing import Timing
from convsmith.signal import spectrum
from convsmith.sources import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<img src=x onerror=\"document.documentElement.dataset.hurt='1'\">'\"&😀"

RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"

Open = Callable[..., tuple[str, str]]


@pytest.fixture
def browser(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
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


def hostile_analysis() -> Analysis:
    builder = GraphBuilder()
    x = builder.input("x", (1, 1, 8, 8))
    for name, channels in (("b10", 2), (HOSTILE, 8), ("b9", 4)):
        op = Conv(
            channels=channels,
            kernel=(3, 3),
            stride=(1, 1),
            padding=((1, 1), (1, 1)),
            dilation=(1, 1),
        )
        x = builder.add(op, x, name=name)
    x = builder.add(Activation(kind="relu"), x, name="relu")
    return analyze(builder.build(("y", x), source=HOSTILE))


def analysis_page() -> str:
    return html(hostile_analysis())


def optimization_page() -> str:
    net = parse("1@16 > conv 4 3 p1 > conv 1 3 p1")
    seen = fields(net)["conv2"]
    costs = analyze(net)
    choice = Choice(
        layer=HOSTILE,
        form="spatial",
        text="conv 1 3x1 > conv 4 1x3",
        shape=(4, 1, 3, 3),
        macs_before=9216,
        macs_after=3840,
        error=0.01,
    )
    found = Verification(
        images=1,
        data="test images",
        layers={},
        outputs=(OutputError(name="y", relative=0.1, largest=0.2, agreement=None),),
        metric=None,
        fields={"y": (seen, seen)},
    )
    plan = Plan(source="tiny.onnx", budget={"macs": 0.5}, choices=(choice,))
    before = Timing(samples=(3.0, 3.0), engine="E", version="1", threads=1, shapes={})
    image = np.random.default_rng(0).uniform(0, 1, (1, 16, 16)).astype(np.float32)
    return html(
        Optimization(
            source="tiny.onnx",
            before=costs,
            after=costs,
            rewriting=Rewriting(
                original=net,
                net=net,
                plan=plan,
                before=costs.total,
                after=costs.total,
                verification=None,
            ),
            verification=found,
            calibration_images=1,
            skipped=(HOSTILE,),
            timings={"before": before, "after": replace(before, samples=(2.0, 2.0))},
            speedup=1.5,
            proof=None,
            pictures=(
                Picture(name=HOSTILE, given=image, wanted=image, before=image, after=1 - image),
            ),
            files=Files.at("build"),
            notes=(HOSTILE,),
        )
    )


def comparison_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(arrangements(replace(net, source=HOSTILE)))


def networks_page() -> str:
    net = parse("8@16 > conv 8 5 p2 > unsupported Foo 8@8", source=HOSTILE)
    return html(side_by_side([net, parse("8@16 > conv 8 3 > relu")]))


def view_page() -> str:
    return html(hostile_analysis().by_module())


def difference_page() -> str:
    changed = parse("1@8 > conv 2 3 p1 > unsupported Foo 4@8", source=HOSTILE)
    return html(diff(hostile_analysis(), changed, macs="-99%", params="1M"))


def explanation_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5/2 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(explain(replace(net, source=HOSTILE)))


def lint_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 1/2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(lint(replace(net, source=HOSTILE), select="all"))


def symbolic_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5/2 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(symbolic(replace(net, source=HOSTILE)))


def bench_page() -> str:
    return html(made_bench(name=HOSTILE, cold=True))


@cache
def spectrum_page() -> str:
    found = spectrum(load(RESTORER, (1, 1, 64, 64)))
    layers = (replace(found.layers[0], name=HOSTILE), *found.layers[1:])
    return html(replace(found, source=HOSTILE, layer=HOSTILE, layers=layers))


@cache
def sweep_page() -> str:
    net = replace(random_network("4@8 > conv 8 3 p1 > relu > conv 8 3 p1"), source=HOSTILE)
    images = np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)
    found = sweep(
        net,
        [0.01, 0.5, 0.8],
        calibration=calibrate(net, [images]),
        strategy="fast",
        measure=(),
    )
    return html(replace(found, notes=(HOSTILE,)))


def rules_page() -> str:
    return html(Rules())


PAGES = [
    *(analysis_page, comparison_page, networks_page, optimization_page),
    *(view_page, difference_page, symbolic_page, bench_page, spectrum_page),
]


@pytest.mark.parametrize("make", PAGES)
def test_it_opens_without_a_complaint(browser: Open, make: Callable[[], str]) -> None:
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
def test_pages_of_words_open_too(browser: Open, make: Callable[[], str]) -> None:
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


def test_budgets_stand_in_a_picture(browser: Open) -> None:
    document, console = browser(sweep_page())
    assert console == ""
    picture = re.findall(r'<svg class="axes".*?</svg>', document, flags=re.DOTALL)
    assert len(picture) == 1
    assert picture[0].count("<circle") == 3  # the original and the two budgets that can be met
    assert "cannot be met" in document


def test_the_check_can_fail(browser: Open) -> None:
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
    browser: Open, clicks: list[int], order: str | None, expected: list[str]
) -> None:
    script = "".join(
        f"document.querySelectorAll('table th button')[{column}].click();" for column in clicks
    )
    document, console = browser(analysis_page(), script)
    assert console == ""
    assert [name.split(" ")[0] for name in names(document)] == expected
    assert re.findall(r'<th [^>]*aria-sort="(\w+)"', document) == ([order] if order else [])


def test_the_slider_wipes(browser: Open) -> None:
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


def test_without_its_script_both_outputs_stand_side_by_side(browser: Open) -> None:
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
