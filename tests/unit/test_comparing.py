"""Comparing one convolution: which forms it has, how wide they are, and why others are refused."""

from __future__ import annotations

import pytest

from convsmith.analysis.comparing import Comparison, Width, arrangements, side_by_side
from convsmith.analysis.comparing.windows import (
    InapplicableError,
    dilated_stack,
    early_stack,
    sigma,
    spread,
    stack,
    support,
)
from convsmith.analysis.recursion import Window, forward
from convsmith.errors import UsageError
from convsmith.graph import parse


def compared(text: str, **options: object) -> Comparison:
    return arrangements(parse(text), curves=False, **options)  # type: ignore[arg-type]


def reasons(found: Comparison) -> dict[str, str]:
    return {item.form: item.reason for item in found.refused}


# One axis -------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", range(1, 40))
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_chain_reaches_as_far_and_leaves_no_holes(
    kernel: int, stride: int, dilation: int
) -> None:
    chains = [
        stack(kernel, stride, dilation, (3,)),
        stack(kernel, stride, dilation, (5, 3)),
        dilated_stack(kernel, stride, dilation),
        early_stack(kernel, stride, dilation),
    ]
    for chain in chains:
        assert forward(chain)[-1] == dilation * (kernel - 1) + 1
        pixels, jump = {0}, 1
        for window in chain:
            taps = [jump * window.dilation * tap for tap in range(window.kernel)]
            pixels = {pixel + tap for pixel in pixels for tap in taps}
            jump *= window.stride
        assert jump == stride
        assert pixels == set(range(0, dilation * kernel, dilation))
        assert support(chain) == kernel


def test_support_counts_the_pixels_that_are_really_seen() -> None:
    chains = [
        ((Window(3, 1, 2), Window(3, 1, 1)), 7),  # the wide one first
        ((Window(3, 2, 1), Window(3, 1, 1)), 7),
        ((Window(1), Window(5, 1, 3)), 5),
    ]
    for chain, expected in chains:
        assert support(chain) == expected
    assert support((Window(2, 1, 3), Window(2, 1, 5))) is None  # {0, 3, 5, 8}: no regular grid


@pytest.mark.parametrize("total", range(12))
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(
    "chain",
    [
        (Window(3), Window(3), Window(3)),
        (Window(2), Window(2), Window(2, 2)),
        (Window(3, 2), Window(3, 2), Window(2)),
        (Window(1, 2), Window(1)),
        (Window(5, 3, 2), Window(4, 1, 2)),
    ],
)
def test_padding_is_shared_out_without_a_rest(
    total: int, up: bool, chain: tuple[Window, ...]
) -> None:
    amounts = spread(total, chain, up=up)
    assert min(amounts) >= 0
    jump, placed = 1, 0
    for amount, window in zip(amounts, chain, strict=True):
        placed += jump * amount
        jump *= window.stride
    assert placed == total


def test_an_early_stride_makes_the_image_small_at_once() -> None:
    assert [(w.kernel, w.stride) for w in early_stack(11, 4, 1)] == [(3, 2), (3, 2), (2, 1)]
    assert early_stack(5, 3, 1) == stack(5, 3, 1, (3,))  # after a 3/3 nothing reaches two further
    with pytest.raises(InapplicableError, match="more than 32 layers"):
        early_stack(101, 2, 1)


def test_sigma_counts_strides_and_dilations() -> None:
    # Uniform weights on -2, 0, 2 and then, two pixels apart, on three places again.
    assert sigma((Window(3, 2, 2), Window(3, 1, 1))) ** 2 == pytest.approx(4 * 2 / 3 + 4 * 2 / 3)


# Forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("8@20 > conv 8 7/2 p3", "stack-3-early-stride", "conv 8 3/2 p1 > relu > conv 8 3 p1"),
        (
            "8@20 > conv 8 7 p3 nobias",
            "stack-3-dilated",
            "conv 8 3 p1 nobias > relu > conv 8 3 p2 d2 nobias",
        ),
        ("8@20 > conv 8 7 p3", "stack-3-5", "conv 8 5 p2 > relu > conv 8 3 p1"),
        ("8@20 > conv 8 3", "stack-2", "conv 8 2 > relu > conv 8 2"),
        (
            "8@20 > conv 8 3 p1",
            "stack-2",
            "conv 8 2 p1,1,0,0 > relu > conv 8 2 p0,0,1,1",
        ),
        ("8@20 > conv 8 9", "stack-3", "( conv 8 3 > relu ) x3 > conv 8 3"),
        ("8@20 > conv 8 5x3 p2x1", "stack-3", "conv 8 3 p1 > relu > conv 8 3x1 p1x0"),
        ("8@20 > conv 8 5 p1,2,3,0", "stack-3", "conv 8 3 p1,1,1,0 > relu > conv 8 3 p0,1,2,0"),
        ("8@20 > conv 8 6 psame", "stack-3-5", "conv 8 5 p2 > relu > conv 8 2 p0,0,1,1"),
        ("8@20 > conv 8 5/3 psame", "dilated", "conv 8 3/3 p1,1,2,2 d2"),
        ("8@9 > conv 8 4/3 ceil", "dilated", "conv 8 2/3 p0,0,1,1 d3"),
        ("8@20 > dw 5 p2", "stack-3", "conv 8 3 p1 g8 > relu > conv 8 3 p1 g8"),
        (
            "8@20 > conv 16 5 p2 g4",
            "depthwise-separable",
            "conv 8 5 p2 g8 nobias > conv 16 1 g4",
        ),
        ("8@20 > deconv 8 4/2 p1", "stack-3-late-stride", "deconv 8 2 > relu > deconv 8 2/2 p1"),
        (
            "8@20 > deconv 8 5/2 p2 o1",
            "spatial-vertical-first",
            "deconv 8 5x1/2x1 p2,0,1,0 > relu > deconv 8 1x5/1x2 p0,2,0,1",
        ),
        (
            "16@8x16x16 > conv 16 3 p1",
            "spatial-depth-last",
            "conv 16 1x3x3 p0x1x1 > relu > conv 16 3x1x1 p1x0x0",
        ),
        (
            "<1,16,99> > conv 16 7 p3",
            "bottleneck-expand",
            "conv 4 1 > relu > conv 4 7 p3 > relu > conv 16 1",
        ),
        ("16@9 > conv 32 1/2", "bottleneck", "conv 8 1/2 > relu > conv 32 1"),
        ("16@9 > deconv 32 1/2", "bottleneck", "conv 8 1 > relu > deconv 32 1/2"),
    ],
)
def test_what_a_form_looks_like(text: str, form: str, expected: str) -> None:
    found = compared(text)
    if form not in found.by_form:
        pytest.fail(f"no row: {reasons(found).get(form)}")
    shown = found.by_form[form].text.partition(" > ")[2]
    assert shown == expected


@pytest.mark.parametrize(
    ("text", "form", "reason"),
    [
        ("8@20 > conv 8 3 p1", "stack-3", "its kernel 3x3 is as small"),
        ("8@20 > conv 8 5 p2", "stack-3-5", "its kernel 5x5 is as small"),
        ("8@20 > conv 8 5 p2", "stack-3-dilated", "it is the plain stack here"),
        ("8@20 > conv 8 5 p2", "stack-3-early-stride", "its stride is 1"),
        ("8@20 > conv 8 1x7 p0x3", "spatial-vertical-first", "its kernel 1x7 is thin already"),
        ("<1,8,20> > conv 8 5 p2", "spatial-vertical-first", "it is 1-D"),
        ("8@20 > conv 8 1", "depthwise-separable", "its kernel is 1x1"),
        (
            "8@20 > dw 5 p2",
            "depthwise-separable",
            "it is depthwise: no group has channels to mix",
        ),
        ("8@20 > conv 8 101 p50", "stack-3", "it would take more than 32 layers"),
        ("3@20 > conv 8 5 p2", "grouped", "nothing up to 8 divides 3 and 8 channels"),
        (
            "8@20 > deconv 8 5/2 p2",
            "dilated",
            "some outputs of a transposed convolution would see nothing",
        ),
        ("3@20 > conv 64 7/2 p3", "stack-3", "it costs 20.33 times as many MACs"),
    ],
)
def test_why_a_form_is_refused(text: str, form: str, reason: str) -> None:
    found = compared(text)
    assert form not in found.by_form
    assert reasons(found)[form] == reason


def test_holes_and_groups_are_said() -> None:
    found = compared("8@20 > conv 8 5 p2").by_form
    assert (found["dilated"].note, found["dilated"].support) == ("sees 9 of the 25 pixels", 9)
    assert found["grouped"].note == "channels of different groups never meet"
    assert [row.form for row in found.values() if row.note] == ["grouped", "dilated"]


# Width and activation -------------------------------------------------------------


@pytest.mark.parametrize("width", ["wide", 0, -3, 1.5, True, None, 2**41])
def test_a_width_that_makes_no_sense(width: Width) -> None:
    with pytest.raises(UsageError, match="is no width; give keep, equal-cost or a number"):
        compared("8@20 > conv 8 5", width=width)


def test_a_width_must_suit_the_groups() -> None:
    found = compared("8@20 > conv 8 5 g4", width=10)
    assert reasons(found)["stack-3"] == "a width of 10 is no multiple of its 4 groups"
    assert (
        compared("8@20 > conv 8 5 g4", width=4)
        .by_form["stack-3"]
        .text.endswith("conv 4 3 g4 > relu > conv 8 3 g4")
    )


