"""Specs: sizes by hand, and every value that no convolution has."""

from __future__ import annotations

from typing import Any

import pytest

from convsmith.conv.geometry import Geometry
from convsmith.conv.layers import convolutions
from convsmith.conv.spec import ConvSpec
from convsmith.errors import ConvsmithError, ShapeError, UsageError
from convsmith.graph import parse

GIVEN: dict[str, Any] = {"size": (8, 9), "channels": 4, "filters": 6, "kernel": (3, 3)}


def spec(**changes: Any) -> ConvSpec:
    return ConvSpec(**{**GIVEN, **changes})


def test_sizes_of_a_known_layer() -> None:
    stem = ConvSpec(
        size=(224, 224), channels=3, filters=64, kernel=(7, 7), stride=(2, 2),
        padding=((3, 3), (3, 3)), batch=2, layout="channels_last",
    )  # fmt: skip
    assert stem.output == (112, 112)
    assert stem.input_shape == (2, 224, 224, 3)
    assert stem.output_shape == (2, 112, 112, 64)
    assert stem.weight_shape == (64, 3, 7, 7)
    assert stem.macs == 2 * 118_013_952
    assert stem.with_batch(1).macs == 118_013_952
    assert stem.with_batch(2) is stem


def test_reach_padding_and_the_last_step_that_fits() -> None:
    made = spec(kernel=(3, 2), dilation=(2, 3), stride=(2, 3), padding=((1, 2), (0, 1)), groups=2)
    assert made.reach == (5, 4)
    assert made.padded == (11, 10)
    assert made.output == (4, 3)
    assert made.weight_shape == (6, 2, 3, 2)
    assert Geometry.of(made).channels == 2
    assert Geometry.of(made).size == (1, 8, 9)
    assert Geometry.of(made).before == (0, 1, 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "4@8x9 > conv 6 3"),
        ({"batch": 3, "padding": ((1, 1), (1, 1))}, "3x4@8x9 > conv 6 3 p1"),
        ({"padding": ((0, 1), (2, 3))}, "4@8x9 > conv 6 3 p0,2,1,3"),
        (
            {"kernel": (3, 1), "stride": (2, 1), "dilation": (1, 2), "groups": 2},
            "4@8x9 > conv 6 3x1/2x1 d1x2 g2",
        ),
        (
            {"bias": False, "residual": True, "activation": "relu", "layout": "channels_last"},
            "4@8x9 > conv 6 3 nobias + - > relu channels_last",
        ),
        ({"size": (8,), "kernel": (3,)}, "4@8 > conv 6 3"),
    ],
)
def test_text(changes: dict[str, Any], text: str) -> None:
    assert str(spec(**changes)) == text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": (), "kernel": ()}, UsageError, "1 to 3 spatial axes, not 0; give the spatial"),
        ({"size": (1,) * 4}, UsageError, "1 to 3 spatial axes, not 4"),
        ({"kernel": (3,)}, UsageError, "kernel (3,) has 1 entries for 2 spatial axes; give one"),
        ({"stride": (1, 1, 1)}, UsageError, "stride (1, 1, 1) has 3 entries for 2"),
        ({"channels": 0}, UsageError, "channels is 0; it has to be 1 or more."),
        ({"filters": -1}, UsageError, "filters is -1; it has to be 1 or more."),
        ({"groups": 0}, UsageError, "groups is 0; it has to be 1 or more."),
        ({"kernel": (3, 0)}, UsageError, "kernel is 0; it has to be 1 or more."),
        ({"stride": (0, 1)}, UsageError, "stride is 0; it has to be 1 or more."),
        ({"dilation": (1, -2)}, UsageError, "dilation is -2; it has to be 1 or more."),
        ({"batch": -1}, UsageError, "a size or padding is -1; they have to be 0 or more;"),
        ({"padding": ((0, -1), (0, 0))}, UsageError, "a size or padding is -1"),
        ({"groups": 3}, ShapeError, "4 channels and 6 filters cannot be split into 3 groups;"),
        ({"layout": "nchw"}, UsageError, "no layout 'nchw'; choose one of channels_first, "),
        ({"activation": "gelu"}, UsageError, "no activation 'gelu'; choose one of none, relu, "),
        (
            {"kernel": (5, 5), "dilation": (1, 3)},
            ShapeError,
            "reaches over 13 elements of spatial axis 1, which has 9 and 0 of padding; pad more",
        ),
        ({"batch": 2**40}, ShapeError, "elements is more than any memory holds; choose smaller"),
    ],
)
def test_what_no_convolution_has(
    changes: dict[str, Any], error: type[ConvsmithError], message: str
) -> None:
    with pytest.raises(error) as caught:
        spec(**changes)
    assert message in str(caught.value)


def test_specs_of_a_network() -> None:
    net = parse("3@32x24 > conv 8 3/2 p1 > relu > deconv 8 2/2 > conv 4 1 > silu > dw 3 p1")
    found = convolutions(net, layout="channels_last")
    assert [str(layer.spec) for layer in found] == [
        "3@32x24 > conv 8 3/2 p1 > relu channels_last",
        "8@32x24 > conv 4 1 > silu channels_last",
        "4@32x24 > conv 4 3 p1 g4 channels_last",
    ]
