"""Winograd's compiled forms against torch in float64: schedules, widths, layouts, remainders."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from numpy.typing import NDArray
from tests.random_convolutions import pairwise

from convsmith.conv import plan as plans
from convsmith.conv.algorithms.winograd import Schedule, Winograd, WinogradTiling
from convsmith.conv.algorithms.winograd_error import error_ratio
from convsmith.conv.algorithms.winograd_kernels import transforms_of
from convsmith.conv.geometry import Geometry
from convsmith.conv.plan import ConvPlan, plan_with
from convsmith.conv.spec import LAYOUTS, ConvSpec, Layout
from convsmith.errors import UnsupportedOperatorError
from convsmith.kernel.target import Target, host

SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

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


def tiling(
    spec: ConvSpec, schedule: Schedule, *, m: tuple[int, int] | None = None,
    target: Target | None = None, threads: int = 2,
) -> WinogradTiling:  # fmt: skip
    """Returns how tiles of m outputs, by default of the likely sizes, are cut in a schedule."""
    machine = target or host()
    likely = Winograd().tilings(spec, machine, threads)[0].m
    made = Winograd().tiling(spec, machine, threads, m or likely, schedule)
    assert made is not None
    assert made.schedule == schedule
    return made


@pytest.mark.parametrize(("name", "lanes", "layout"), pairwise(SHAPES))
def test_every_schedule_agrees_with_float64(name: str, lanes: int, layout: Layout) -> None:
    spec = ConvSpec(**SHAPES[name], layout=layout)
    target = host().with_lanes(lanes)
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    *_, accurate = Winograd().tilings(spec, target, 2)
    for chosen in {accurate, *(tiling(spec, schedule, target=target) for schedule in SCHEDULES)}:
        made = plan_with(spec, "winograd", chosen, target=target)
        got = computed(made, *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


BLOCKS: dict[Schedule, list[dict[str, Any]]] = {
    "fused": [
        {"rows": 2, "columns": 3, "height": 4, "chunk": 48},
        {"rows": 3, "columns": 2, "height": 5, "chunk": 16},
        {"rows": 1, "columns": 7, "height": 7, "chunk": 16},
    ],
    "staged": [{"rows": 6, "columns": 7, "height": 4, "chunk": 16, "panels": 1}],
    "strassen": [
        {"height": 4, "chunk": 16},
        {"height": 21, "vectors": 1, "pieces": 1},  # three panels of filters
        {"height": 8, "vectors": 1, "pieces": 2},
        {"height": 1, "vectors": 3},
    ],
    "lean": [
        {"rows": 4, "columns": 7, "height": 5, "chunk": 16, "slab": 16},
        {"rows": 1, "columns": 4, "height": 4, "chunk": 48, "slab": 16},
        {"rows": 6, "columns": 7, "height": 14, "chunk": 16, "slab": 32},
        {"rows": 2, "columns": 3, "height": 3, "chunk": 48, "slab": 48, "vectors": 1},
        {"rows": 6, "columns": 1, "height": 6, "chunk": 16, "slab": 64, "vectors": 3},
    ],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_any_size(layout: Layout, schedule: Schedule) -> None:
    """Ragged last blocks in both directions, register tiles and slabs with a remainder."""
    spec = ConvSpec(
        size=(23, 27), channels=48, filters=40, kernel=(3, 3), padding=((1, 1), (1, 1)),
        layout=layout, batch=2,
    )  # fmt: skip
    target = host().with_lanes(16)
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    first = tiling(spec, schedule, m=(4, 4), target=target)
    for sizes in BLOCKS[schedule]:
        chosen = replace(first, **sizes)
        got = computed(plan_with(spec, "winograd", chosen, target=target), *arrays)
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


@pytest.mark.parametrize(("name", "lanes", "layout"), pairwise(LARGE))
def test_large_tiles_agree_with_float64(name: str, lanes: int, layout: Layout) -> None:
    sizes, m = LARGE[name]
    padding = tuple((k // 2, k // 2) for k in sizes["kernel"])
    spec = ConvSpec(**sizes, filters=36, padding=padding, layout=layout)
    target = host().with_lanes(lanes)
    arrays = tensors(spec)
    wanted = truth(spec, *arrays)
    for schedule in SCHEDULES:
        chosen = tiling(spec, schedule, m=m, target=target, threads=1)
        made = plan_with(spec, "winograd", chosen, target=target)
        assert made.error_ratio < (50 if schedule == "strassen" else 22)
        got = computed(made, *arrays)
        # Strassen's sums of blocks are larger than the blocks.
        atol = (1.4e-4 if schedule == "strassen" else 6e-5) * np.abs(wanted).max()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


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
    more = (tiling(spec, way, m=(4, 4), target=target) for way in ("lean", "strassen"))
    for chosen in {*more, *Winograd().tilings(spec, target, 2)}:
        got = computed(plan_with(spec, "winograd", chosen, target=target), *arrays)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=6e-5 * np.abs(wanted).max())


def one_of_each(spec: ConvSpec) -> list[WinogradTiling]:
    return [tiling(spec, schedule) for schedule in SCHEDULES]


@pytest.mark.parametrize("name", ["residual", "groups", "stride", "stride down"])
def test_the_reference_is_the_formula_in_float64(name: str) -> None:
    for layout in LAYOUTS:
        spec = ConvSpec(**(SHAPES[name] | {"residual": False, "bias": False, "activation": "none"}),
                        layout=layout)  # fmt: skip
        x, w, b, r = tensors(spec)
        for chosen in one_of_each(spec):
            got = Winograd().reference(spec, x.astype(float), w.astype(float), chosen)
            np.testing.assert_allclose(got, truth(spec, x, w, b, r), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "groups", "stride"])
def test_results_depend_neither_on_threads_nor_on_the_batch(name: str) -> None:
    spec = ConvSpec(**SHAPES[name])
    x, w, b, r = tensors(spec.with_batch(5))
    for chosen in one_of_each(spec):
        made = plan_with(spec, "winograd", chosen)
        one = computed(made, x, w, b, r, members=1)
        np.testing.assert_array_equal(computed(made, x, w, b, r, members=4), one)
        np.testing.assert_array_equal(computed(made, x[2:3], w, b, r[2:3]), one[2:3])
        assert computed(made, x[:0], w, b, r[:0]).shape[0] == 0


def test_any_number_of_images_shares_one_way_of_the_weights() -> None:
    """Of the sums of 5 images' tiles, in 3 parts each, as many are made at a time as fit."""
    spec = ConvSpec(
        size=(26, 30), channels=40, filters=70, kernel=(3, 3), padding=((1, 1), (1, 1)), batch=5
    )
    arrays = tensors(spec)
    got, codes = [], set()
    for level2 in (1 << 14, 1 << 16, 3 << 15, 1 << 20):
        target = replace(host(), level2=level2)
        chosen = replace(tiling(spec, "strassen", m=(4, 4), target=target, threads=1), height=11)
        made = plan_with(spec, "winograd", chosen, target=target)
        codes.add(made.lowered.key)
        got.append(computed(made, *arrays))
    assert len(codes) > 2
    wanted = truth(spec, *arrays)
    np.testing.assert_allclose(got[0], wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())
    for other in got[1:]:
        np.testing.assert_array_equal(other, got[0])


