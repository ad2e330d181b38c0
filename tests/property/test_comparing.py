"""Every arrangement of random convolutions: the same output, the same field, the same pixels.

The oracle is the definition of a convolution, axis by axis: a table of which inputs every output
reads, and the product of such tables for a chain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsmith.analysis import analyze
from convsmith.analysis.comparing import ORIGINAL, Comparison, arrangements
from convsmith.errors import ShapeError
from convsmith.graph import Graph, GraphBuilder, parse
from convsmith.graph.operators import Conv

Array = npt.NDArray[Any]


@st.composite
def convolutions(draw: st.DrawFn, *, transposed: bool = False, rank: int | None = None) -> Graph:
    """A network of one convolution, of any rank, stride, dilation, padding and groups."""
    rank = rank or draw(st.integers(1, 3))
    largest = {1: 12, 2: 9, 3: 4}[rank]

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel = axes(1, largest)
    stride, dilation = axes(1, 4), axes(1, 3)
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    inputs, outputs = (groups * draw(st.integers(1, 4)) for _ in range(2))
    same = None if transposed else draw(st.sampled_from([None, None, "upper", "lower"]))
    padding = tuple(zip(axes(0, largest), axes(0, largest), strict=True))
    extra = tuple(min(e, s - 1) for e, s in zip(axes(0, 3), stride, strict=True))
    op = Conv(
        channels=outputs,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        same=same,  # type: ignore[arg-type]  # one of the words above
        groups=groups,
        bias=draw(st.booleans()),
        rounding="floor" if transposed else draw(st.sampled_from(["floor", "floor", "ceil"])),
        transposed=transposed,
        output_padding=extra if transposed and any(extra) else (),
    )
    sizes = axes(1, 16 if rank < 3 else 6)
    builder = GraphBuilder()
    x = builder.input("x", (1, inputs, *sizes))
    try:
        builder.add(op, x, name="layer")
    except ShapeError:
        return draw(convolutions(transposed=transposed, rank=rank))
    return builder.build("layer")


def compared(net: Graph, **options: Any) -> Comparison:
    return arrangements(net, curves=False, **options)


def check(found: Comparison) -> None:
    first = found.rows[0]
    assert first.form == ORIGINAL
    for row in found.rows:
        analysis = analyze(parse(row.text))
        (output,) = analysis.outputs.values()
        assert (output.shape, output.rf) == (first.shape, first.rf), row.text
        numbers = (row.macs, row.params, row.mults, row.adds, row.peak_activation_bytes)
        total = analysis.total
        assert numbers == (
            *(total.macs, total.params, total.mults, total.adds),
            total.peak_activation_bytes,
        )
        assert row is first or row.macs <= first.macs
    reasons = [item.reason for item in found.refused]
    assert not [reason for reason in reasons if "differ" in reason]


@given(convolutions())
@settings(max_examples=250)
def test_every_arrangement_has_the_output_and_the_field_of_the_original(net: Graph) -> None:
    check(compared(net))


@given(convolutions(transposed=True))
@settings(max_examples=120)
def test_every_arrangement_of_a_transposed_convolution_has_its_output_and_field(
    net: Graph,
) -> None:
    check(compared(net))


@given(convolutions(), st.integers(1, 40))
@settings(max_examples=40)
def test_a_width_that_is_asked_for_is_the_width_or_refused(net: Graph, width: int) -> None:
    found = compared(net, width=width)
    check(found)
    for form in ("stack-3", "bottleneck"):
        row = found.by_form.get(form)
        if row is not None:
            node = parse(row.text).nodes[0]
            assert isinstance(node.op, Conv)
            assert node.op.channels == width


@given(convolutions(rank=2))
@settings(max_examples=20)
def test_equal_cost_is_the_most_channels_that_cost_no_more(net: Graph) -> None:
    found = compared(net, width="equal-cost")
    check(found)
    for form in ("stack-3", "spatial-vertical-first", "bottleneck"):
        row = found.by_form.get(form)
        if row is None:
            continue
        given, op = (parse(text).nodes[0].op for text in (found.rows[0].text, row.text))
        assert isinstance(op, Conv)
        assert isinstance(given, Conv)
        wider = compared(net, width=op.channels + given.groups)
        assert form not in wider.by_form or wider.by_form[form].macs > found.rows[0].macs


# Independent of the analysis ------------------------------------------------------


def seen(text: str) -> list[Array]:
    """Per axis, which inputs (columns) every output (row) sees: what the definition says."""
    net = parse(text)
    ops = [node.op for node in net.nodes if isinstance(node.op, Conv)]
    maps = []
    for axis, size in enumerate(net.inputs[0].shape[2:]):
        sees = np.eye(size, dtype=bool)
        for op in ops:
            sees = step(op, axis, len(sees)) @ sees
        maps.append(sees)
    return maps


def step(op: Conv, axis: int, size: int) -> Array:
    """Which inputs every output of one convolution reads along one axis."""
    (low, high), stride, apart = op.padding[axis], op.stride[axis], op.dilation[axis]
    reach = apart * (op.kernel[axis] - 1)
    taps = range(0, reach + 1, apart)
    if op.transposed:
        extra = op.output_padding[axis] if op.output_padding else 0
        reads = np.zeros(((size - 1) * stride - low - high + reach + 1 + extra, size), dtype=bool)
        for source in range(size):
            for tap in taps:
                if 0 <= source * stride + tap - low < len(reads):
                    reads[source * stride + tap - low, source] = True
        return reads
    reads = np.zeros(((size + low + high - reach - 1) // stride + 1, size), dtype=bool)
    for output in range(len(reads)):
        for tap in taps:
            if 0 <= output * stride + tap - low < size:
                reads[output, output * stride + tap - low] = True
    return reads


def explicit(net: Graph) -> bool:
    """Whether its padding and its rounding are numbers."""
    op = net.nodes[0].op
    assert isinstance(op, Conv)
    return op.same is None and op.rounding == "floor"


@given(st.one_of(convolutions(), convolutions(transposed=True)).filter(explicit))
@settings(max_examples=250)
def test_every_output_sees_the_same_pixels(net: Graph) -> None:
    found = compared(net)
    first = found.rows[0]
    op = net.nodes[0].op
    assert isinstance(op, Conv)
    wanted = seen(first.text)
    for row in found.rows[1:]:
        for axis, (want, have) in enumerate(zip(wanted, seen(row.text), strict=True)):
            assert want.shape == have.shape
            assert not (have & ~want).any(), row.text  # never more
            if row.form == "dilated":
                continue
            # Where no padding is in the way, and nothing is cut away: exactly the same.
            whole = want.sum(1) == op.kernel[axis]
            if op.transposed:
                far = op.dilation[axis] * (op.kernel[axis] - 1) + sum(op.output_padding)
                whole = np.arange(len(want)) >= far
                whole &= whole[::-1]
            assert (want == have)[whole].all(), row.text


WINDOWS = ("5 p2", "3 p2 d2", "3 p1")


def test_the_oracle_can_fail() -> None:
    whole, holes, small = (seen(f"1@9 > conv 1 {window}")[0][4] for window in WINDOWS)
    assert (whole.sum(), holes.sum(), small.sum()) == (5, 3, 3)
    with pytest.raises(AssertionError):
        check(
            Comparison(
                kind="arrangements",
                source="",
                rows=(
                    compared(parse("1@9 > conv 1 5 p2")).rows[0],
                    compared(parse("1@9 > conv 1 3 p1")).rows[0],
                ),
            )
        )
