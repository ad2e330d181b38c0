"""Depthwise convolution with large kernels: transforms along the rows, sums down the columns.

A row of the output is a sum of one-dimensional correlations, one per row of the kernel; in the
frequencies of the rows each is a product. So every row of the input is transformed once, every
frequency is summed down its column with complex weights, and every row of sums is transformed back:

    Y[i, f] = sum over t of  conj(W[t, f]) X[i + t - before, f]

There is no sum over channels here for the transform of a second axis to be shared by. A row that
fits is taken whole, its padding as zeros of the transform that cost nothing; longer rows are cut
into tiles that overlap (overlap-save).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.fft_depthwise_kernels import FftDepthwiseKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.fourier import (
    correlation_bound,
    correlation_error,
    real_dft,
    real_inverse,
)
from convsmith.kernel.target import Target

__all__ = ["FftDepthwise", "FftDepthwiseTiling"]

_SIZES: Final = (8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96)
_LEAST: Final = 7  # taps of a row: below, sums tap by tap are shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class FftDepthwiseTiling:
    """How it cuts its work.

    Attributes:
        size: Length of the transforms.
        columns: Outputs of a tile, of one row.
        whole: Whether the one tile takes a row as it is, without its padding.
        height: Rows of sums held in registers.
        band: Rows of the output of one item.
    """

    size: int
    columns: int
    whole: bool
    height: int
    band: int

    def __str__(self) -> str:
        way = "whole rows" if self.whole else f"{self.columns} columns"
        return f"size {self.size} {way} height {self.height} band {self.band}"

    def shifts(self, spec: ConvSpec) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Returns, per tap of a row, how far right of its output it reads, and whether it counts.

        With whole rows a tap that reads nothing but padding must not be taken: it would come
        round.
        """
        g = Geometry.of(spec)
        shifts = np.arange(g.kernel[2]) * g.dilation[2]
        if not self.whole:
            return shifts, np.ones(len(shifts), np.bool_)
        shifts = shifts - g.before[2]
        return shifts, (shifts > -g.columns) & (shifts < g.size[2])


def _whole_size(g: Geometry) -> int:
    """Returns the length at which a whole row's outputs do not come round."""
    least = max(-g.before[2], 1 - g.columns)
    most = min(g.reach[2] - 1 - g.before[2], g.size[2] - 1)
    return max(g.size[2] - least, g.columns + most, g.size[2], g.columns)


def _steps(g: Geometry, band: int, height: int) -> int:
    """Returns how many rows the tiles of ``height`` sums of one frequency read, in all."""
    steps = 0
    for first in range(0, g.rows, band):
        for start in range(first, min(first + band, g.rows), height):
            start -= g.before[1]
            steps += max(0, min(start + height - 1 + g.kernel[1], g.size[1]) - max(start, 0))
    return steps


