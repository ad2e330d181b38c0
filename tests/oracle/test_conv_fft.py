"""Convolution by Fourier transforms: networks against NumPy's, convolutions against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_convolutions import Data, data_for, error_of, pairwise, truth

from convsmith.conv import plan as planning
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.algorithms.fft import Fft, FftTiling
from convsmith.conv.algorithms.fft_depthwise import FftDepthwise, FftDepthwiseTiling
from convsmith.conv.plan import ConvPlan, candidates, plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code
from convsmith.kernel.fourier import (
    Network,
    complex_dft,
    complex_inverse,
    real_dft,
    real_inverse,
    roundoff,
)
from convsmith.kernel.target import host

Array = npt.NDArray[Any]

SIZES = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 30, 32, 36, 40, 48, 56, 64, 72, 80, 96, 98)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "workspace_poison", float("nan"))


# Networks ---------------------------------------------------------------------------------


class Number(float):
    """A number where a network expects a vector of the code."""

    kind = "float"


class Arithmetic:
    """What a network asks of the code, on numbers: it is computed instead of written."""

    @staticmethod
    def fma(a: float, b: float, c: float) -> float:
        return a * b + c

    @staticmethod
    def splat(value: float, lanes: int) -> float:
        return value


def run(network: Network, x: Array, outputs: int) -> Array:
    made = np.full(outputs, np.nan)
    network.emit(
        cast(Code, Arithmetic()),
        lambda i: cast(Any, Number(x[i])),
        lambda i, value: made.__setitem__(i, cast(Any, value)),
    )
    return made


def packed(spectrum: Array) -> Array:
    n = len(spectrum)
    parts = np.stack([spectrum.real, spectrum.imag], 1)[1 : n // 2]
    return np.concatenate([[spectrum[0].real, spectrum[n // 2].real], parts.reshape(-1)])


def in_turn(z: Array) -> Array:
    return np.stack([z.real, z.imag], 1).reshape(-1)


@pytest.mark.parametrize("n", SIZES)
def test_networks_are_the_transforms_of_numpy(n: int) -> None:
    random = np.random.default_rng(n)
    for some in sorted({1, n // 2, n - 1, n}):
        x = random.standard_normal(n)
        z = x + 1j * random.standard_normal(n)
        start = np.where(np.arange(n) < some, z, 0)
        for found, wanted in (
            (run(real_dft(n, some), start.real[:some], n), packed(np.fft.fft(start.real))),
            (run(complex_dft(n, some), in_turn(start), 2 * n), in_turn(np.fft.fft(start))),
            (run(real_inverse(n, some), packed(np.fft.fft(x)), some), n * x[:some]),
            (
                run(complex_inverse(n, some), in_turn(z), 2 * some),
                in_turn(np.fft.ifft(z)[:some]) * n,
            ),
        ):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * n)


@pytest.mark.parametrize(("n", "operations"), [(8, 56), (16, 168), (32, 456), (64, 1160)])
def test_as_few_operations_as_the_split_radix_algorithm(n: int, operations: int) -> None:
    """4 n log2 n - 6 n + 8 (Yavne 1968), up to the products that fused additions repeat."""
    found = complex_dft(n)
    assert operations == 4 * n * (n.bit_length() - 1) - 6 * n + 8
    assert operations <= found.mults + found.adds <= 1.04 * operations
    real = real_dft(n)
    assert real.mults + real.adds < 0.5 * operations


@pytest.mark.parametrize("n", [8, 20, 36, 72])
def test_transforms_round_no_more_than_their_bound(n: int) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(n).astype(np.float32)
    made = np.full(n, np.nan, np.float32)

    class Single(Arithmetic):
        @staticmethod
        def fma(a: float, b: float, c: float) -> float:
            return cast(float, np.float32(np.float64(a) * b + np.float64(c)))

        @staticmethod
        def splat(value: float, lanes: int) -> float:
            return cast(float, np.float32(value))

    class Short(np.float32):
        kind = "float"

    real_dft(n).emit(
        cast(Code, Single()),
        lambda i: cast(Any, Short(x[i])),
        lambda i, value: made.__setitem__(i, cast(Any, value)),
    )
    wanted = packed(np.fft.fft(x.astype(np.float64)))
    # The packed spectrum has half the energy of the spectrum, but for its two real numbers.
    error = np.linalg.norm(made - wanted) / np.linalg.norm(wanted)
    assert 0 < error < roundoff(n)


# Convolutions -----------------------------------------------------------------------------


def spec_of(
    size: tuple[int, ...], kernel: tuple[int, ...], channels: int, filters: int, **more: Any
) -> ConvSpec:
    """A convolution, padded on both sides unevenly."""
    padding = tuple((k // 2, (k - 1) // 2) for k in kernel)
    return ConvSpec(
        **{
            "size": size, "kernel": kernel, "channels": channels, "filters": filters,
            "padding": padding, **more,
        }
    )  # fmt: skip


DENSE = (
    spec_of((17, 30), (7, 7), 16, 32, activation="relu"),
    spec_of((11, 33), (5, 6), 5, 7, residual=True, activation="silu"),
    spec_of((20, 19), (8, 5), 18, 12, groups=3, dilation=(1, 2), bias=False),
    spec_of((100,), (10,), 9, 33, activation="hardswish"),
    spec_of((40, 5), (9, 1), 4, 20, activation="relu6"),
    spec_of((3, 3), (7, 9), 4, 4, padding=((9, 5), (3, 11))),
)
DEPTHWISE = (
    spec_of((14, 14), (31, 31), 16, 16, groups=16),
    spec_of((21, 34), (8, 13), 37, 37, groups=37, residual=True, activation="relu"),
    spec_of((6, 130), (3, 31), 5, 5, groups=5, activation="silu", bias=False),
    spec_of((90,), (24,), 20, 20, groups=20, dilation=(2,)),
    spec_of((3, 2), (9, 7), 4, 4, groups=4, padding=((12, 8), (1, 20))),
)


def guarded(array: Array) -> tuple[Array, Array]:
    """The array between numbers that are not its own: what is around it, and itself."""
    around = np.full(array.size + 128, np.nan, np.float32)
    inside = around[64:-64].reshape(array.shape)
    inside[...] = array
    return around, inside


def runs_right(plan: ConvPlan, data: Data) -> None:
    prepared = plan.prepare(data.weights, data.bias)
    _, x = guarded(data.x)
    residual = None if data.residual is None else guarded(data.residual)[1]
    around, out = guarded(np.zeros((len(x), *plan.spec.output_shape[1:]), np.float32))
    one = prepared(x, residual=residual, members=1).tobytes()
    for members in (1, 2, 3, 4):
        out[...] = np.nan
        y = prepared(x, out, residual=residual, members=members)
        assert y.tobytes() == one, f"other bits on {members} threads"
        assert np.isnan(around[:64]).all(), "written before the output"
        assert np.isnan(around[-64:]).all(), "written behind the output"
    assert error_of(plan, data, out) <= 1, plan
    for batch in (0, 1):
        part = None if residual is None else residual[:batch]
        assert prepared(x[:batch], residual=part).tobytes() == out[:batch].tobytes()


@pytest.mark.parametrize(("spec", "lanes", "layout"), pairwise([*DENSE, *DEPTHWISE]), ids=str)
def test_compiled_convolution(spec: ConvSpec, lanes: int, layout: Any) -> None:
    name = "fft_depthwise" if spec.depthwise else "fft"
    spec = replace(spec, layout=layout, batch=3)
    target = host().with_lanes(lanes)
    data = data_for(spec)
    plans = [made for made in candidates(spec, target=target) if made.algorithm == name]
    assert plans
    for made in plans:
        runs_right(made, data)


@pytest.mark.parametrize("spec", [*DENSE, *DEPTHWISE], ids=str)
def test_the_reference_is_the_convolution(spec: ConvSpec) -> None:
    plain = replace(spec, bias=False, residual=False, activation="none", batch=2)
    data = data_for(plain)
    for made in candidates(plain):
        if made.algorithm.startswith("fft"):
            x, w = data.x.astype(np.float64), data.weights.astype(np.float64)
            y = made.method.reference(plain, x, w, made.tiling)
            np.testing.assert_allclose(y, truth(plain, data), rtol=0, atol=1e-11)


def test_blocks_of_tiles_and_bands_of_rows_are_independent() -> None:
    """Cuts that only large images get: fused blocks with ragged ends, bands, tiles of columns."""
    dense = spec_of((37, 41), (5, 5), 8, 24, batch=2)
    fused = FftTiling(
        size=(12, 16), m=(8, 12), rows=1, columns=3, height=3, vectors=1, chunk=16, panels=1,
        staged=False,
    )  # fmt: skip
    target = host().with_lanes(16)
    runs_right(ConvPlan(spec=dense, algorithm="fft", tiling=fused, target=target), data_for(dense))
    deep = spec_of((37, 41), (9, 9), 20, 20, groups=20, batch=2)
    bands = FftDepthwiseTiling(size=24, columns=16, whole=False, height=4, band=10)
    for layout in ("channels_first", "channels_last"):
        spec = replace(deep, layout=layout)
        made = ConvPlan(spec=spec, algorithm="fft_depthwise", tiling=bands, target=target)
        runs_right(made, data_for(spec))


# Errors -----------------------------------------------------------------------------------

LAYERS = (
    spec_of((28, 28), (7, 7), 64, 16, bias=False),
    spec_of((28, 28), (31, 31), 16, 16, groups=16, bias=False),
    spec_of((30, 30), (5, 5), 4, 16, bias=False),
    spec_of((28, 28), (9, 9), 16, 16, groups=16, bias=False),
)


def plan_of(spec: ConvSpec) -> ConvPlan:
    return plan_with(spec, "fft_depthwise" if spec.depthwise else "fft")


def excess(plan: ConvPlan, data: Data, y: Array) -> float:
    """The largest error over its bound: the bound times max |x| of the image times sum |w|."""
    sums = np.abs(data.weights).reshape(plan.spec.filters, -1).sum(1).astype(np.float64)
    bound = plan.error_bound * np.abs(data.x).max() * sums[None, :, None, None]
    return float((np.abs(y - truth(plan.spec, data)) / bound).max())


@pytest.mark.parametrize("spec", LAYERS, ids=str)
def test_errors_stay_under_the_bound(spec: ConvSpec) -> None:
    made, data = plan_of(spec), data_for(spec)
    random = np.random.default_rng(1)
    scales = 10.0 ** random.uniform(-6, 6, (1, spec.channels, 1, 1)).astype(np.float32)
    outlier = data.x.copy()
    outlier[0, 0, 3, 4] = 1e8
    for x in (data.x, np.maximum(data.x, 0), np.abs(data.x) + 100, data.x * scales, outlier):
        given = replace(data, x=np.ascontiguousarray(x, np.float32))
        y = made.prepare(given.weights)(given.x)
        assert excess(made, given, y) < 1
    shifted = made.prepare(data.weights)(np.roll(data.x, 1, axis=-1).copy())
    assert excess(made, data, shifted) > 1


@pytest.mark.parametrize("spec", LAYERS, ids=str)
def test_the_expected_error_is_the_measured_one(spec: ConvSpec) -> None:
    data = data_for(spec)
    wanted = truth(spec, data)

    def rms(plan: ConvPlan) -> float:
        return float(np.sqrt(np.mean((plan.prepare(data.weights)(data.x) - wanted) ** 2)))

    made = plan_of(spec)
    ratio = rms(made) / rms(plan_with(spec, "direct"))
    assert 0.7 < ratio / made.error_ratio < 1.4


@pytest.mark.parametrize("spec", [LAYERS[2], LAYERS[3]], ids=str)
def test_a_nan_spreads_over_the_tiles_that_read_it_and_no_further(spec: ConvSpec) -> None:
    if spec.depthwise:
        tiling: Any = FftDepthwiseTiling(size=16, columns=8, whole=False, height=4, band=28)
    else:
        tiling = plan_of(spec).tiling
    plan = plan_with(spec, plan_of(spec).algorithm, tiling)
    data = data_for(spec)
    prepared = plan.prepare(data.weights)
    clean = prepared(data.x)
    x = data.x.copy()
    x[0, 1, 20, 3] = np.nan
    y = prepared(x)
    touched = np.isnan(y)
    direct = np.isnan(plan_with(spec, "direct").prepare(data.weights)(x))
    assert touched[direct].all()  # what direct convolution spoils is spoilt here too
    reads = (tiling.height - 1 + spec.kernel[0], tiling.size) if spec.depthwise else tiling.size
    high, wide = plan.spread
    may = np.zeros_like(touched)
    for i in range(0, spec.output[0], high):
        for j in range(0, spec.output[1], wide):
            down, across = (
                0 <= at + pad[0] - start < n
                for at, pad, start, n in zip((20, 3), spec.padding, (i, j), reads, strict=True)
            )
            may[:, :, i : i + high, j : j + wide] = down and across
    if spec.depthwise:
        may[:, np.arange(spec.filters) != 1] = False
    assert may[touched].all()
    assert np.array_equal(y[~touched], clean[~touched])
    assert not touched.all()


# What is said about them ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spec", "reason"), [
    ("fft", spec_of((20, 20), (7, 7), 8, 8, stride=(2, 2)), "its tiles need stride 1"),
    ("fft", spec_of((20, 20), (3, 3), 8, 8), "kernels of fewer than 25 taps save nothing"),
    ("fft", spec_of((20, 20), (1, 5), 8, 8), "kernels of fewer than 7 taps save nothing"),
    ("fft", spec_of((20, 20), (7, 7), 8, 8, groups=4),
     "groups of fewer than 4 channels do not pay for transforms"),
    ("fft", spec_of((9, 9, 9), (5, 5, 5), 8, 8), "it is written for one or two spatial axes"),
    ("fft", spec_of((200,), (70,), 8, 8), "a tile would need more than 64 numbers along an axis"),
    ("fft", spec_of((9, 9), (7, 7), 4096, 4096),
     "the spectra of its kernels would take more than 512 MiB"),
    ("fft_depthwise", spec_of((20, 20), (9, 9), 8, 16, groups=8),
     "it is written for one filter per channel"),
    ("fft_depthwise", spec_of((20, 20), (9, 9), 8, 8, groups=8, stride=(1, 2)),
     "its transforms need stride 1"),
    ("fft_depthwise", spec_of((30, 30), (9, 9), 8, 8, groups=8, dilation=(2, 1)),
     "its sums down the columns need dilation 1"),
    ("fft_depthwise", spec_of((20, 20), (9, 5), 8, 8, groups=8),
     "rows of fewer than 7 taps have nothing to save"),
    ("fft_depthwise", spec_of((200, 200), (99, 99), 8, 8, groups=8),
     "a tile would be longer than 96"),
])  # fmt: skip
def test_refusals_name_their_reason(name: str, spec: ConvSpec, reason: str) -> None:
    assert ALGORITHMS[name].refuses(spec) == reason


def test_products_are_counted_as_the_formula_has_them() -> None:
    """The terms in C K of an operation count: 4 products per complex frequency, 1 per real one."""
    tiling = FftTiling(
        size=(16, 16), m=(10, 10), rows=3, columns=3, height=3, vectors=1, chunk=16, panels=1,
        staged=True,
    )  # fmt: skip

    def mults(channels: int, filters: int) -> int:
        spec = spec_of((28, 28), (7, 7), channels, filters)
        return Fft().operations(spec, tiling).mults

    both = mults(16, 16) - mults(16, 8) - mults(8, 16) + mults(8, 8)
    assert both == 9 * (126 * 4 + 4) * 8 * 8


def test_column_sums_count_the_rows_that_are_there() -> None:
    spec = spec_of((14, 14), (31, 31), 16, 16, groups=16)
    tiling = FftDepthwiseTiling(size=28, columns=14, whole=True, height=1, band=14)
    found = FftDepthwise().operations(spec, tiling).mults
    transforms = 14 * (real_dft(28, 14).mults + real_inverse(28, 14).mults)
    # Every output row sees all 14 rows; 13 complex frequencies and a pair of real ones.
    assert found == 16 * (transforms + 14 * 14 * (13 * 4 + 2))
