"""Receptive fields against brute force: change every pixel, and see which outputs change.

All weights are positive and all values grow, so that nothing cancels: an output changes exactly
when it can depend on the pixel.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsmith.analysis import fields, seen
from convsmith.analysis.intervals import Interval
from convsmith.errors import ShapeError
from convsmith.graph import Constant, Graph, GraphBuilder, Output, parse
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import (
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    Norm,
    Operator,
    Pad,
    Pool,
    Resize,
    Same,
    Slice,
)

Dependence = list[list[set[int]]]
"""Per axis and output position: the pixels that change it."""


def positive(graph: Graph, seed: int = 0) -> Graph:
    """The same network with positive weights."""
    random = np.random.default_rng(seed)
    constants = {
        name: Constant.of(random.uniform(0.5, 1.5, constant.shape), learnable=constant.learnable)
        for name, constant in graph.constants.items()
    }
    return Graph(inputs=graph.inputs, nodes=graph.nodes, outputs=graph.outputs, constants=constants)


def brute_force(graph: Graph, value: str) -> Dependence:
    """Changes every pixel in turn, all in one batch."""
    (image,) = graph.inputs
    height, width = image.shape[2:]
    pixels = height * width
    random = np.random.default_rng(1)
    batch = np.repeat(random.uniform(1, 2, image.shape), pixels + 1, axis=0)
    for index in range(pixels):
        batch[index, :, index // width, index % width] += 100.0
    graph = positive(graph.with_inputs({image.name: (pixels + 1, *image.shape[1:])}))
    graph = Graph(
        inputs=graph.inputs,
        nodes=graph.nodes,
        outputs=(Output(name="y", value=value),),
        constants=graph.constants,
    )
    made = evaluate(graph, {image.name: batch})[value]
    changed = np.abs(made[:-1] - made[-1:]) > 1e-9 * np.abs(made[-1:])
    changed = changed.any(axis=1)  # (pixels, rows, columns)
    rows = [{int(i) // width for i in np.flatnonzero(changed[:, r].any(axis=-1))}
            for r in range(changed.shape[1])]  # fmt: skip
    columns = [{int(i) % width for i in np.flatnonzero(changed[:, :, c].any(axis=-1))}
               for c in range(changed.shape[2])]  # fmt: skip
    return [rows, columns]


def hull(pixels: set[int]) -> Interval | None:
    return (min(pixels), max(pixels)) if pixels else None


def check(graph: Graph, value: str, *, far_from_borders: bool = True) -> None:
    """Compares both forms of the field with brute force, at every position."""
    truth = brute_force(graph, value)
    explicit = seen(graph, value)
    rule = fields(graph)[value]
    if rule.status == "upper-bound" and "gaps" in rule.reason:
        return
    if not any(pixels for axis in truth for pixels in axis):
        assert all(positions.is_empty for positions in explicit)
        return
    for axis, (positions, pixels) in enumerate(zip(explicit, truth, strict=True)):
        found = positions.intervals
        if len(found) == 1:
            found *= len(pixels)
        assert list(found) == [hull(each) for each in pixels]
        line = rule.axes[axis]
        if rule.status != "exact" or line is None:
            continue
        for index, each in enumerate(pixels):
            if positions.clear[min(index, len(positions.clear) - 1)]:
                assert line.at(index) == hull(each)
            elif each and far_from_borders:
                first, last = line.at(index) or (0, -1)
                assert first <= min(each) <= max(each) <= last


# Random networks ------------------------------------------------------------------


SAME: st.SearchStrategy[Same | None] = st.sampled_from([None, None, None, "upper", "lower"])
ROUNDING: st.SearchStrategy[Literal["floor", "ceil"]] = st.sampled_from(["floor", "ceil"])


@st.composite
def window(draw: st.DrawFn) -> Operator:
    """A convolution or a pooling with any window, padding and rounding."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    rounding = draw(ROUNDING)
    same = draw(SAME)
    # Pooling may pad by no more than half of its window, or a window could be all padding.
    room = [(d * (k - 1) + 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, r)), draw(st.integers(0, r))) for r in room)
    if draw(st.booleans()):
        return Pool(
            kind=draw(st.sampled_from(["max", "average"])),
            kernel=kernel,
            stride=stride,
            padding=padding,
            same=same,
            dilation=(1, 1) if same else dilation,
            rounding=rounding,
        )
    return Conv(
        channels=2,
        kernel=kernel,
        stride=stride,
        padding=padding,
        same=same,
        dilation=dilation,
        groups=draw(st.sampled_from([1, 2])),
        rounding=rounding,
    )


@st.composite
def transposed(draw: st.DrawFn) -> Operator:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    return Conv(
        channels=2,
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=((draw(st.integers(0, 1)), draw(st.integers(0, 1))), (0, 0)),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
        transposed=True,
        bias=False,
    )


