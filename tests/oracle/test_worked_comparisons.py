"""Textbook comparisons, whose numbers are easy to check by hand: in Python and on the command line.

Every expected number is written out as the product that a reader would multiply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

import convsmith as cs
from convsmith.analysis.comparing import Comparison
from convsmith.cli.running import run

PLAIN_INCEPTION = (
    "192@28 > [ conv 64 1 nobias | conv 128 3 p1 nobias | conv 32 5 p2 nobias | maxpool 3/1 p1 ]"
)
REDUCED_INCEPTION = (
    "192@28 > [ conv 64 1 nobias | conv 96 1 nobias > conv 128 3 p1 nobias"
    " | conv 16 1 nobias > conv 32 5 p2 nobias | maxpool 3/1 p1 > conv 32 1 nobias ]"
)

Data = dict[str, Any]
Compared = Callable[..., Data]


def by_hand(found: Comparison) -> Data:
    """The JSON-ready data of a comparison, with its rows by form."""
    data = found.to_dict()
    data["rows"] = {row["form"]: row for row in data["rows"]}
    return data


@pytest.fixture(params=["python", "command line"])
def compared(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Compared:
    """Compares in one of two ways and returns the data, its rows by form."""

    def in_python(*sources: str, width: int | str = "keep") -> Data:
        return by_hand(cs.compare(sources[0], against=sources[1:], width=width))  # type: ignore[arg-type]

    def on_the_command_line(*sources: str, width: int | str = "keep") -> Data:
        assert run(["compare", *sources, "--width", str(width), "--json"]) == 0
        data: Data = json.loads(capsys.readouterr().out)
        data["rows"] = {row["form"]: row for row in data["rows"]}
        return data

    return in_python if request.param == "python" else on_the_command_line


def test_a_5x5_on_28x28_and_two_3x3_without_padding(compared: Compared) -> None:
    rows = compared("1@28 > conv 1 5 nobias")["rows"]
    assert rows["original"]["macs"] == 24 * 24 * 25 == 14_400
    assert rows["stack-3"]["macs"] == 26 * 26 * 9 + 24 * 24 * 9 == 6_084 + 5_184 == 11_268
    assert 100 * (1 - rows["stack-3"]["ratio_macs"]) == pytest.approx(21.75, abs=1e-12)


def test_the_direct_convolution_of_5x5_takes_81_multiplications(compared: Compared) -> None:
    row = compared("1@5 > conv 1 3 nobias")["rows"]["original"]
    assert (row["mults"], row["output"]) == (81, [1, 1, 3, 3])


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_a_7x7_and_three_3x3_with_the_same_padding(compared: Compared, channels: int) -> None:
    rows = compared(f"{channels}@20x30 > conv {channels} 7 p3 nobias")["rows"]
    squared = channels * channels
    assert (rows["original"]["params"], rows["stack-3"]["params"]) == (49 * squared, 27 * squared)
    assert rows["original"]["mults"] == 49 * 20 * 30 * squared
    assert rows["stack-3"]["mults"] == 27 * 20 * 30 * squared
    assert rows["stack-3"]["nonlinearities"] == 2


def test_a_5x5_and_two_3x3_save_28_percent(compared: Compared) -> None:
    rows = compared("64@28 > conv 64 5 p2 nobias")["rows"]
    assert rows["original"]["params"] == 25 * 64 * 64 == 102_400
    assert rows["stack-3"]["params"] == 18 * 64 * 64 == 73_728
    assert rows["stack-3"]["ratio_macs"] == 0.72


def test_biases_come_on_top(compared: Compared) -> None:
    rows = compared("64@28 > conv 64 5 p2")["rows"]
    assert rows["original"]["params"] == 102_464
    assert rows["stack-3"]["params"] == 73_856


@pytest.mark.parametrize("middle", [1, 16, 40])
def test_a_middle_width(compared: Compared, middle: int) -> None:
    rows = compared("24@28 > conv 48 5 p2 nobias", width=middle)["rows"]
    assert rows["stack-3"]["params"] == 9 * 24 * middle + 9 * middle * 48


@pytest.mark.parametrize(("layers", "kernel"), [(2, 5), (3, 7), (4, 9)])
def test_stacks_of_3x3_see_what_one_kernel_sees(
    compared: Compared, layers: int, kernel: int
) -> None:
    row = compared(f"8@40 > conv 8 {kernel} p{kernel // 2}")["rows"]["stack-3"]
    stack = cs.load(row["text"])
    assert len([node for node in stack.nodes if type(node.op).__name__ == "Conv"]) == layers
    assert row["rf"]["size"] == [kernel, kernel]
    assert kernel == 2 * layers + 1
    assert row["support"] == kernel * kernel


def test_a_bottleneck_of_16(compared: Compared) -> None:
    rows = compared("192@28 > conv 32 5 p2", width=16)["rows"]
    assert rows["original"]["macs"] == 28 * 28 * 192 * 25 * 32 == 120_422_400
    expected = 28 * 28 * 192 * 16 + 28 * 28 * 16 * 25 * 32
    assert rows["bottleneck"]["macs"] == expected == 2_408_448 + 10_035_200 == 12_443_648


def test_the_plain_and_the_reduced_inception_module(compared: Compared) -> None:
    data = compared(PLAIN_INCEPTION, REDUCED_INCEPTION)
    plain, reduced = data["rows"]["A"], data["rows"]["B"]
    assert plain["params"] == 192 * 64 + 9 * 192 * 128 + 25 * 192 * 32 == 387_072
    assert plain["output"] == [1, 416, 28, 28]
    assert reduced["params"] == (
        192 * 64 + 192 * 96 + 9 * 96 * 128 + 192 * 16 + 25 * 16 * 32 + 192 * 32
    )
    assert reduced["params"] == 163_328
    assert reduced["output"] == [1, 256, 28, 28]
    assert plain["rf"]["size"] == reduced["rf"]["size"] == [5, 5]
    assert reduced["ratio_macs"] == 163_328 / 387_072


@pytest.mark.parametrize("kernel", [3, 5, 7, 15])
@pytest.mark.parametrize("order", ["spatial-vertical-first", "spatial-horizontal-first"])
def test_two_thin_kernels_have_two_nths_of_the_weights(
    compared: Compared, kernel: int, order: str
) -> None:
    rows = compared(f"16@30 > conv 16 {kernel} nobias")["rows"]
    assert rows[order]["params"] * kernel == rows["original"]["params"] * 2


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(3, 4, 3), (64, 128, 5), (32, 32, 7)])
def test_depthwise_separable_by_standard(
    compared: Compared, inputs: int, outputs: int, kernel: int
) -> None:
    source = f"{inputs}@20 > conv {outputs} {kernel} p{kernel // 2}"
    rows = compared(source)["rows"]
    row = rows["depthwise-separable"]
    assert row["params"] == inputs * kernel**2 + outputs * (inputs + 1)
    assert row["macs"] == 20 * 20 * (inputs * kernel**2 + inputs * outputs)
    assert row["ratio_macs"] == pytest.approx(1 / outputs + 1 / kernel**2, rel=1e-15)


def test_depthwise_separable_of_3_to_4_channels(compared: Compared) -> None:
    row = compared("3@9 > conv 4 3 nobias")["rows"]["depthwise-separable"]
    depthwise, pointwise = (math.prod(c.shape) for c in cs.load(row["text"]).constants.values())
    assert (depthwise, pointwise) == (27, 12)


def test_groups_divide_parameters_and_multiplications(compared: Compared) -> None:
    rows = compared("64@28 > conv 64 3 p1 nobias")["rows"]
    assert rows["grouped"]["text"].endswith("g4 nobias")
    for key in ("params", "mults"):
        assert rows["grouped"][key] * 4 == rows["original"][key]


@pytest.mark.parametrize("layers", [2, 3, 7])
def test_the_effective_field_of_a_stack_is_a_gaussian(compared: Compared, layers: int) -> None:
    kernel = 2 * layers + 1
    row = compared(f"8@40 > conv 8 {kernel} p{layers}")["rows"]["stack-3"]
    expected = math.sqrt(layers * (3**2 - 1) / 12)
    assert row["sigma"] == pytest.approx([expected, expected], rel=1e-15)
    # The variance of the sum of independent uniform steps -1, 0 and 1, counted out.
    weights = {0: 1}
    for _ in range(layers):
        weights = {
            place: sum(weights.get(place - step, 0) for step in (-1, 0, 1))
            for place in range(-layers, layers + 1)
        }
    variance = sum(n * place**2 for place, n in weights.items()) / sum(weights.values())
    assert row["sigma"][0] == pytest.approx(math.sqrt(variance))


def test_the_examples_can_fail(compared: Compared) -> None:
    rows = compared("1@28 > conv 1 5 p2 nobias")["rows"]
    assert rows["stack-3"]["macs"] != 11_268
