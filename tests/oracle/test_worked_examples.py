"""Examples that people work by hand, out of ``explain``: in Python and on the command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import convsmith as cs
from convsmith.analysis.explaining import Explanation
from convsmith.cli.running import run
from convsmith.graph import Constant, parse
from convsmith.graph.evaluate import evaluate


def explained(notation: str, layer: str | None = None, **options: Any) -> Explanation:
    """The explanation of a network in one line."""
    return cs.explain(cs.load(notation), layer, **options)


def numbers(found: Explanation, quantity: str) -> list[int | Fraction]:
    """What all formulas of a quantity come to, layer by layer."""
    return [
        line.formula.value
        for layer in found.layers
        for line in layer.lines
        if line.quantity == quantity
    ]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line prints, in one line."""
    assert run(["explain", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


# Receptive fields -----------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 9))
def test_stacked_kernels_see_two_more_pixels_each(count: int) -> None:
    found = explained(f"1@64 > ( conv 1 3 p1 ) x{count}")
    assert numbers(found, "rf.size") == [2 * layer + 1 for layer in range(1, count + 1)]


def test_the_field_forwards_and_backwards(capsys: pytest.CaptureFixture[str]) -> None:
    net = "1@200 > conv 1 5/2 p1 > maxpool 3/1 > conv 1 3/1 p1"
    found = explained(net)
    assert numbers(found, "rf.size") == [5, 9, 13]
    assert numbers(found, "rf.stride") == [2, 2, 2]
    assert numbers(found, "rf.back")[::-1] == [3, 5, 13]
    said = printed(capsys, net)
    for step in ("= 1 + (5 − 1) × 1 × 1 = 5", "= 5 + (3 − 1) × 1 × 2 = 9", "× 2 = 13"):
        assert step in said


@pytest.mark.parametrize(
    "net",
    [
        "1@300 > conv 1 7/2 p3 > maxpool 3/2 p1 > conv 1 3 p1 d2 > conv 1 5/3",
        "1@300 > conv 1 4/3 > conv 1 2 d5 > maxpool 2/2 > conv 1 1/2 > conv 1 9",
        "1@300x200 > conv 1 1x7/2x1 p0,3,0,3 > maxpool 3x2/2x3 > conv 1 3 p1 d1x4",
    ],
)
def test_both_directions_agree(net: str) -> None:
    found = explained(net)
    forwards = found.layers[-1].row.rf.size
    first = [line.formula.value for line in found.layers[0].lines if line.quantity == "rf.back"]
    assert tuple(first * (2 // len(first))) == forwards


# Counting -------------------------------------------------------------------------


def test_a_direct_convolution_counted() -> None:
    image = np.array([[1, 2, 3, 0, 1], [4, 5, 6, 1, 2], [7, 8, 9, 2, 3], [1, 2, 3, 0, 1],
                      [4, 5, 6, 1, 2]], dtype=np.float64)  # fmt: skip
    kernel = np.array([[1, 0, -1]] * 3, dtype=np.float64)
    net = parse("1@5 > conv 1 3 nobias")
    assert numbers(cs.explain(net), "mults") == [81]

    multiplications = 0
    output = np.zeros((3, 3))
    for row in range(3):
        for column in range(3):
            for i in range(3):
                for j in range(3):
                    output[row, column] += image[row + i, column + j] * kernel[i, j]
                    multiplications += 1
    assert multiplications == 81
    assert output.tolist() == [[-6, 12, 12]] * 3
    weight = Constant.of(kernel[None, None])
    filled = replace(net, constants={"conv1.weight": weight})
    found = evaluate(filled, {net.inputs[0].name: image[None, None]})["conv1"]
    assert found[0, 0].tolist() == output.tolist()


@pytest.mark.parametrize(
    ("height", "width", "kernel", "inside", "outside"), [(5, 5, 3, 1, 1), (9, 7, 4, 3, 8)]
)
def test_valid_multiplications_in_general(
    height: int, width: int, kernel: int, inside: int, outside: int
) -> None:
    found = explained(f"{inside}@{height}x{width} > conv {outside} {kernel} nobias")
    positions = (height - kernel + 1) * (width - kernel + 1)
    assert numbers(found, "mults") == [positions * kernel**2 * inside * outside]


def test_two_small_kernels_against_a_large_one() -> None:
    small = numbers(explained("1@28 > conv 1 3 nobias > conv 1 3 nobias"), "mults")
    large = numbers(explained("1@28 > conv 1 5 nobias"), "mults")
    assert (small, sum(small), large) == ([6_084, 5_184], 11_268, [14_400])
    assert 1 - Fraction(sum(small), large[0]) == Fraction("0.2175")


def test_same_padding_with_many_channels() -> None:
    def weights(net: str) -> Fraction | int:
        return sum(numbers(explained(net), "params"))

    stack = "64@32 > conv 64 3 p1{0} > conv 64 3 p1{0}"
    assert weights("64@32 > conv 64 5 p2 nobias") == 102_400
    assert weights(stack.format(" nobias")) == 73_728
    assert weights("64@32 > conv 64 5 p2") == 102_464
    assert weights(stack.format("")) == 73_856
    assert 1 - Fraction(73_728, 102_400) == Fraction("0.28")
    seven = explained("8@16 > conv 8 7 p3 nobias")
    threes = explained("8@16 > ( conv 8 3 p1 nobias ) x3")
    assert numbers(seven, "params") == [49 * 8**2]
    assert sum(numbers(threes, "params")) == 27 * 8**2
    assert numbers(seven, "mults") == [49 * 16 * 16 * 8**2]
    assert sum(numbers(threes, "mults")) == 27 * 16 * 16 * 8**2
    middle = explained("8@16 > conv 5 3 p1 nobias > conv 12 3 p1 nobias")
    assert sum(numbers(middle, "params")) == 9 * 8 * 5 + 9 * 5 * 12


def test_the_textbook_counts_a_bias_as_a_multiplication(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = "3@8x9 > conv 4 3x5"  # 6 x 5 outputs
    found = explained(net, "conv1", convention="textbook")
    assert numbers(found, "params") == [4 * (5 * 3 * 3 + 1)]
    mults, adds = 5 * 6 * 4 * (5 * 3 * 3 + 1), 5 * 6 * 4 * (5 * 3 * 3 - 1 + 1)
    assert numbers(found, "textbook.mults") == [mults]
    assert numbers(found, "textbook.adds") == [adds]
    assert numbers(found, "textbook.madd") == [mults + adds]
    said = printed(capsys, net, "conv1", "--convention", "textbook")
    assert "f_h · f_w · C_out · (k_h · k_w · C_in + 1) = 6 × 5 × 4 × (3 × 5 × 3 + 1)" in said
    total = cs.analyze(cs.load(net), convention="madd").total
    assert total.flops == mults + adds


def test_a_depthwise_separable_convolution() -> None:
    found = explained("3@8 > dw 3 nobias > conv 4 1 nobias")
    assert numbers(found, "params") == [27, 12]
    biased = explained("3@8 > dw 3 nobias > conv 4 1")
    assert sum(numbers(biased, "params")) == 3 * 9 + 4 * (3 + 1)
    textbook = cs.analyze(cs.load("3@8 > dw 3 nobias > conv 4 1"), convention="textbook").total
    assert textbook.mults == 36 * 3 * 9 + (3 + 1) * 4 * 36
    standard = numbers(explained("3@8 > conv 4 3 nobias"), "mults")[0]
    ratio = Fraction(sum(numbers(found, "mults")), standard)
    assert ratio == Fraction(1, 4) + Fraction(1, 9)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_divide_parameters_and_multiplications(groups: int) -> None:
    whole = explained("8@10 > conv 16 3 nobias")
    part = explained(f"8@10 > conv 16 3 g{groups} nobias")
    for quantity in ("params", "mults"):
        assert numbers(part, quantity)[0] * groups == numbers(whole, quantity)[0]


def test_a_bottleneck() -> None:
    assert numbers(explained("192@28 > conv 32 5 p2 nobias"), "mults") == [120_422_400]
    small = numbers(explained("192@28 > conv 16 1 nobias > conv 32 5 p2 nobias"), "mults")
    assert (small, sum(small)) == ([2_408_448, 10_035_200], 12_443_648)


INCEPTION = {
    "plain": (
        (
            "192@28 > [ conv 64 1 nobias | conv 128 3 p1 nobias | conv 32 5 p2 nobias"
            " | maxpool 3/1 p1 ]"
        ),
        387_072,
        416,
    ),
    "reduced": (
        (
            "192@28 > [ conv 64 1 nobias | conv 96 1 nobias > conv 128 3 p1 nobias"
            " | conv 16 1 nobias > conv 32 5 p2 nobias | maxpool 3/1 p1 > conv 32 1 nobias ]"
        ),
        163_328,
        256,
    ),
}


@pytest.mark.parametrize("module", INCEPTION)
def test_an_inception_module(module: str) -> None:
    net, weights, channels = INCEPTION[module]
    found = explained(net)
    assert sum(numbers(found, "params")) == weights
    joined = found.layers[-1]
    assert joined.row.outputs == ((1, channels, 28, 28),)
    assert [line.formula.value for line in joined.lines if line.quantity == "shape"] == [channels]


@pytest.mark.parametrize("size", [3, 5, 7])
def test_an_asymmetric_pair_has_a_fraction_of_the_weights(size: int) -> None:
    square = numbers(explained(f"6@20 > conv 6 {size} nobias"), "params")[0]
    pair = numbers(explained(f"6@20 > conv 6 1x{size} nobias > conv 6 {size}x1 nobias"), "params")
    assert Fraction(sum(pair), square) == Fraction(2, size)


# Sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(7, 13))
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_output_sizes_by_all_three_rules(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    window = dilation * (kernel - 1) + 1
    floor = explained(f"1@{size} > conv 1 {kernel}/{stride} d{dilation} p1")
    assert numbers(floor, "shape") == [(size + 2 - window) // stride + 1]
    same = explained(f"1@{size} > conv 1 {kernel}/{stride} d{dilation} psame")
    assert numbers(same, "shape") == [math.ceil(size / stride)]
    if kernel > 1:  # padding of at most half a window
        ceil = explained(f"1@{size} > maxpool {kernel}/{stride} d{dilation} p1 ceil")
        count = math.ceil((size + 2 - window) / stride) + 1
        begins_inside = (count - 1) * stride < size + 1
        assert numbers(ceil, "shape") == [count if begins_inside else count - 1]


def test_the_command_line_says_the_same_as_python(capsys: pytest.CaptureFixture[str]) -> None:
    net = "1@28 > conv 1 3 nobias > conv 1 3 nobias"
    assert run(["explain", net, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == explained(net).to_dict()
    assert sum(layer["mults"] for layer in data["layers"]) == 11_268
