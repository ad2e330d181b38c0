"""The picture of memory over time."""

from __future__ import annotations

import pytest

from convsmith.analysis import Memory, analyze
from convsmith.graph import parse
from convsmith.report import html
from convsmith.report.drawings.memory import memory_curve


def drawn(curve: tuple[int, ...], peak: int) -> list[float]:
    """The heights of the steps, as shares of the peak."""
    found = memory_curve(Memory(peak_bytes=peak, at="", alive=(), curve=curve, complete=True))
    assert found is not None
    pairs = (point.split(",") for point in found.points.split())
    points = [(float(x), float(y)) for x, y in pairs]
    assert [points[0], points[-1]] == [(0, found.height), (found.width, found.height)]
    steps = points[1:-1]
    assert [x for x, _ in steps] == [x for i in range(found.width) for x in (i, i + 1)]
    return [1 - y / found.height for _, y in steps[::2]]


def test_every_layer_is_a_step() -> None:
    assert drawn((10, 40, 20), 40) == pytest.approx([0.25, 1, 0.5])


def test_what_was_alive_before_the_first_layer_may_be_the_peak() -> None:
    assert drawn((10, 5), 20) == pytest.approx([0.5, 0.25])


def test_of_very_many_layers_a_step_shows_the_most() -> None:
    curve = tuple(100 + (i == 4321) * 900 for i in range(10_000))
    heights = drawn(curve, 1000)
    assert len(heights) <= 600
    assert sorted(heights)[-2:] == pytest.approx([0.1, 1])


def test_nothing_is_drawn_of_nothing() -> None:
    for curve, peak in (((), 0), ((), 5), ((5,), 5), ((0, 0), 0)):
        assert (
            memory_curve(Memory(peak_bytes=peak, at="", alive=(), curve=curve, complete=True))
            is None
        )


def test_the_page_names_what_is_alive_at_the_peak() -> None:
    page = html(analyze(parse("4@8 > conv 8 3 p1 > relu > conv 8 1 > gap")))
    assert 'class="curve"' in page
    assert "at most 4.00 KiB, at relu1" in page
    assert "Values alive at the peak" in page
    many = html(analyze(parse(f"4@8 > [ {' | '.join(['relu'] * 40)} ]")))
    assert "And 21 more." in many
