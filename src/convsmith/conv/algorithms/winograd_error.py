"""The rounding error of Winograd's algorithm: what to expect, and what it never exceeds.

Both walk through the very operations that are compiled, by
:func:`convsmith.kernel.transforms.traced`.

*Expected.* Every rounding adds an independent error, proportional to the root mean square of what
was rounded, and the rest of the algorithm carries it on linearly (Barabasz et al. 2018, section 4,
compare the mean errors of points in the same way by experiment). For inputs and filters of
independent entries the mean squares follow exactly from the matrices. Direct convolution is one
chain of n fused multiply-adds: its k-th sum has variance k, so its error has n (n + 1) / 2. That
chain is what the direct kernels compute; libraries that add up blocks of channels are more
accurate (measured: half the error at 64 channels of 3 x 3 taps, a fifth at 512).

*Bound.* Every product that contributes to an output passes at most ``depth`` roundings, and
cancellation is bounded by absolute values: |error| <= gamma(depth) |A| (|G| |g| * |B| |d|), with
gamma(n) = n u / (1 - n u) (Higham 2002, section 3.1; Barabasz et al. 2018, theorem 4, bound norms
of the same product).

Filters are transformed in float64 beforehand and rounded once, or in float32 on the way, some
channels at a time: then the sums of so many channels are added up, chains of chains, whose errors
are smaller (Higham 2002, chapter 4).

*Blocked.* Where the products are made by one level of Strassen's algorithm, their chains are longer
and their sums larger, by factors that follow from its tables for independent entries; all that
happens before and after stays as it is. The bound of a product is then relative to the largest sum
of |w| and the largest |x| that are mixed, so is that of the outputs: for each element i of a tile
|U_i| has row sums of at most max over t of |G_it| times those of |g|, |V_i| entries of at most the
sum of |B_id| times the largest |d|, and |A| adds those products up.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithms.winograd_strassen import half_of
from convsmith.conv.toom_cook import Matrix, Transform
from convsmith.kernel.strassen import error_growth, roundings
from convsmith.kernel.transforms import depth, traced

__all__ = ["error_bound", "error_ratio"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_FILTER_ROUNDINGS: Final = 2  # to float32, and more than all of those in float64


def _floats(matrix: Matrix) -> NDArray[np.float64]:
    return np.array([[float(entry) for entry in row] for row in matrix])


@cache
def _mean_squares(t: Transform) -> tuple[float, float, float, float]:
    """Mean squares over a tile's outputs, per channel and squared unit of rounding.

    Returns:
        Of the summed products, which a relative error in each of them leads to; of the error of
        the input transform; of that of the output transform; of that of the filters' in float32.
    """
    A, G, B = _floats(t.outputs), _floats(t.filters), _floats(t.inputs)
    sizes = np.sum(G**2, 1) * np.sum(B**2, 1)
    products = float(np.mean(np.sum(A**2 * sizes, 1)))
    inputs = 0.0
    for rounding in traced(t.inputs):
        reached = (A * rounding.effect) @ G  # (outputs, taps)
        inputs += float(np.sum(rounding.value**2) * np.mean(np.sum(reached**2, 1)))
    together = (G @ G.T) * (B @ B.T)  # how two products of one tile correlate
    outputs = 0.0
    for rounding in traced(t.outputs):
        variance = float(rounding.value @ together @ rounding.value)
        outputs += variance * float(np.mean(rounding.effect**2))
    filters = 0.0
    stored = np.minimum(np.arange(t.alpha), t.distinct - 1)  # rows of G that repeat are made once
    for rounding in traced(t.filters[: t.distinct]):
        reached = (A * rounding.effect[stored]) @ B  # (outputs, inputs)
        filters += float(np.sum(rounding.value**2) * np.mean(np.sum(reached**2, 1)))
    return products, inputs, outputs, filters


def _chains(channels: int, slab: int | None) -> list[int]:
    """Returns the lengths of the chains whose sums are added up."""
    if slab is None:
        return [channels]
    return [slab] * (channels // slab) + [channels % slab] * (channels % slab > 0)


def error_ratio(
    down: Transform, across: Transform, channels: int, *, slab: int | None = None,
    blocked: bool = False,
) -> float:  # fmt: skip
    """Returns the expected rms error over that of direct convolution, one chain of products.

    Within a factor of 1.5 for independent inputs, rectified ones and channels of unequal scale.

    The axis that is transformed first does not see its errors amplified by the second one (the
    second axis is an exact convolution for them); the second axis starts from values that the first
    has already enlarged.

    Args:
        down: Of the first axis.
        across: Of the second.
        channels: Input channels of a group.
        slab: Channels whose filters are transformed at a time, in float32; else they are
            transformed beforehand.
        blocked: Whether their products with tiles are made by Strassen's algorithm.
    """
    s_down, in_down, out_down, by_down = _mean_squares(down)
    s_across, in_across, out_across, by_across = _mean_squares(across)
    products = s_down * s_across
    chains = _chains(channels, slab)
    within = sum(length * (length + 1) / 2 for length in chains)
    sums = (within + sum(list(accumulate(chains))[1:])) * products
    filters = channels * (products if slab is None else by_down * across.r + s_down * by_across)
    if blocked:  # the sums of filters are rounded once, those of tiles about as often
        chained, entered = error_growth()
        sums, filters = chained * sums, 2 * entered * filters
    inputs = channels * (in_down * across.r + s_down * in_across)
    outputs = channels * (out_down * s_across + down.r * out_across)
    n = channels * down.r * across.r
    return float(np.sqrt((sums + filters + inputs + outputs) / (n * (n + 1) / 2)))


@cache
def _growth(t: Transform, blocked: bool) -> float:
    """The largest sum over a tile's inputs d of sum_i |A_oi| |G_it| |B_id|, over o and t.

    If blocked, each element i may have its largest |G_it| at another tap t.
    """
    A, G, B = (np.abs(_floats(m)) for m in (t.outputs, t.filters, t.inputs))
    if blocked:
        G = np.max(G, 1, keepdims=True)
    return float(np.max(np.einsum("oi,it,id->ot", A, G, B)))


def error_bound(
    down: Transform, across: Transform, channels: int, *, slab: int | None = None,
    blocked: bool = False,
) -> float:  # fmt: skip
    """Returns a bound of an output's error, as long as nothing overflows or underflows.

    It is relative to the sum over channels of (sum of |w| over the taps) times (largest |x| of the
    channel in the output's input tile). If blocked, to the largest sum of |w| over channels and
    taps of any filter, times the largest |x| of any channel in the input tiles of the pair.

    Args:
        down: Of the first axis.
        across: Of the second.
        channels: Input channels of a group.
        slab: Channels whose filters are transformed at a time, in float32; else they are
            transformed beforehand.
        blocked: Whether their products with tiles are made by Strassen's algorithm.
    """
    count = sum(depth(t.inputs) + depth(t.outputs) for t in (down, across))
    if blocked:
        count += roundings(half_of(channels) + _FILTER_ROUNDINGS, 1)
    else:
        chains = _chains(channels, slab)
        count += max(chains, default=0) + max(len(chains) - 1, 0)
        transforms = sum(depth(t.filters) for t in (down, across))
        count += _FILTER_ROUNDINGS if slab is None else transforms
    error = count * _UNIT_ROUNDOFF
    return error / (1 - error) * _growth(down, blocked) * _growth(across, blocked)