def region_of(chosen: WinogradTiling, spec: ConvSpec) -> tuple[int, int]:
    """Returns the outputs that one tile can spoil: with Strassen's products, the pair's."""
    (rows, columns), (m, n) = spec.output, chosen.m
    if chosen.schedule != "strassen":
        return chosen.m
    if -(-columns // n) % 2:
        return min(2 * m, rows), columns
    return m, min(2 * n, columns)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_reaches_its_tiles_only(layout: Layout, value: float) -> None:
    """It touches what direct convolution touches, and no tile of `spread` that does not read it."""
    spec = ConvSpec(
        size=(17, 19), channels=16, filters=16, kernel=(3, 3), padding=((1, 1), (1, 1)),
        layout=layout,
    )  # fmt: skip
    x, w, b, r = tensors(spec)
    odd, even = (tiling(spec, "strassen", m=m) for m in ((4, 4), (3, 5)))
    for chosen in {*one_of_each(spec), odd, even}:
        made = plan_with(spec, "winograd", chosen)
        m = made.spread
        assert m == region_of(chosen, spec)
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
        assert 1 <= sum(chosen.schedule != "strassen" for chosen in tilings) <= 6
        assert sum(chosen.schedule == "strassen" for chosen in tilings) <= 1
        assert len(set(map(str, tilings))) == len(tilings)
        ratios = [Winograd().error_ratio(spec, chosen) for chosen in tilings]
        assert min(ratios) <= 1.25
        assert max(ratios) <= 20


def test_operations_are_those_of_the_tiles() -> None:
    spec = ConvSpec(size=(8, 8), channels=3, filters=5, kernel=(3, 3), padding=((1, 1), (1, 1)))
    made = Winograd().operations(spec, tiling(spec, "staged", m=(2, 2)))
    # 16 tiles of 16 products per channel and filter; F(2, 3) transforms without multiplications.
    assert made.mults == 16 * 16 * 3 * 5
    # Each has 4 additions: on 4 columns and 4 rows of 3 channels, on 4 columns and 2 rows of 5.
    assert made.adds == 16 * (16 * (3 - 1) * 5 + 4 * (4 + 4) * 3 + 4 * (4 + 2) * 5)
    # G of F(2, 3) then adds and subtracts, on 3 columns and 4 rows per channel, filter and block;
    # B^T halves both terms of two sums, on 4 columns and 4 rows per tile and channel.
    chosen = replace(tiling(spec, "lean", m=(2, 2)), rows=2)
    lean = Winograd().operations(spec, chosen)
    assert lean.mults - made.mults == 16 * 3 * (4 + 4) * 2 * 2
    assert lean.adds - made.adds == 2 * 3 * 5 * (3 + 4) * 3
    # 8 pairs of tiles, 2 x 16 channels, 2 x 3 filters: seven products, as many sums, one addition
    # per output of theirs, four per four blocks of tiles.
    blocked = Winograd().operations(spec, tiling(spec, "strassen", m=(2, 2)))
    assert blocked.mults == 16 * 7 * 8 * 16 * 3
    transforms = 16 * (4 * (4 + 4) * 3 + 4 * (4 + 2) * 5)
    assert blocked.adds - transforms == blocked.mults + 16 * 8 * (4 * 3 + 4 * 16)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_operations_of_groups_add_up(schedule: Schedule) -> None:
    one = ConvSpec(size=(8, 8), channels=16, filters=32, kernel=(3, 3))
    three = replace(one, channels=48, filters=96, groups=3)
    made = tiling(one, schedule, m=(2, 2))
    single, triple = (Winograd().operations(spec, made) for spec in (one, three))
    assert (triple.mults, triple.adds) == (3 * single.mults, 3 * single.adds)


@pytest.mark.parametrize(("m", "stride"), [((2, 2), 1), ((4, 5), 1), ((7, 7), 1), ((7, 4), 2)])
def test_transforming_weights_in_float32_costs_what_is_predicted(
    m: tuple[int, int], stride: int
) -> None:
    """Factors of filters then lie in the transform of the tiles, and are rounded there."""
    spec = ConvSpec(
        size=(28, 28), channels=8, filters=64, kernel=(3, 3), stride=(stride, stride), bias=False
    )
    x, w, b, r = tensors(spec)
    made = {way: plan_with(spec, "winograd", tiling(spec, way, m=m)) for way in SCHEDULES}
    got = {way: computed(plan, x, w, b, r).astype(float) for way, plan in made.items()}
    np.testing.assert_array_equal(got["fused"], got["staged"])
    wanted = truth(spec, x, w, b, r)
    before, on_the_way = (np.sqrt(np.mean((got[way] - wanted) ** 2)) for way in ("fused", "lean"))
    g = Geometry.of(spec)
    expected = error_ratio(*transforms_of(g, m, plain_filters=True), 8, slab=16)
    expected /= error_ratio(*transforms_of(g, m), 8)
    assert on_the_way / before == pytest.approx(expected, rel=0.05)
    assert made["lean"].error_ratio >= made["fused"].error_ratio
    assert made["lean"].error_bound > made["fused"].error_bound


def test_packed_weights_are_as_many_as_said() -> None:
    spec = ConvSpec(
        size=(14, 14), channels=64, filters=128, kernel=(3, 3), padding=((1, 1), (1, 1))
    )
    sizes = {
        schedule: plan_with(spec, "winograd", tiling(spec, schedule, m=(4, 4)))
        .lowered.pack(np.zeros(spec.weight_shape, np.float32))
        .size
        for schedule in SCHEDULES
    }
    assert sizes["lean"] == 128 * 64 * 9
    assert sizes["fused"] == sizes["staged"] == 128 * 64 * 36
    assert sizes["strassen"] == 128 * 64 * 36 * 7 // 4


def test_the_schedule_with_the_fewest_weights_is_offered_where_they_are_many() -> None:
    target = replace(host().with_lanes(16), level2=1 << 20, level3=32 << 20)
    for channels, side in ((512, 7), (256, 14)):
        spec = ConvSpec(
            size=(side, side), channels=channels, filters=channels, kernel=(3, 3),
            padding=((1, 1), (1, 1)),
        )  # fmt: skip
        tilings = Winograd().tilings(spec, target, 1)
        assert "lean" in {chosen.schedule for chosen in tilings}, spec


def test_strassens_products_are_offered_where_they_may_be_the_fastest() -> None:
    target = replace(host().with_lanes(16), level2=1 << 20, level3=32 << 20)
    spec = ConvSpec(
        size=(24, 24), channels=512, filters=512, kernel=(1, 7), padding=((0, 0), (3, 3)), batch=8
    )
    offered = Winograd().tilings(spec, target, 1)
    (blocked,) = (chosen for chosen in offered if chosen.schedule == "strassen")
    assert Winograd().error_ratio(spec, blocked) <= 20
    assert len(offered) <= 7
    # A seventh of the products is not worth sums of a few channels, filters or tiles, nor an error
    # for which there is a larger tile.
    square = {"kernel": (3, 3), "padding": ((1, 1), (1, 1)), "size": (14, 14)}
    for changed in (
        {"channels": 128}, {"filters": 128}, {"size": (7, 7), "batch": 1}, square,
    ):  # fmt: skip
        few = Winograd().tilings(replace(spec, **changed), target, 1)
        assert all(chosen.schedule != "strassen" for chosen in few), changed


def test_many_filters_on_a_small_image_are_lean() -> None:
    """Transformed weights would not fit the last level; without it, the taps do not either."""
    spec = ConvSpec(
        size=(14, 14), channels=512, filters=512, kernel=(3, 3), padding=((1, 1), (1, 1))
    )
    target = replace(host().with_lanes(16), level2=1 << 20, level3=32 << 20)
    assert Winograd().tilings(spec, target, 4)[0].schedule == "lean"
    few = replace(spec, channels=64, filters=64, size=(112, 112))
    assert all(chosen.schedule != "lean" for chosen in Winograd().tilings(few, target, 4)[:1])


@pytest.mark.parametrize("level2", [1 << 14, 1 << 16, 1 << 18])
def test_small_caches_are_not_overfilled(level2: int) -> None:
    """What a thread of the lean schedule holds for itself stays within its cache."""
    target = replace(host().with_lanes(16), level2=level2)
    spec = ConvSpec(
        size=(28, 28), channels=256, filters=256, kernel=(3, 3), padding=((1, 1), (1, 1))
    )
    for m in ((2, 2), (4, 4), (6, 7)):
        chosen = Winograd().tiling(spec, target, 1, m, "lean")
        if chosen is None:
            continue
        lowered = Winograd().lower(spec, target, chosen)
        own = lowered.workspace(1, 2) - lowered.workspace(1, 1)
        assert 4 * own <= 1.1 * level2


GUARDED = """
import sys
from tests.guarded import run
from tests.oracle.test_conv_winograd import SHAPES, pairwise, tiling
from convsmith.conv.plan import plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import host

for name, lanes, layout in pairwise(SHAPES):
    target = host().with_lanes(lanes)
    spec = ConvSpec(**SHAPES[name], layout=layout)
    print(name, lanes, layout, flush=True)
    run(plan_with(spec, "winograd", tiling(spec, sys.argv[1], target=target), target=target))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pages are forbidden through mprotect")
@pytest.mark.parametrize("schedule", ["lean", "strassen"])
def test_schedules_stay_within_their_buffers(schedule: Schedule) -> None:
    """Random convolutions rarely take them; a signal ends the process, and says where."""
    ran = subprocess.run(
        [sys.executable, "-c", GUARDED, schedule],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout[-200:]}\n{ran.stderr[-4000:]}"
    assert len(ran.stdout.splitlines()) == len(pairwise(SHAPES))
