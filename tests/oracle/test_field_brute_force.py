"""Receptive fields of chosen networks against brute force: change every pixel, see what changes.

Random networks are in ``tests/property/test_field_networks.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.random_fields import Mask, dependence, over, positive

from convsmith.analysis import fields, seen, sight
from convsmith.graph import Graph, parse
from convsmith.graph.evaluate import evaluate


def hull(line: Mask) -> tuple[int, int] | None:
    """First and last true element."""
    used = np.flatnonzero(line)
    return (int(used[0]), int(used[-1])) if len(used) else None


@pytest.mark.parametrize(
    "notation",
    [
        "1@12 > conv 2 3/2 p1 > deconv 2 4/2 p1 > conv 2 3 p1",
        "1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3 p1 > up 2 > conv 2 3 p1",
        "1@12 > deconv 2 2/3",  # leaves positions that see nothing
        "1@12 > deconv 2 2/3 d5",  # phases that are out of order
        "1@12 > [ conv 2 1x5 p0x2 | conv 2 5x1 p2x0 ] > conv 2 3 p1",  # a cross, no rectangle
        "2@12 > ( conv 2 3 p1 > relu > conv 2 3 p1 + - ) x2",
        "1@12 > conv 2 3 p2 d2 > conv 2 2 d4",  # holes
        "4@7 > conv 4 3 p1 g2 > depthtospace 2 > conv 1 3 p1",
        "1@12 > unfold 3 p1 > conv 2 1",
        "4@9 > conv 9 3 p1 > fold 11 3",
    ],
)
def test_every_unit_and_every_pixel_of_a_network(notation: str) -> None:
    graph = parse(notation)
    value = graph.outputs[0].value
    assert fields(graph)[value].status == "exact"
    truth = over(dependence(graph, value), 2)
    network = sight(graph)
    for place in np.ndindex(*truth.shape[2:]):
        assert (network.mask(value, place) == truth[(..., *place)]).all()
    for pixel in np.ndindex(*truth.shape[:2]):
        assert (network.reaches(value, pixel).mask == truth[pixel]).all()


@pytest.mark.parametrize(
    "notation",
    [
        "1@12 > conv 4 3/2 p1 > reshape 1,1,2,2,6,6 > transpose 0,1,4,2,5,3 > reshape 1,1,12,12",
        "1@12 > reshape 1,1,6,2,6,2 > transpose 0,1,3,5,2,4 > reshape 1,4,6,6 > conv 2 3 p1",
    ],
)
def test_blocks_of_pixels_made_by_hand(notation: str) -> None:
    """A reshape to fixed sizes knows no batch: changes the pixels one by one."""
    graph = parse(notation)
    value = graph.outputs[0].value
    assert fields(graph)[value].status == "exact"
    changed = one_by_one(graph, value)
    network = sight(graph)
    for axis, positions in enumerate(seen(graph, value)):
        rows = over(np.moveaxis(over(changed, 3 - axis), axis, 0), 1)
        assert list(positions.intervals) == [hull(line) for line in rows.T]
    for place in np.ndindex(*changed.shape[2:]):
        assert (network.mask(value, place) == changed[(..., *place)]).all()


def one_by_one(graph: Graph, value: str) -> Mask:
    """``(*image, *positions)``: which positions change with a pixel."""
    image = graph.inputs[0].shape
    graph = positive(graph)
    base = np.random.default_rng(1).uniform(1, 2, image)
    before = evaluate(graph, {"x": base})[value]
    changed = np.zeros((*image[2:], *before.shape[2:]), bool)
    for row, column in np.ndindex(image[2:]):
        touched = base.copy()
        touched[:, :, row, column] += 100.0
        changed[row, column] = over(evaluate(graph, {"x": touched})[value] != before, 0, 1)
    return changed


@pytest.mark.parametrize(
    ("notation", "size"),
    [
        ("slice 1:0:2:1 > conv 2 3 p1", 0),  # nothing but added channels
        ("slice 1:6:7:1 > conv 2 3 p1", 0),
        ("slice 1:0:3:1 > conv 2 3 p1", 5),
        ("slice 1:0:8:4 > conv 2 3 p1", 5),
        ("conv 8 3 p1 g8 > slice 1:0:2:1", 0),
        ("conv 8 3 p1 g2 > slice 1:0:4:1", 5),
        ("split 2,6 > conv 2 3 p1", 0),
        ("gap > slice 1:1:2:1", 0),
        ("conv 2 3 p1", 5),
    ],
)
def test_channels_that_a_padding_added_see_nothing(notation: str, size: int) -> None:
    """Two channels before and two behind the four of a convolution."""
    graph = parse(f"1@9 > conv 4 3 p1 > pad 0,2,0,0,0,2,0,0 > {notation}")
    value = graph.outputs[0].value
    truth = over(dependence(graph, value), 2)
    middle = tuple(extent // 2 for extent in truth.shape[2:])
    pixels: Mask = truth[(..., *middle)]
    field = fields(graph)[value]
    assert (field.status, field.size) == ("exact", (size, size))
    assert [hull(over(pixels, 1 - axis)) for axis in (0, 1)] == [
        axis and axis.at(place) for axis, place in zip(field.axes, middle, strict=True)
    ]
    assert (sight(graph).mask(value, middle) == pixels).all()


def test_blocks_made_of_added_channels_see_nothing() -> None:
    """Of every two columns the second comes from channels that see nothing."""
    graph = parse("1@9 > conv 2 3 p1 > pad 0,0,0,0,0,2,0,0 > depthtospace 1x2 dcr")
    value = graph.outputs[0].value
    truth = over(dependence(graph, value), 2)
    assert truth[..., 4, 8].any()
    assert not truth[..., 4, 9].any()
    assert fields(graph)[value].status == "upper-bound"


@pytest.mark.parametrize(
    ("notation", "value"),
    [
        ("2@6 > ( [ gap > conv 2 1 > relu > conv 2 1 ] + - )", "add1"),
        ("2@6 > conv 2 3 p1 > gap", "gap1"),
    ],
)
def test_what_is_called_global_sees_the_whole_image(notation: str, value: str) -> None:
    graph = parse(notation)
    assert fields(graph)[value].is_global
    assert dependence(graph, value).all()


@pytest.mark.parametrize(
    "wrong",
    [
        "1@12 > conv 2 5 p2 > maxpool 2/2 > conv 2 3/2 p1",
        "1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3/2 p2,2,0,0",
    ],
)
def test_the_oracle_can_fail(wrong: str) -> None:
    right = "1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3/2 p1"
    truth = over(dependence(parse(right), "conv2"), 2)
    found = sight(parse(wrong))
    places = list(np.ndindex(*truth.shape[2:]))
    assert not all((found.mask("conv2", p) == truth[(..., *p)]).all() for p in places)
