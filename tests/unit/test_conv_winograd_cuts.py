"""How Winograd's work is cut: what fits the caches and the threads, and what is worth a try."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from tests.random_convolutions import data_for, truth

from convsmith.conv.algorithms.winograd import Schedule, Winograd
from convsmith.conv.algorithms.winograd_prediction import predicted_cycles
from convsmith.conv.algorithms.winograd_tiling import cuts
from convsmith.conv.plan import plan_with
from convsmith.conv.spec import LAYOUTS, ConvSpec, Layout
from convsmith.kernel.target import host

SERVER = replace(
    host().with_lanes(16), registers=32, level1=32 << 10, level2=1 << 20, level3=32 << 20
)


def layer(channels: int, side: int, layout: Layout = "channels_first") -> ConvSpec:
    return ConvSpec(
        size=(side, side), channels=channels, filters=channels, kernel=(3, 3),
        padding=((1, 1), (1, 1)), layout=layout,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("level2", [1 << 17, 1 << 19, 1 << 20])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (48, 23), (256, 28)])
def test_blocks_stay_in_a_threads_cache(
    channels: int, side: int, level2: int, layout: Layout
) -> None:
    """Their memory is counted from the kernels, not from what the cut was made with."""
    spec, target = layer(channels, side, layout), replace(SERVER, level2=level2)
    for m in ((2, 4), (4, 4), (7, 7)):
        for made in cuts(spec, target, 2, m, "fused"):
            lowered = Winograd().lower(spec, target, made)
            own = 4 * (lowered.workspace(1, 2) - lowered.workspace(1, 1))
            few = made.tiles <= 8  # smaller ones are not worth their way
            assert own <= (2.4 if few else 1.3) * level2, made


def test_cuts_cover_the_image_without_a_block_to_spare() -> None:
    spec = layer(48, 45)
    for made in cuts(spec, SERVER, 4, (4, 7), "fused"):
        high, wide = -(-45 // 4), -(-45 // 7)
        down, across = -(-high // made.rows), -(-wide // made.columns)
        assert made.rows == 1 or made.columns == wide
        assert (down - 1) * made.rows < high <= down * made.rows
        assert (across - 1) * made.columns < wide <= across * made.columns
        assert made.height * made.vectors <= 28
        assert made.vectors <= 3  # of 48 filters
        (phase,) = Winograd().lower(spec, SERVER, made).phases(2)
        assert phase == ("compute", 2 * down * across)


@pytest.mark.parametrize("lanes", [16, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_cut_gives_the_same_numbers(layout: Layout, lanes: int) -> None:
    spec = ConvSpec(
        size=(13, 22), channels=9, filters=70, kernel=(3, 3), padding=((1, 0), (2, 1)),
        layout=layout,
    )  # fmt: skip
    target = host().with_lanes(lanes)
    data = data_for(spec)
    wanted = truth(spec, data)
    made = cuts(spec, target, 2, (4, 4), "fused")
    assert len({t.vectors for t in made}) > 2
    assert len({(t.rows, t.columns) for t in made}) > 4
    for chosen in made[:: len(made) // 6]:
        got = plan_with(spec, "winograd", chosen, target=target).prepare(data.weights, data.bias)
        np.testing.assert_allclose(got(data.x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (128, 56)])
def test_a_block_per_thread_and_finer_ones_are_worth_a_try(
    channels: int, side: int, layout: Layout
) -> None:
    spec = layer(channels, side, layout)
    offered = [t for t in Winograd().tilings(spec, SERVER, 4) if t.schedule == "fused"]
    first = offered[0]
    (phase,) = Winograd().lower(spec, SERVER, first).phases(1)
    assert phase[1] % 4 == 0  # nobody is idle
    assert any(t.m == first.m and 2 * t.tiles <= first.tiles for t in offered[1:])


def test_predictions_follow_what_there_is_to_do() -> None:
    """More of anything takes longer; more threads do not."""
    spec = layer(64, 56)
    for schedule in get_args(Schedule):
        for made in cuts(spec, SERVER, 4, (4, 4), schedule)[:8]:
            alone, four = (predicted_cycles(spec, SERVER, n, made) for n in (1, 4))
            assert four < alone
            more = [
                replace(spec, channels=128), replace(spec, filters=128), replace(spec, batch=3),
                replace(spec, size=(112, 56)),
            ]  # fmt: skip
            for larger in more:
                assert predicted_cycles(larger, SERVER, 4, made) > four, (made, larger)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize(
    ("side", "m", "changed"),
    [
        ((7, 7), (7, 7), {}),
        ((7, 6), (4, 4), {"filters": 19, "batch": 2}),
        ((9, 11), (5, 6), {"channels": 37}),
        ((13, 7), (4, 4), {}),
        ((9, 10), (2, 2), {"groups": 2, "channels": 42}),
        ((14, 13), (4, 4), {"stride": (2, 2)}),
        ((12, 15), (3, 4), {"stride": (1, 2)}),
        ((6, 15), (6, 4), {"kernel": (1, 7), "padding": ((0, 0), (3, 3))}),
        ((9, 4), (2, 4), {"kernel": (5, 1), "padding": ((2, 2), (0, 0))}),
        ((8, 8), (4, 4), {"kernel": (5, 5), "padding": ((2, 2), (2, 1))}),
        ((8, 7), (4, 4), {"kernel": (2, 4), "padding": ((1, 0), (2, 1))}),
    ],
)  # fmt: skip
def test_weights_of_few_tiles_are_made_in_registers(
    side: tuple[int, int], m: tuple[int, int], changed: dict[str, Any], lanes: int, layout: Layout
) -> None:
    spec = replace(layer(21, 1, layout), size=side, bias=True, **{"filters": 34, **changed})
    target = host().with_lanes(lanes)
    data = data_for(spec)
    wanted = truth(spec, data)
    (chosen,) = cuts(spec, target, 2, m, "lean")
    assert chosen.beside == target.registers // 2 // chosen.tiles
    # All columns of a row at once, or one by one, in blocks of all tiles or of one.
    for cut in (chosen, replace(chosen, rows=1, columns=1, beside=16), replace(chosen, beside=1)):
        made = plan_with(spec, "winograd", cut, target=target)
        got = made.prepare(data.weights, data.bias)(data.x)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_few_tiles_take_one_vector_and_short_slabs() -> None:
    small = replace(SERVER, registers=16)
    for threads in (1, 4):
        (few,) = cuts(layer(512, 14), SERVER, threads, (7, 7), "lean")
        assert (few.tiles, few.vectors, few.slab, few.beside) == (4, 1, 16, 4)
        assert cuts(layer(512, 14), small, threads, (7, 7), "lean")[0].beside == 2
        assert not cuts(layer(512, 14), small, threads, (4, 7), "lean")[0].beside
        (many,) = cuts(layer(512, 28), SERVER, threads, (7, 7), "lean")
        assert (many.beside, many.slab) == (0, 32)


def test_items_of_three_phases_keep_all_threads_busy() -> None:
    for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        for threads in (1, 4, 16):
            (made,) = cuts(layer(channels, side), SERVER, threads, (4, 4), "staged")
            phases = dict(Winograd().lower(layer(channels, side), SERVER, made).phases(1))
            assert phases["multiply"] >= 2 * threads