class FftDepthwise:
    """One filter per channel, rows of 7 taps and more, stride 1."""

    name = "fft_depthwise"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        g = Geometry.of(spec)
        if not spec.depthwise or g.filters != 1:
            return "it is written for one filter per channel"
        if set(spec.stride) != {1}:
            return "its transforms need stride 1"
        if g.dilation[1] != 1 and g.kernel[1] != 1:
            return "its sums down the columns need dilation 1"
        if g.kernel[0] != 1 or g.output[0] != 1:
            return "it is written for one or two spatial axes"
        if g.kernel[2] < _LEAST:
            return f"rows of fewer than {_LEAST} taps have nothing to save"
        if not min(g.size):
            return "the input is empty"
        if not self._sizes(g):
            return f"a tile would be longer than {_SIZES[-1]}"
        return ""

    @staticmethod
    def _sizes(g: Geometry) -> list[tuple[int, int, bool]]:
        """Returns (length, outputs, whole row) of tiles: whole, or those of the least products."""
        whole = _whole_size(g)
        found = [(size, g.columns, True) for size in _SIZES if size >= whole][:1]
        cut = [
            (-(-g.columns // m) * size, size, -(-g.columns // -(-g.columns // m)))
            for size in _SIZES
            if (m := size - g.reach[2] + 1) >= max(1, size // 4)
        ]
        return found or [(size, m, False) for _, size, m in sorted(cut)[:2]]

    def tilings(
        self, spec: ConvSpec, target: Target, threads: int
    ) -> tuple[FftDepthwiseTiling, ...]:
        """Returns one tiling per length worth trying."""
        g = Geometry.of(spec)
        made = []
        most = 8 if target.registers >= 32 else 4
        for size, columns, whole in self._sizes(g):
            row = 4 * size * target.lanes
            fit = max(1, (3 * target.level2 // 4 // row - g.kernel[1]) // 2)
            bands = -(-g.rows // max(fit, g.kernel[1] // 2, 8))
            items = g.batch * -(-spec.channels // target.lanes) * -(-g.columns // columns)
            if items < threads:
                bands = max(bands, min(-(-threads // items), -(-g.rows // 8)))
            band = -(-g.rows // bands)
            heights = range(min(band, 3), min(band, most) + 1)
            # Beside its products a step of a tile reads two vectors that it does not share.
            height = min(heights, key=lambda m: _steps(g, band, m) * (m + 0.75))
            made.append(
                FftDepthwiseTiling(
                    size=size, columns=columns, whole=whole, height=height, band=band
                )
            )
        return tuple(made)

    def operations(self, spec: ConvSpec, tiling: FftDepthwiseTiling) -> Operations:
        """Returns both transforms and the complex products, those with zero rows included."""
        g, t = Geometry.of(spec), tiling
        inputs = g.size[2] if t.whole else t.size
        forward, back = real_dft(t.size, inputs), real_inverse(t.size, t.columns)
        # A step of an output is a complex product, or two real ones at the real frequencies.
        products = _steps(g, t.band, t.height) * t.height * (4 * (t.size // 2 - 1) + 2)
        whole = -(-t.band // t.height) * t.height
        rows = 0  # of the input that are transformed, again for every band that reads them
        for first in range(0, g.rows, t.band):
            top = max(first - g.before[1], 0)
            rows += max(0, min(top + whole - 1 + g.kernel[1], g.size[1]) - top)
        mults = rows * forward.mults + g.rows * back.mults + products
        adds = rows * forward.adds + g.rows * back.adds + products
        times = g.batch * spec.channels * -(-g.columns // t.columns)
        return Operations(mults=times * mults, adds=times * adds)

    def error_ratio(self, spec: ConvSpec, tiling: FftDepthwiseTiling) -> float:
        """Returns less than 1 for large kernels: sums down the columns alone are shorter sums."""
        g = Geometry.of(spec)
        rows, columns = (min(k, n) for k, n in zip(g.kernel[1:], g.size[1:], strict=True))
        return correlation_error(tiling.size, rows, rows * columns)

    def error_bound(self, spec: ConvSpec, tiling: FftDepthwiseTiling) -> float:
        """Returns a bound of an output's error over max |x| of the image times sum |w|.

        See :func:`convsmith.kernel.fourier.correlation_bound`.
        """
        return correlation_bound((tiling.size,), Geometry.of(spec).kernel[1])

    def spread(self, spec: ConvSpec, tiling: FftDepthwiseTiling) -> tuple[int, ...]:
        """Returns the tile of sums: a NaN or Inf reaches all of every tile that reads it."""
        return (tiling.height, tiling.columns)[2 - spec.rank :]

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: FftDepthwiseTiling
    ) -> NDArray[Any]:
        """Returns the formula, tile by tile."""
        g, t = Geometry.of(spec), tiling
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        x = x.reshape(g.batch, spec.channels, *g.size[1:])
        shifts, kept = t.shifts(spec)
        kernel = np.zeros((spec.channels, g.kernel[1], t.size), x.dtype)
        taps = w.reshape(spec.channels, g.kernel[1], g.kernel[2])
        for tap in np.flatnonzero(kept):
            kernel[..., shifts[tap] % t.size] += taps[..., tap]
        filters = np.conj(np.fft.rfft(kernel))
        y = np.zeros((g.batch, spec.channels, g.rows, g.columns), x.dtype)
        above = max(0, g.rows - 1 + g.kernel[1] - g.before[1] - g.size[1])
        padded = np.pad(x, ((0, 0), (0, 0), (g.before[1], above), (g.before[2], t.size)))
        for start in range(0, g.columns, t.columns):
            tile = padded[..., start : start + t.size]
            if t.whole:
                tile = np.pad(x, ((0, 0), (0, 0), (g.before[1], above), (0, t.size - g.size[2])))
            spectra = np.fft.rfft(tile)
            for row in range(g.rows):
                rows = spectra[:, :, row : row + g.kernel[1]]
                made = np.fft.irfft((rows * filters).sum(2), t.size)
                stop = min(start + t.columns, g.columns)
                y[:, :, row, start:stop] = made[..., : stop - start]
        y = y.reshape(g.batch, spec.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: FftDepthwiseTiling) -> Lowered:
        """Returns one kernel."""
        writer = FftDepthwiseKernels(spec, target, tiling)
        return Lowered(
            key=f"fft_depthwise {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
