"""The matrices of Winograd's algorithm are exact: a proof over fractions, and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from convsmith.conv.algorithms.winograd_error import error_bound, error_ratio
from convsmith.conv.toom_cook import POINTS, Transform, transform
from convsmith.errors import UsageError
from convsmith.kernel.transforms import depth, operation_count, parts_of, traced

SIZES = [(m, r) for m, r in product(range(1, 9), repeat=2) if m + r - 1 <= 10]
OTHER_POINTS = {
    (2, 3): ("0", "2", "-1/3"),
    (4, 3): ("0", "1", "-1", "2", "-2"),
    (3, 4): ("5", "1/7", "-2", "3", "4"),
    (8, 3): ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "3", "-3"),
    (6, 5): ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "3", "-3"),
}


def computes_correlation(t: Transform) -> bool:
    """Whether A^T [(G g) * (B^T d)] is y_i = sum_k g_k d_(s i + k) for all g and d.

    Both sides are bilinear in g and d, so they agree everywhere if they agree on all pairs of unit
    vectors; and there the left side is a sum of products of three entries. Fractions are exact.
    """
    return all(
        sum(
            t.outputs[o][i] * t.filters[i][k] * t.inputs[i][j]
            for i in range(len(t.filters))
        ) == int(j == o * t.stride + k)
        for o, k, j in product(range(t.m), range(t.r), range((t.m - 1) * t.stride + t.r))
    )  # fmt: skip


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_the_matrices_compute_correlation(m: int, r: int) -> None:
    t = transform(m, r)
    assert computes_correlation(t)
    assert len(t.filters) == m + r - 1  # no more multiplications than Winograd's minimum


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize(
    ("m", "r"), [(1, 1), (1, 3), (4, 1), (2, 2), (4, 3), (7, 3), (5, 5), (4, 7)]
)
def test_the_matrices_compute_correlation_with_a_stride(m: int, r: int, stride: int) -> None:
    t = transform(m, r, stride=stride)
    assert computes_correlation(t)
    # Without savings each of the m outputs takes r products.
    assert t.alpha == sum(m + len(range(p, r, stride)) - 1 for p in range(min(stride, r)))
    assert t.extent == len(t.inputs[0])
    assert len(set(t.filters)) == len(set(t.filters[: t.distinct]))
    assert set(t.filters[t.distinct - 1 :]) == {t.filters[-1]}


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("m", "r"), [(1, 3), (4, 1), (2, 2), (4, 3), (7, 3), (5, 5), (4, 7)])
def test_factors_may_stand_with_the_inputs(m: int, r: int, stride: int) -> None:
    t, plain = transform(m, r, stride=stride), transform(m, r, stride=stride, plain_filters=True)
    assert computes_correlation(plain)
    assert plain.outputs == t.outputs
    assert (plain.distinct, plain.stride) == (t.distinct, t.stride)
    for row in plain.filters:
        assert next(entry for entry in row if entry) == 1
    assert sum(operation_count(plain.filters)) <= sum(operation_count(t.filters))


def test_parts_of_a_product_are_the_whole_product_with_no_more_operations() -> None:
    for (m, r), most in product(SIZES, (1, 2, 3, 4, 16)):
        t = transform(m, r, plain_filters=True)
        parts = parts_of(t.filters, most)
        assert [row for part in parts for row in part] == list(range(t.alpha))
        assert all(len(part) <= max(most, 2) for part in parts)
        made = [operation_count(t.filters[part.start : part.stop]) for part in parts]
        together = operation_count(t.filters)
        assert (sum(mults for mults, _ in made), sum(adds for _, adds in made)) == together


def test_three_taps_at_stride_2_store_five_filters_for_seven_products() -> None:
    t = transform(3, 3, stride=2)
    assert (t.alpha, t.distinct, t.extent, t.step) == (7, 5, 7, 6)


@pytest.mark.parametrize(("m", "r"), OTHER_POINTS)
def test_any_distinct_points_do(m: int, r: int) -> None:
    points = tuple(Fraction(text) for text in OTHER_POINTS[m, r])
    assert computes_correlation(transform(m, r, points))


def test_the_proof_can_fail() -> None:
    t = transform(4, 3)
    row = (t.inputs[1][0] + Fraction(1, 10**9), *t.inputs[1][1:])
    wrong = replace(t, inputs=(t.inputs[0], row, *t.inputs[2:]))
    assert not computes_correlation(wrong)


def test_f_2_3_is_the_published_one() -> None:
    # Lavin & Gray 2016, equation 7: signs and the factors 1/2 may be moved between the matrices.
    t = transform(2, 3)
    assert [[int(e) for e in row] for row in t.outputs] == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert [[abs(e) for e in row] for row in t.filters] == [
        [1, 0, 0], [Fraction(1, 2)] * 3, [Fraction(1, 2)] * 3, [0, 0, 1],
    ]  # fmt: skip
    assert operation_count(t.inputs) == (0, 4)
    assert operation_count(t.outputs) == (0, 4)


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_coefficients_of_the_compiled_transforms_are_exact_in_float32(m: int, r: int) -> None:
    t = transform(m, r)
    for entry in (e for matrix in (t.inputs, t.outputs) for row in matrix for e in row):
        assert Fraction(float(np.float32(float(entry)))) == entry


def test_points_come_in_pairs() -> None:
    for alpha, points in POINTS.items():
        if alpha > 2:
            assert set(points) == {-p for p in points}


@pytest.mark.parametrize(
    ("m", "r", "points", "message"),
    [
        (0, 3, None, r"F\(0, 3\) is no filter; choose sizes of 1 or more"),
        (
            9,
            3,
            None,
            r"F\(9, 3\) needs 10 distinct points; pass points, or choose m \+ r - 1 <= 10",
        ),
        (2, 3, ("0", "1"), r"F\(2, 3\) needs 3 distinct points, not 0, 1; pass points"),
        (2, 3, ("0", "1", "1"), r"F\(2, 3\) needs 3 distinct points, not 0, 1, 1; pass points"),
    ],
)
def test_wrong_sizes_and_points_are_refused(
    m: int, r: int, points: tuple[str, ...] | None, message: str
) -> None:
    chosen = None if points is None else tuple(Fraction(p) for p in points)
    with pytest.raises(UsageError, match=message):
        transform(m, r, chosen)


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (5, 3), (6, 3), (4, 5), (2, 7)])
def test_traced_roundings_explain_a_float32_product(m: int, r: int) -> None:
    """Errors injected into every rounding add up to what the trace says they do."""
    for matrix in (transform(m, r).inputs, transform(m, r).outputs):
        exact = np.array([[float(e) for e in row] for row in matrix])
        roundings = traced(matrix)
        assert all(len(rounding.effect) == len(matrix) for rounding in roundings)
        # What an entry becomes last is rounded with effect 1 on it alone, or is not rounded.
        for i, row in enumerate(exact):
            final = [
                rounding for rounding in roundings
                if rounding.effect[i] == 1 and np.array_equal(rounding.value, row)
            ]  # fmt: skip
            assert final or np.count_nonzero(row) == 1
        mults, adds = operation_count(matrix)
        assert adds <= len(roundings) <= adds + mults


def test_depth_counts_the_longest_way() -> None:
    half = Fraction(1, 2)
    assert depth([[Fraction(1), Fraction(0)]]) == 0
    assert depth([[half, Fraction(0)]]) == 0  # a power of two rounds nothing
    assert depth([[Fraction(3), Fraction(0)]]) == 1
    assert depth([[Fraction(1, 3), Fraction(0)]]) == 2  # its coefficient is rounded as well
    assert depth([[Fraction(1)] * 5]) == 4


def test_error_of_the_trivial_algorithm_is_that_of_direct_convolution() -> None:
    """F(1, r) in both axes sums the products over channels, then over taps."""
    t = transform(1, 1)
    channels = 100
    # One more rounding of each filter than a chain of fused products.
    wanted = math.sqrt((channels * (channels + 1) / 2 + channels) / (channels * (channels + 1) / 2))
    assert error_ratio(t, t, channels) == pytest.approx(wanted)
    assert error_bound(t, t, channels) == pytest.approx((channels + 2) * 2.0**-24, rel=1e-4)


def test_larger_tiles_cost_accuracy() -> None:
    ratios = [error_ratio(transform(m, 3), transform(m, 3), 256) for m in (2, 4, 5, 6)]
    assert ratios == sorted(ratios)
    lavin = transform(4, 3, tuple(Fraction(p) for p in (0, 1, -1, 2, -2)))
    assert error_ratio(lavin, lavin, 256) > 2 * ratios[1]
