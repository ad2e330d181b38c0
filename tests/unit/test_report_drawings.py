"""Pictures that are drawn from numbers: areas, frontiers, rooflines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, PackageLoader
from tests.benches import made_bench

from convsmith.analysis import analyze
from convsmith.graph import parse
from convsmith.report.as_data.portrait import embedded
from convsmith.report.drawings.cost_map import HEIGHT, WIDTH, cost_map
from convsmith.report.drawings.pareto import Point, pareto
from convsmith.report.drawings.roofline import roofline
from convsmith.report.drawings.treemap import squarified
from convsmith.sources import load

AMOUNTS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=30)


@given(AMOUNTS, st.floats(1, 500), st.floats(1, 500))
def test_tiles_fill_a_rectangle(amounts: list[float], width: float, height: float) -> None:
    tiles = squarified(amounts, 3, 5, width, height)
    scale = width * height / sum(amounts)
    for tile, amount in zip(tiles, amounts, strict=True):
        assert tile.width * tile.height == pytest.approx(amount * scale, rel=1e-6)
        assert tile.x >= 3 - 1e-6
        assert tile.x + tile.width <= 3 + width + 1e-6
        assert tile.y >= 5 - 1e-6
        assert tile.y + tile.height <= 5 + height + 1e-6
    for i, a in enumerate(tiles):
        for b in tiles[:i]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert min(across, down) < 1e-6


def test_tiles_are_nearly_square() -> None:
    tiles = squarified([6, 6, 4, 3, 2, 2, 1], 0, 0, 6, 4)  # the paper's figure 4
    assert max(max(t.width / t.height, t.height / t.width) for t in tiles) < 3
    assert (tiles[0].width, tiles[0].height) == (3, 2)


@pytest.mark.parametrize("text", ["zoo:googlenet", "3@32 > conv 8 3 > conv 8 3", "3@8 > relu"])
def test_the_map_has_the_area_of_the_network(text: str) -> None:
    analysis = analyze(load(text, weights=False))
    areas = [area for area in cost_map(analysis) if not area.is_module]
    for area in areas:
        row = next((row for row in analysis.rows if row.name == area.layer), None)
        if row is not None:
            share = area.tile.width * area.tile.height / (WIDTH * HEIGHT)
            # Titles of modules take room from what is in them.
            assert share <= 1.001 * row.macs / analysis.total.macs
    assert bool(areas) == bool(analysis.total.macs)


POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20)


@given(POINTS)
def test_the_frontier_is_what_none_beats(pairs: list[tuple[int, int]]) -> None:
    points = [Point(name=str(i), cost=c, quality=q) for i, (c, q) in enumerate(pairs)]
    front = pareto(points, cost="ms", quality="dB")
    assert front is not None
    for (cost, quality), mark in zip(pairs, front.marks, strict=True):
        beaten = any((c <= cost and q > quality) or (c < cost and q >= quality) for c, q in pairs)
        twins = [
            m.best for pair, m in zip(pairs, front.marks, strict=True) if pair == (cost, quality)
        ]
        assert any(twins) == (not beaten)
        assert 0 <= mark.x <= front.width
        assert 0 <= mark.y <= front.height


def test_better_is_higher_and_dearer_is_farther_right() -> None:
    front = pareto(
        [
            Point(name="a", cost=1.0, quality=20.5),
            Point(name="b", cost=3.0, quality=22.0, kind="chosen"),
            Point(name="c", cost=math.inf, quality=1.0),
        ],
        cost="ms",
        quality="PSNR",
    )
    assert front is not None
    cheap, good = front.marks
    assert cheap.x < good.x
    assert cheap.y > good.y
    assert good.label == "b: ms 3, PSNR 22"
    assert pareto([Point(name="a", cost=1, quality=1)], cost="ms", quality="dB") is None


def test_losses_have_nothing_at_the_top() -> None:
    points = [Point(name=str(loss), cost=2 - loss, quality=loss) for loss in (0.0, 0.5, 1.0)]
    front = pareto(points, cost="ms", quality="error", less_is_better=True)
    assert front is not None
    assert [mark.best for mark in front.marks] == [True, True, True]
    assert front.marks[0].y < front.marks[1].y < front.marks[2].y
    assert [text for _, text in front.up] == ["1", "0.8", "0.6", "0.4", "0.2", "0"]


def test_a_roofline_without_times_has_no_roof() -> None:
    rows = analyze(parse("3@32 > conv 64 3 p1 > relu > conv 64 3 p1 > flatten > fc 10")).rows
    drawn = roofline(rows)
    assert drawn is not None
    assert drawn.peak is None
    dots = {dot.name: dot for dot in drawn.dots}
    assert "flatten1" not in dots  # it moves nothing
    assert dots["conv2"].x > dots["conv1"].x > dots["relu1"].x
    assert dots["conv2"].y < dots["relu1"].y  # more to do stands higher
    assert roofline(rows[:1]) is None


def test_a_roofline_with_times_has_the_measured_peak() -> None:
    rows = analyze(parse("64@64 > conv 64 3 p1 > relu > conv 65 3 p1")).rows
    drawn = roofline(rows, made_bench())
    assert drawn is not None
    assert drawn.peak_text == "measured peak 100 GFLOP/s"
    # 2 x 64 x 64 x 9 x 64 x 64 operations in 1 ms: 302 GFLOP/s, above the peak
    fast = next(dot for dot in drawn.dots if dot.name == "conv1")
    assert "302 GFLOP/s" in fast.label
    assert drawn.peak is not None
    assert fast.y < drawn.peak


@given(st.text())
def test_embedded_data_cannot_end_its_element(text: str) -> None:
    content = embedded([text])
    assert not set("<>&") & set(content)


def test_the_frontier_can_stand_in_a_page() -> None:
    front = pareto(
        [Point(name="<b>", cost=c, quality=-c, kind="original" if c else "") for c in range(3)],
        cost="ms",
        quality="error",
    )
    assert front is not None
    environment = Environment(loader=PackageLoader("convsmith.report"), autoescape=True)
    environment.filters["plain"] = str
    shown = environment.from_string(
        '{% import "parts.html" as parts %}{{ parts.front(front) }}'
    ).render(front=front)
    assert "&lt;b&gt;" in shown
    assert shown.count("<circle") == 3
