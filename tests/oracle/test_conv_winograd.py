"""Winograd's compiled forms against torch in float64: schedules, widths, layouts, remainders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from numpy.typing import NDArray

from convsmith.conv import plan as plans
from convsmith.conv.algorithms.winograd import Winograd, WinogradTiling
from convsmith.conv.plan import ConvPlan, plan_with
from convsmith.conv.spec import LAYOUTS, ConvSpec, Layout
from convsmith.errors import UnsupportedOperatorError
from convsmith.kernel.target import WIDTHS, host

SHAPES: dict[str, dict[str, Any]] = {
    "small and odd": {"size": (7, 9), "channels": 5, "filters": 7, "kernel": (3, 3),
                      "padding": ((1, 1), (1, 1))},
    "residual": {"size": (18, 17), "channels": 32, "filters": 48, "kernel": (3, 3), "batch": 2,
                 "padding": ((1, 1), (1, 1)), "activation": "relu", "residual": True},
    "unequal axes": {"size": (10, 13), "channels": 17, "filters": 20, "kernel": (2, 4),
                     "padding": ((0, 1), (0, 2)), "bias": False, "activation": "silu"},
    "one axis": {"size": (40,), "channels": 8, "filters": 16, "kernel": (5,), "padding": ((2, 1),)},
    "one column": {"size": (20, 11), "channels": 24, "filters": 20, "kernel": (7, 1),
                   "padding": ((2, 1), (0, 0))},
    "groups": {"size": (9, 14), "channels": 48, "filters": 36, "kernel": (3, 3), "groups": 3,
               "batch": 2, "padding": ((1, 0), (2, 1)), "residual": True},
    "mostly padding": {"size": (2, 1), "channels": 3, "filters": 4, "kernel": (3, 3),
                       "padding": ((7, 2), (5, 6))},
    "stride": {"size": (15, 22), "channels": 17, "filters": 40, "kernel": (3, 3), "batch": 2,
               "stride": (2, 2), "padding": ((1, 1), (0, 1)), "residual": True},
    "stride down": {"size": (20, 9), "channels": 32, "filters": 16, "kernel": (5, 3),
                    "stride": (2, 1), "padding": ((2, 2), (1, 1)), "activation": "relu"},
    "stride of one tap": {"size": (13, 20), "channels": 24, "filters": 32, "kernel": (1, 7),
                          "stride": (2, 2), "groups": 2, "padding": ((0, 0), (3, 2))},
    "one output": {"size": (3, 3), "channels": 16, "filters": 16, "kernel": (3, 3)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may depend on what the workspace held before."""
    monkeypatch.setattr(plans, "workspace_poison", float("nan"))


def tensors(spec: ConvSpec, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(seed)
    shapes = (spec.input_shape, spec.weight_shape, (spec.filters,), spec.output_shape)
    x, w, b, r = (random.standard_normal(shape, np.float32) for shape in shapes)
    return x, w, b, r


def truth(
    spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any], r: NDArray[Any]
) -> NDArray[np.float64]:
    tx = torch.tensor(x, dtype=torch.double)
    if spec.layout == "channels_last":
        tx = tx.movedim(-1, 1)
    tx = F.pad(tx, [p for pair in reversed(spec.padding) for p in pair])
    convolve = (F.conv1d, F.conv2d)[spec.rank - 1]
    bias = torch.tensor(b, dtype=torch.double) if spec.bias else None
    w64 = torch.tensor(w, dtype=torch.double)
    y = convolve(tx, w64, bias, stride=spec.stride, groups=spec.groups)
    if spec.layout == "channels_last":
        y = y.movedim(1, -1)
    if spec.residual:
        y = y + torch.tensor(r)
    functions = {"none": lambda t: t, "relu": torch.relu, "silu": F.silu}
    return np.asarray(functions[spec.activation](y).numpy())


