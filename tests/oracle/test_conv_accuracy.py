"""What plans say about their rounding errors, against measured ones: all algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convsmith.conv.algorithms.winograd import Winograd
from convsmith.conv.plan import ConvPlan, candidates, plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import host

KINDS = ("random", "rectified", "unequal channels", "heavy tails")
STATED = 1.5  # the factor within which Winograd's predicted errors hold

SHAPES = [
    pytest.param({"channels": 16, "kernel": (3, 3), "size": (33, 30)}, id="3x3 of 16"),
    pytest.param({"channels": 64, "kernel": (3, 3), "size": (28, 28)}, id="3x3 of 64"),
    pytest.param({"channels": 512, "kernel": (3, 3), "size": (14, 14)}, id="3x3 of 512"),
    pytest.param({"channels": 64, "kernel": (5, 5), "size": (20, 28)}, id="5x5 of 64"),
    pytest.param({"channels": 64, "kernel": (7, 7), "size": (20, 28)}, id="7x7 of 64"),
    pytest.param(
        {"channels": 64, "kernel": (3, 3), "stride": (2, 2), "size": (56, 28)}, id="3x3/2 of 64"
    ),
    pytest.param({"channels": 256, "kernel": (1, 1), "size": (14, 14)}, id="1x1 of 256"),
    pytest.param(
        {"channels": 48, "filters": 48, "groups": 48, "kernel": (3, 3), "size": (28, 28)},
        id="depthwise 3x3",
    ),
    pytest.param(
        {"channels": 16, "filters": 16, "groups": 16, "kernel": (15, 15), "size": (28, 28)},
        id="depthwise 15x15",
    ),
]


def made_spec(sizes: dict[str, Any]) -> ConvSpec:
    padding = tuple((k // 2, k // 2) for k in sizes["kernel"])
    return ConvSpec(**{"filters": 32, "padding": padding, "bias": False, **sizes})


def inputs(kind: str, spec: ConvSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(7)
    x = random.standard_normal(spec.input_shape)
    w = random.standard_normal(spec.weight_shape)
    if kind == "rectified":
        x = np.maximum(x, 0)
    elif kind == "unequal channels":
        x = x * np.exp(2 * random.standard_normal((1, spec.channels, 1, 1)))
    elif kind == "heavy tails":
        x = x * np.exp(1.5 * random.standard_normal(x.shape))
    return x.astype(np.float32), w.astype(np.float32)


def exact(spec: ConvSpec, x: NDArray[Any], w: NDArray[Any]) -> NDArray[np.float64]:
    before = [pad for pad, _ in spec.padding]
    made = torch.conv2d(
        torch.tensor(x, dtype=torch.double), torch.tensor(w, dtype=torch.double),
        stride=spec.stride, padding=before, groups=spec.groups,
    )  # fmt: skip
    return np.asarray(made.numpy())


def distinct(spec: ConvSpec) -> list[ConvPlan]:
    """One plan of each algorithm and way of rounding."""
    found: dict[tuple[str, float, float], ConvPlan] = {}
    for made in candidates(spec):
        found.setdefault((made.algorithm, made.error_ratio, made.error_bound), made)
    return list(found.values())


def rms(error: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_errors_are_as_plans_say(sizes: dict[str, Any], kind: str) -> None:
    spec = made_spec(sizes)
    x, w = inputs(kind, spec)
    truth = exact(spec, x, w)
    direct = rms(plan_with(spec, "direct").prepare(w)(x) - truth)
    # Over the sum of |w| times the largest |x| of each channel, which every bound is below.
    largest = np.broadcast_to(np.abs(x).max((2, 3), keepdims=True), x.shape)
    grown = tuple(n + 2 * p for n, (p, _) in zip(spec.size, spec.padding, strict=True))
    scale = exact(
        ConvSpec(**{**vars_of(spec), "size": grown, "padding": ((0, 0), (0, 0))}),
        np.broadcast_to(largest[:, :, :1, :1], (*x.shape[:2], *grown)), np.abs(w),
    )  # fmt: skip
    for made in distinct(spec):
        error = made.prepare(w)(x) - truth
        assert np.all(np.abs(error) <= made.error_bound * scale), made
        measured = rms(error) / direct
        assert measured <= STATED * made.error_ratio, made
        if made.algorithm == "winograd" and made.error_ratio > 1:
            assert measured >= made.error_ratio / STATED, made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [(4, 4), (6, 7)])
def test_strassens_products_cost_what_is_predicted(m: tuple[int, int], kind: str) -> None:
    """The bound is over what is mixed: the largest filter and the largest input of a group."""
    spec = made_spec({"channels": 256, "filters": 48, "kernel": (3, 3), "size": (14, 21)})
    tiling = Winograd().tiling(spec, host(), 1, m, "strassen")
    x, w = inputs(kind, spec)
    truth = exact(spec, x, w)
    made = plan_with(spec, "winograd", tiling)
    error = made.prepare(w)(x) - truth
    measured = rms(error) / rms(plan_with(spec, "direct").prepare(w)(x) - truth)
    assert 1 / STATED <= measured / made.error_ratio <= STATED
    plain = plan_with(spec, "winograd", Winograd().tiling(spec, host(), 1, m, "staged"))
    assert made.error_ratio == pytest.approx(2.32 * plain.error_ratio, rel=0.02)
    largest = np.abs(w).sum((1, 2, 3), dtype=np.float64).max() * np.abs(x).max()
    assert np.abs(error).max() <= made.error_bound * largest
    assert made.error_bound > 5 * plain.error_bound


def vars_of(spec: ConvSpec) -> dict[str, Any]:
    names = ("channels", "filters", "kernel", "stride", "groups", "bias")
    return {name: getattr(spec, name) for name in names}


@pytest.mark.parametrize("sizes", SHAPES[:5])
def test_winograds_bound_needs_only_the_tile(sizes: dict[str, Any]) -> None:
    """A value outside an output's tile has no part in its error; one inside has."""
    spec = made_spec(sizes)
    x, w = inputs("random", spec)
    for made in distinct(spec):
        if made.algorithm != "winograd":
            continue
        m = made.tiling.m
        spoiled = x.copy()
        row, column = (n // 2 for n in spec.size)
        spoiled[:, :, row, column] = 1e6
        prepared = made.prepare(w)
        before, after = prepared(x), prepared(spoiled)
        changed = np.argwhere(np.any(before != after, axis=(0, 1)))
        low, high = changed.min(0), changed.max(0) + 1
        for axis, at in ((0, row), (1, column)):
            k, pad = spec.kernel[axis], spec.padding[axis][0]
            first = max(0, (at + pad - (k - 1)) // m[axis] * m[axis])
            last = min(spec.output[axis], ((at + pad) // m[axis] + 1) * m[axis])
            assert first <= low[axis]
            assert high[axis] <= last
        truth = exact(spec, spoiled, w)
        tile = np.abs(spoiled).max((2, 3))  # of each channel: 1e6
        scale = np.einsum("kcyx,nc->nk", np.abs(w).astype(np.float64), tile)[:, :, None, None]
        assert np.all(np.abs(after - truth) <= made.error_bound * scale), made


def test_the_prediction_can_fail() -> None:
    """Points that are known to be bad are measured to be bad, and predicted to be."""
    from fractions import Fraction

    from convsmith.conv.algorithms.winograd_error import error_ratio
    from convsmith.conv.toom_cook import transform

    random = np.random.default_rng(3)
    channels, tiles = 64, 4000
    ratios = []
    for points in (None, tuple(Fraction(p) for p in (0, 1, -1, 2, -2, 3, -3))):
        t = transform(6, 3, points)
        A, G, B = (np.array(m, np.float64) for m in (t.outputs, t.filters, t.inputs))
        d = random.standard_normal((channels, t.alpha, tiles)).astype(np.float32)
        g = random.standard_normal((channels, 3)).astype(np.float32)
        u, v = (g @ G.T).astype(np.float32), B.astype(np.float32) @ d
        sums, chain = np.zeros((t.alpha, tiles), np.float32), np.zeros((6, tiles), np.float32)
        for c in range(channels):
            sums += u[c][:, None] * v[c]
            for k in range(3):
                chain += g[c, k] * d[c, k : k + 6]
        truth = sum(g[:, k].astype(np.float64) @ d[:, k : k + 6].astype(np.float64).swapaxes(0, 1)
                    for k in range(3))  # fmt: skip
        measured = rms(A.astype(np.float32) @ sums - truth) / rms(chain - truth)
        one = transform(1, 1)
        assert measured == pytest.approx(error_ratio(t, one, channels), rel=0.5)
        ratios.append(measured)
    assert ratios[1] > 3 * ratios[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [250, 512])
def test_sums_of_some_channels_at_a_time_are_more_accurate(channels: int, kind: str) -> None:
    spec = made_spec({"channels": channels, "filters": 48, "kernel": (3, 3), "size": (14, 21)})
    lean, staged = (
        plan_with(spec, "winograd", Winograd().tiling(spec, host(), 1, (7, 7), way))
        for way in ("lean", "staged")
    )
    assert lean.tiling.slab < channels / 4
    assert lean.error_ratio < staged.error_ratio / 2
    assert lean.error_bound < staged.error_bound
    x, w = inputs(kind, spec)
    truth = exact(spec, x, w)
    direct, once, often = (
        rms(made.prepare(w)(x) - truth) for made in (plan_with(spec, "direct"), staged, lean)
    )
    assert often < once / 2
    assert 1 / STATED <= often / direct / lean.error_ratio <= STATED