def test_equal_cost_of_two_3x3() -> None:
    row = compared("64@28 > conv 64 5 p2", width="equal-cost").by_form["stack-3"]
    # 9 * 64 M + 9 M * 64 <= 25 * 64 * 64
    assert row.text == "64@28x28 > conv 88 3 p1 > relu > conv 64 3 p1"
    assert 25 * 64 * 64 // (2 * 9 * 64) == 88


def test_a_width_of_one_may_cost_too_much() -> None:
    found = compared("1@28 > conv 1 2", width="equal-cost")
    assert reasons(found)["bottleneck"] == "even a width of 1 costs more"


@pytest.mark.parametrize(
    ("text", "activation", "expected", "count"),
    [
        ("8@20 > conv 8 5", None, "conv 8 3 > relu > conv 8 3", 1),
        ("8@20 > conv 8 5", "none", "conv 8 3 > conv 8 3", 0),
        ("8@20 > conv 8 5", "silu", "conv 8 3 > silu > conv 8 3", 1),
        ("8@20 > conv 8 5 > silu", None, "conv 8 3 > silu > conv 8 3 > silu", 2),
        ("8@20 > conv 8 5 > bn > relu6", None, "conv 8 3 > relu6 > conv 8 3 > relu6", 2),
        ("8@20 > conv 8 5 > maxpool 2 > silu", None, "conv 8 3 > relu > conv 8 3", 1),
        ("8@20 > ( conv 8 5 p2 > relu + - )", None, "conv 8 3 p1 > relu > conv 8 3 p1 > relu", 2),
    ],
)
def test_the_activation_between(
    text: str, activation: str | None, expected: str, count: int
) -> None:
    row = compared(text, activation=activation).by_form["stack-3"]
    assert row.text == f"8@20x20 > {expected}"
    assert row.nonlinearities == count


def test_something_else_is_no_activation() -> None:
    with pytest.raises(UsageError, match="'maxpool 2' is no activation"):
        compared("8@20 > conv 8 5", activation="maxpool 2")


# Which convolution ----------------------------------------------------------------

TWO = "3@32 > conv 8 5 p2 > relu > conv 8 7 p3 > gap"


def test_a_layer_of_a_network() -> None:
    found = compared(TWO, layer="conv2")
    assert found.rows[0].text == "8@32x32 > conv 8 7 p3"
    assert found.layer == "conv2"


@pytest.mark.parametrize(
    ("text", "layer", "message"),
    [
        (TWO, None, "has 2 convolutions; name the layer to compare: conv1, conv2, or give"),
        ("3@32 > relu", None, "it has no convolution; give one such as"),
        (TWO, "relu1", "relu1: it is of type Activation, not a convolution"),
        (TWO, "conv3", "no convolution 'conv3'; did you mean 'conv2'?"),
        (TWO, "head", "no convolution 'head'; it has conv1, conv2"),
        ("0@9 > conv 4 3", None, "conv1: it has no input channels"),
    ],
)
def test_a_layer_that_cannot_be_compared(text: str, layer: str | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compared(text, layer=layer)
    assert message in str(caught.value)


def test_an_empty_batch_costs_nothing_and_has_no_ratio() -> None:
    found = compared("0x8@20 > conv 8 5")
    assert {row.ratio_macs for row in found.rows} == {None}
    assert "stack-3" in found.by_form


def test_sizes_beyond_any_memory() -> None:
    found = compared("16@4000000000 > conv 8 100000001")
    assert found.by_form["spatial-vertical-first"].support == 100000001**2
    assert reasons(found)["stack-3"] == "it would take more than 32 layers"


# Curves and networks --------------------------------------------------------------


def test_curves_are_those_of_the_textbook() -> None:
    curves = {c.form: dict(c.points) for c in arrangements(parse("8@20 > conv 8 5 p2")).curves}
    for kernel in range(5, 16, 2):
        assert curves["stack-3"][kernel] == (kernel - 1) / 2 * 9 / kernel**2
    for kernel in range(2, 16):
        assert curves["spatial-vertical-first"][kernel] == pytest.approx(2 / kernel)
    assert 3 not in curves["stack-3"]


def test_networks_side_by_side() -> None:
    found = side_by_side([parse("8@9 > conv 8 3 > relu"), parse("8@9 > unsupported Foo 8@7")])
    assert found.rows[0].nonlinearities == 1
    assert found.rows[1].unsupported == ("unsupported1 (Foo)",)
    assert found.rows[1].shape == (1, 8, 7, 7)


@pytest.mark.parametrize("count", [0, 1, 27])
def test_too_few_or_too_many_networks(count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} network"):
        side_by_side([parse("8@9 > relu")] * count)


def test_times_are_put_beside_the_rows() -> None:
    found = compared("8@20 > conv 8 5").timed({"original": 4.0, "stack-3": 3.0}, "a clock")
    assert found.by_form["stack-3"].ratio_milliseconds == 0.75
    assert found.by_form["dilated"].milliseconds is None
    assert found.to_dict()["clock"] == "a clock"