def computed(made: ConvPlan, *arrays: NDArray[np.float32], **how: Any) -> NDArray[np.float32]:
    x, w, b, r = arrays
    spec = made.spec
    prepared = made.prepare(w, b if spec.bias else None)
    return prepared(x, residual=r if spec.residual else None, **how)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_tiling_agrees_with_float64(name: str, lanes: int, layout: Layout) -> None:
    spec = ConvSpec(**SHAPES[name], layout=layout)
    target = host().with_lanes(lanes)
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    tilings = Winograd().tilings(spec, target, 2)
    assert {tiling.staged for tiling in tilings} == {False, True}
    for tiling in tilings:
        made = plan_with(spec, "winograd", tiling, target=target)
        got = computed(made, *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_any_size(layout: Layout, staged: bool) -> None:
    """Ragged last blocks in both directions, and register tiles with a remainder."""
    spec = ConvSpec(
        size=(23, 27), channels=32, filters=40, kernel=(3, 3), padding=((1, 1), (1, 1)),
        layout=layout,
    )  # fmt: skip
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    first = Winograd().tilings(spec, host(), 1)[0]
    ways = [(2, 3, 4, 32), (3, 2, 5, 16), (1, 7, 7, 16)] if not staged else [(6, 7, 4, 16)]
    for rows, columns, height, chunk in ways:
        tiling = replace(
            first, m=(4, 4), rows=rows, columns=columns, height=height, chunk=chunk,
            panels=1, staged=staged,
        )  # fmt: skip
        got = computed(plan_with(spec, "winograd", tiling), *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


LARGE: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "7x7 of 3x3": ({"size": (14, 23), "channels": 64, "kernel": (3, 3)}, (7, 7)),
    "6x8 of 3x3": ({"size": (13, 16), "channels": 40, "kernel": (3, 3)}, (6, 8)),
    "6x4 of 5x5": ({"size": (13, 8), "channels": 32, "kernel": (5, 5)}, (6, 4)),
    "4x4 of 7x7": ({"size": (8, 10), "channels": 32, "kernel": (7, 7)}, (4, 4)),
    "7x7 at stride 2": (
        {"size": (28, 25), "channels": 20, "kernel": (3, 3), "stride": (2, 2)}, (7, 7),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", LARGE)
def test_large_tiles_agree_with_float64(name: str, lanes: int, layout: Layout) -> None:
    sizes, m = LARGE[name]
    padding = tuple((k // 2, k // 2) for k in sizes["kernel"])
    spec = ConvSpec(**sizes, filters=36, padding=padding, layout=layout)
    target = host().with_lanes(lanes)
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    first = Winograd().tilings(spec, target, 1)[0]
    high, wide = (-(-size // each) for size, each in zip(spec.output, m, strict=True))
    for staged in (False, True):
        tiling = replace(
            first, m=m, rows=high if staged else 1, columns=wide, height=wide, panels=1,
            staged=staged,
        )  # fmt: skip
        made = plan_with(spec, "winograd", tiling, target=target)
        assert made.error_ratio < 21
        got = computed(made, *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=6e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "channels", "filters"), [((130, 150), 16, 24), ((9, 8), 512, 16), ((9, 8), 500, 16)]
)
def test_large_outputs_and_many_channels(
    size: tuple[int, int], channels: int, filters: int, layout: Layout
) -> None:
    """What is asked for before it is written; tiles that lie apart, in other cache sets."""
    target = replace(host(), level2=1 << 17)
    spec = ConvSpec(
        size=size, channels=channels, filters=filters, kernel=(3, 3), padding=((1, 1), (1, 1)),
        batch=2, layout=layout,
    )  # fmt: skip
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    for tiling in Winograd().tilings(spec, target, 2):
        got = computed(plan_with(spec, "winograd", tiling, target=target), *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=6e-5 * np.abs(wanted).max())


def one_of_each(spec: ConvSpec) -> list[WinogradTiling]:
    tilings = Winograd().tilings(spec, host(), 2)
    return [next(t for t in tilings if t.staged == staged) for staged in (False, True)]


@pytest.mark.parametrize("name", ["residual", "groups", "stride", "stride down"])
def test_the_reference_is_the_formula_in_float64(name: str) -> None:
    for layout in LAYOUTS:
        spec = ConvSpec(**(SHAPES[name] | {"residual": False, "bias": False, "activation": "none"}),
                        layout=layout)  # fmt: skip
        x, w, b, r = tensors(spec)
        for tiling in one_of_each(spec):
            got = Winograd().reference(spec, x.astype(float), w.astype(float), tiling)
            np.testing.assert_allclose(got, truth(spec, x, w, b, r), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "groups", "stride"])
def test_results_depend_neither_on_threads_nor_on_the_batch(name: str) -> None:
    spec = ConvSpec(**SHAPES[name])
    x, w, b, r = tensors(spec.with_batch(5))
    for tiling in one_of_each(spec):
        made = plan_with(spec, "winograd", tiling)
        one = computed(made, x, w, b, r, members=1)
        np.testing.assert_array_equal(computed(made, x, w, b, r, members=4), one)
        np.testing.assert_array_equal(computed(made, x[2:3], w, b, r[2:3]), one[2:3])
        assert computed(made, x[:0], w, b, r[:0]).shape[0] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_reaches_its_tiles_only(layout: Layout, value: float) -> None:
    """It touches what direct convolution touches, and no tile of `spread` that does not read it."""
    spec = ConvSpec(
        size=(17, 19), channels=16, filters=16, kernel=(3, 3), padding=((1, 1), (1, 1)),
        layout=layout,
    )  # fmt: skip
    x, w, b, r = tensors(spec)
    for tiling in one_of_each(spec):
        made = plan_with(spec, "winograd", tiling)
        m = made.spread
        assert m == tiling.m
        clean = computed(made, x, w, b, r)
        for row, column in ((0, 0), (8, 9), (16, 18), (5, 12)):
            spoiled = x.copy()
            place = (0, 3, row, column) if layout == "channels_first" else (0, row, column, 3)
            spoiled[place] = value
            got = computed(made, spoiled, w, b, r)
            expected = np.zeros(spec.output, bool)
            for i in range(0, spec.output[0], m[0]):
                for j in range(0, spec.output[1], m[1]):
                    if i <= row + 1 < i + m[0] + 2 and j <= column + 1 < j + m[1] + 2:
                        expected[i : i + m[0], j : j + m[1]] = True
            lost = ~np.isfinite(got)
            axis = 1 if layout == "channels_first" else 3
            by_filter = np.moveaxis(lost[0], axis - 1, 0)
            # A zero of B^T keeps it out of some products, and so out of the far side of a tile.
            assert not np.any(by_filter & ~expected)
            touched = np.zeros(spec.output, bool)
            touched[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
            assert np.all(by_filter[:, touched])
            kept = np.broadcast_to(~expected, by_filter.shape)
            same = np.moveaxis((got == clean)[0], axis - 1, 0)
            assert np.all(same[kept])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"stride": (3, 1)}, "its tiles need stride 1 or 2"),
        ({"kernel": (2, 1), "stride": (2, 2)}, "taps that share no input have nothing to save"),
        ({"dilation": (1, 2)}, "its tiles need dilation 1"),
        ({"groups": 4}, "groups below 8 channels or filters"),
        ({"kernel": (1, 1)}, "a pointwise kernel has nothing to save"),
        ({"kernel": (8, 3)}, "kernels above 7"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(changed: dict[str, Any], reason: str) -> None:
    usual: dict[str, Any] = {"size": (16, 16), "channels": 16, "filters": 16, "kernel": (3, 3)}
    spec = ConvSpec(**usual | changed)
    with pytest.raises(UnsupportedOperatorError, match=reason):
        plan_with(spec, "winograd")


def test_volumes_are_refused_by_name() -> None:
    spec = ConvSpec(size=(5, 8, 8), channels=16, filters=16, kernel=(3, 3, 3))
    with pytest.raises(UnsupportedOperatorError, match="one or two spatial axes"):
        plan_with(spec, "winograd")


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(("channels", "side"), [(64, 224), (256, 14), (512, 7), (2048, 512)])
def test_few_tilings_are_offered_and_one_is_accurate(channels: int, side: int, batch: int) -> None:
    spec = ConvSpec(
        size=(side, side), channels=channels, filters=channels, kernel=(3, 3), batch=batch,
        padding=((1, 1), (1, 1)),
    )  # fmt: skip
    for threads in (1, 4):
        tilings = Winograd().tilings(spec, host(), threads)
        assert 1 <= len(tilings) <= 4
        assert len(set(map(str, tilings))) == len(tilings)
        assert min(Winograd().error_ratio(spec, tiling) for tiling in tilings) <= 1.25
        assert max(Winograd().error_ratio(spec, tiling) for tiling in tilings) <= 20


def test_operations_are_those_of_the_tiles() -> None:
    spec = ConvSpec(size=(8, 8), channels=3, filters=5, kernel=(3, 3), padding=((1, 1), (1, 1)))
    tiling = replace(Winograd().tilings(spec, host(), 1)[0], m=(2, 2))
    made = Winograd().operations(spec, tiling)
    # 16 tiles of 16 products per channel and filter; F(2, 3) transforms without multiplications.
    assert made.mults == 16 * 16 * 3 * 5
    # Each has 4 additions: on 4 columns and 4 rows of 3 channels, on 4 columns and 2 rows of 5.
    assert made.adds == 16 * (16 * (3 - 1) * 5 + 4 * (4 + 4) * 3 + 4 * (4 + 2) * 5)