@st.composite
def moving(draw: st.DrawFn) -> Operator:
    """Something that moves, resamples or cuts."""
    low, high = draw(st.integers(0, 1)), draw(st.integers(0, 2))
    return draw(
        st.sampled_from(
            [
                Resize(scale=(Fraction(2), Fraction(3))),
                Resize(size=(9, 7), mode="linear", alignment="half_pixel"),
                Resize(size=(8, 8), mode="linear", alignment="align_corners"),
                Resize(size=(5, 11), mode="nearest", alignment="half_pixel",
                       rounding="round_prefer_floor"),
                Resize(size=(12, 6), mode="nearest", rounding="ceil"),
                AdaptivePool(kind="average", size=(4, 3)),
                Pad(padding=((0, 0), (0, 0), (low, high), (high, low))),
                Pad(padding=((0, 0), (0, 0), (low, low), (1, 0)), mode="edge"),
                Pad(padding=((0, 0), (0, 0), (low, 1), (1, low)), mode="reflect"),
                Slice(ranges=((2, low, None, 1 + low), (3, 1, None, 1))),
                Norm(kind="batch"),
            ]
        )
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn, layers: st.SearchStrategy[Operator]) -> Graph:
    """A network of a few layers, some in branches that are added or concatenated."""
    builder = GraphBuilder()
    values = [builder.input("x", (1, 2, 13, 11))]
    for index in range(draw(st.integers(1, 5))):
        used = values[draw(st.integers(max(0, len(values) - 2), len(values) - 1))]
        try:
            made = builder.add(draw(layers), used, name=f"n{index}")
        except ShapeError:  # it does not fit: leave it out
            continue
        if 0 in (builder.shapes[made] or ()):
            continue
        values.append(made)
        partners = [v for v in values[:-1] if builder.shapes[v] == builder.shapes[made]]
        if draw(st.booleans()) and partners:
            other = draw(st.sampled_from(partners))
            values.append(builder.add(Elementwise(), made, other, name=f"add{index}"))
    shape = builder.shapes[values[-1]]
    if shape is not None and draw(st.booleans()):
        alike = [v for v in values if (builder.shapes[v] or ())[2:] == shape[2:]]
        joined = builder.add(Concat(), values[-1], draw(st.sampled_from(alike)), name="joined")
        values.append(joined)
    return builder.build(values[-1])


@given(networks(window()))
@settings(max_examples=150)
def test_windows_in_branches_see_what_changes_them(graph: Graph) -> None:
    check(graph, graph.outputs[0].value)


@given(networks(st.one_of(window(), transposed(), moving())))
@settings(max_examples=250)
def test_any_mixture_sees_what_changes_it(graph: Graph) -> None:
    check(graph, graph.outputs[0].value, far_from_borders=False)


@pytest.mark.parametrize(
    "notation",
    [
        "1@12 > conv 2 3/2 p1 > deconv 2 4/2 p1 > conv 2 3 p1",
        "1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3 p1 > up 2 > conv 2 3 p1",
        "1@12 > deconv 2 2/3",  # leaves positions that see nothing
        "1@12 > deconv 2 2/3 d5",  # phases that are out of order
        "1@12 > [ conv 2 1x5 p0x2 | conv 2 5x1 p2x0 ] > conv 2 3 p1",
        "2@12 > ( conv 2 3 p1 > relu > conv 2 3 p1 + - ) x2",
        "1@12 > conv 4 3/2 p1 > reshape 1,1,2,2,6,6 > transpose 0,1,4,2,5,3 > reshape 1,1,12,12",
        "1@12 > reshape 1,1,6,2,6,2 > transpose 0,1,3,5,2,4 > reshape 1,4,6,6 > conv 2 3 p1",
    ],
)
def test_known_shapes_of_networks_are_exact(notation: str) -> None:
    graph = parse(notation)
    value = graph.outputs[0].value
    assert fields(graph)[value].status == "exact"
    check_reshaping(graph, value) if "reshape" in notation else check(graph, value)


def check_reshaping(graph: Graph, value: str) -> None:
    """A reshape to fixed sizes knows no batch: changes the pixels one by one."""
    image = graph.inputs[0].shape
    graph = positive(graph)
    base = np.random.default_rng(1).uniform(1, 2, image)
    before = evaluate(graph, {"x": base})[value]
    changed = np.zeros((2, before.shape[2], image[2]), bool)
    for row, column in np.ndindex(image[2:]):
        touched = base.copy()
        touched[:, :, row, column] += 100.0
        different = (evaluate(graph, {"x": touched})[value] != before)[0].any(axis=0)
        changed[0, :, row] |= different.any(axis=1)
        changed[1, :, column] |= different.any(axis=0)
    for axis, positions in enumerate(seen(graph, value)):
        truth = [hull(set(map(int, np.flatnonzero(line)))) for line in changed[axis]]
        assert list(positions.intervals) == truth


@pytest.mark.parametrize(
    ("notation", "value"),
    [
        ("2@6 > ( [ gap > conv 2 1 > relu > conv 2 1 ] + - )", "add1"),
        ("2@6 > conv 2 3 p1 > gap", "gap1"),
        ("2@6 > conv 2 3 p1 > instancenorm", "instancenorm1"),
    ],
)
def test_what_is_called_global_sees_the_whole_image(notation: str, value: str) -> None:
    graph = parse(notation)
    assert fields(graph)[value].status == "global"
    if "norm" not in notation:  # a mean that is subtracted again does not grow
        for axis in brute_force(graph, value):
            assert all(pixels == set(range(6)) for pixels in axis)


@pytest.mark.parametrize(
    "wrong",
    [
        "1@12 > conv 2 5 p2 > maxpool 2/2 > conv 2 3/2 p1",
        "1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3/2 p2,2,0,0",
    ],
)
def test_the_oracle_can_fail(wrong: str) -> None:
    truth = brute_force(parse("1@12 > conv 2 3 p1 > maxpool 2/2 > conv 2 3/2 p1"), "conv2")
    found = [list(positions.intervals) for positions in seen(parse(wrong), "conv2")]
    assert found != [[hull(pixels) for pixels in axis] for axis in truth]
