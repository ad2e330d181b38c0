"""Convolution by Fourier transforms of tiles: products instead of sums over the kernel.

A tile of n_y x n_x numbers is transformed, multiplied per frequency with the conjugate spectra of
the kernels (one complex matrix product over channels), and transformed back; of the circular
correlation the first n - reach + 1 outputs of each axis are those of the definition. Tiles overlap
by the rest (overlap-save; Mathieu et al. 2013, Vasilache et al. 2014). A real tile has half as many
frequencies as numbers. Dilation is for nothing: the spectrum of a kernel with holes has none.

Work is cut as in Winograd's algorithm. *Fused*: a thread transforms a block of tiles, multiplies
and transforms back. *Staged*: three phases over all threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.fft_kernels import FftKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.complex_tile import complex_tile_shapes
from convsmith.kernel.fourier import (
    complex_dft,
    complex_inverse,
    correlation_bound,
    correlation_error,
    real_dft,
    real_inverse,
)
from convsmith.kernel.target import Target

__all__ = ["Fft", "FftTiling"]

_SIZES: Final = (8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 64)
_LARGEST: Final = 4096  # numbers of a tile
_LEAST_TAPS: Final = 7  # of a kernel with one axis
_LEAST_AREA: Final = 25  # of one with two
_LEAST_CHANNELS: Final = 4  # of a group: fewer products would not pay for the transforms
_MOST_WEIGHTS: Final = 512 << 20  # bytes
_BYTES_PER_CYCLE: Final = 12  # of weights from the last level cache
_TILINGS: Final = 2  # tile sizes to measure


@dataclass(frozen=True, slots=True, kw_only=True)
class FftTiling:
    """How it cuts its work.

    Attributes:
        size: Numbers of a tile per axis (rows, columns); 1 for an axis of one tap.
        m: Outputs of a tile per axis.
        rows: Tile rows of a block.
        columns: Tile columns of a block.
        height: Tiles of a register tile.
        vectors: Vectors of filters of a register tile.
        chunk: Channels that are gathered and transformed at a time.
        panels: Panels of filters of one item of the products' phase, if staged.
        staged: Whether the three steps are phases of all threads.
    """

    size: tuple[int, int]
    m: tuple[int, int]
    rows: int
    columns: int
    height: int
    vectors: int
    chunk: int
    panels: int
    staged: bool

    def __str__(self) -> str:
        way = f"staged {self.panels}" if self.staged else "fused"
        return (
            f"{self.size[0]}x{self.size[1]} for {self.m[0]}x{self.m[1]} block "
            f"{self.rows}x{self.columns} tile {self.height}x{self.vectors} "
            f"channels {self.chunk} {way}"
        )

    def spectrum(self, spec: ConvSpec, w: NDArray[Any]) -> NDArray[np.float64]:
        """Returns what the slots of transformed tiles are multiplied with.

        Args:
            spec: For its dilation.
            w: (..., rows, columns) of taps.

        Returns:
            (..., slots, 2), in the order of :mod:`convsmith.conv.algorithms.fft_kernels`.
        """
        g = Geometry.of(spec)
        down, across = self.size
        grid = np.zeros((*w.shape[:-2], down, across), np.float64)
        grid[..., : g.reach[1] : g.dilation[1], : g.reach[2] : g.dilation[2]] = w
        if 1 in self.size:
            return _packed(np.fft.rfft(grid.reshape(*w.shape[:-2], -1))) / max(self.size)
        full = np.fft.rfft2(grid) / (down * across)  # (..., n_y, n_x / 2 + 1)
        ends = [_packed(full[..., : down // 2 + 1, k]) for k in (0, across // 2)]
        others = np.conj(np.moveaxis(full[..., 1:-1], -1, -2)).reshape(*w.shape[:-2], -1)
        return np.concatenate(
            [
                *(end[..., :1, :] for end in ends),
                *(end[..., 1:, :] for end in ends),
                np.stack([others.real, others.imag], axis=-1),
            ],
            axis=-2,
        )


def _packed(half: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the conjugates of n/2 + 1 frequencies of a real row as n/2 pairs."""
    packed = np.stack([half.real, -half.imag], axis=-1)
    packed[..., 0, 1] = half[..., -1].real
    return packed[..., :-1, :]


class Fft:
    """Dense kernels of 25 taps and more, stride 1, any dilation, groups of some channels."""

    name = "fft"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        g = Geometry.of(spec)
        if set(spec.stride) != {1}:
            return "its tiles need stride 1"
        if g.channels < _LEAST_CHANNELS or g.filters < _LEAST_CHANNELS:
            return f"groups of fewer than {_LEAST_CHANNELS} channels do not pay for transforms"
        if g.kernel[0] != 1 or g.output[0] != 1:
            return "it is written for one or two spatial axes"
        one = 1 in g.kernel[1:]
        if math.prod(g.kernel) < (_LEAST_TAPS if one else _LEAST_AREA):
            return f"kernels of fewer than {_LEAST_TAPS if one else _LEAST_AREA} taps save nothing"
        if not min(g.size):
            return "the input is empty"
        sizes = self._sizes(g)
        if not sizes:
            return f"a tile would need more than {_SIZES[-1]} numbers along an axis"
        least = min(math.prod(size) for size, _ in sizes)
        if 4 * least * spec.channels * g.filters > _MOST_WEIGHTS:
            return f"the spectra of its kernels would take more than {_MOST_WEIGHTS >> 20} MiB"
        return ""

    @staticmethod
    def _sizes(g: Geometry) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Returns pairs (numbers, outputs) of tiles, outputs spread evenly over the tiles."""
        axes: list[list[tuple[int, int]]] = []
        for outputs, reach in ((g.rows, g.reach[1]), (g.columns, g.reach[2])):
            if reach == 1:
                axes.append([(1, 1)])
                continue
            found: dict[int, tuple[int, int]] = {}  # by the number of tiles, the smallest size
            for size in _SIZES:
                if size - reach + 1 >= max(1, size // 4):
                    tiles = -(-outputs // (size - reach + 1))
                    found.setdefault(tiles, (size, -(-outputs // tiles)))
            axes.append(list(found.values()))
        return [
            ((down[0], across[0]), (down[1], across[1]))
            for down, across in product(*axes)
            if down[0] * across[0] <= _LARGEST
        ]

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[FftTiling, ...]:
        """Returns tile sizes of the least predicted effort, staged, and fused if that fits."""
        g = Geometry.of(spec)
        fitting = [
            pair
            for pair in self._sizes(g)
            if 4 * math.prod(pair[0]) * spec.channels * g.filters <= _MOST_WEIGHTS
        ]
        fitting.sort(key=lambda pair: _effort(g, target, *pair))
        found: list[FftTiling] = []
        seen: list[tuple[int, ...]] = []
        for size, m in fitting:
            if len(seen) == _TILINGS or tuple(sorted(size)) in seen:
                continue  # the same transforms the other way round are about as fast
            seen.append(tuple(sorted(size)))
            for staged in (True, False):
                tiling = self._tiling(spec, target, threads, size, m, staged)
                if tiling is not None:
                    found.append(tiling)
        return tuple(found)

    @staticmethod
    def _tiling(
        spec: ConvSpec, target: Target, threads: int, size: tuple[int, int], m: tuple[int, int],
        staged: bool,
    ) -> FftTiling | None:  # fmt: skip
        g = Geometry.of(spec)
        lanes = target.lanes
        high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
        shapes = complex_tile_shapes(target)
        height, vectors = next((s for s in shapes if (s[1] - 1) * lanes < g.filters), shapes[-1])
        vectors = min(vectors, -(-g.filters // lanes))
        deep = -(-spec.channels // lanes) * lanes
        rows, columns = high, wide
        if not staged:
            tile = 4 * math.prod(size) * (deep + vectors * lanes)
            room = max(3 * target.level2 // 4, target.level3 // (2 * threads))
            most = min(max(room // tile, 1), max(height, high * wide * g.batch // (2 * threads)))
            if most < min(height, high * wide) or (g.batch == 1 and most >= high * wide):
                return None  # too small for the weights' way, or a single block
            most = min(most, high * wide)
            columns = -(-wide // -(-wide // most))
            rows = max(1, min(high, most // columns)) if columns == wide else 1
        count = rows * columns
        height = -(-count // -(-count // height))
        all_panels = g.groups * -(-g.filters // (vectors * lanes))
        items = math.prod(size) // 2 * all_panels
        panels = min(all_panels, max(1, items // (24 * threads)))
        return FftTiling(
            size=size, m=m, rows=rows, columns=columns, height=height, vectors=vectors,
            chunk=deep if spec.channels % lanes else lanes, panels=panels, staged=staged,
        )  # fmt: skip

    def operations(self, spec: ConvSpec, tiling: FftTiling) -> Operations:
        """Returns products of spectra and both transforms; border tiles count whole."""
        g, t = Geometry.of(spec), tiling
        tiles = g.batch * -(-g.rows // t.m[0]) * -(-g.columns // t.m[1])
        numbers, special = math.prod(t.size), 4 if min(t.size) > 1 else 2
        # Four products per complex number, one per real one; two sums less per number of an output.
        products = tiles * (2 * (numbers - special) + special) * g.channels * spec.filters
        mults, adds = products, products - tiles * numbers * spec.filters
        down, across = t.size
        if min(t.size) == 1:
            forward = [(1, real_dft(max(t.size)))]
            back = [(1, real_inverse(max(t.size), max(t.m)))]
        else:
            inner = across // 2 - 1
            forward = [(down, real_dft(across)), (2, real_dft(down)), (inner, complex_dft(down))]
            back = [
                (2, real_inverse(down, t.m[0])), (inner, complex_inverse(down, t.m[0])),
                (t.m[0], real_inverse(across, t.m[1])),
            ]  # fmt: skip
        for each, networks in ((spec.channels, forward), (spec.filters, back)):
            mults += tiles * each * sum(times * network.mults for times, network in networks)
            adds += tiles * each * sum(times * network.adds for times, network in networks)
        return Operations(mults=mults, adds=adds)

    def error_ratio(self, spec: ConvSpec, tiling: FftTiling) -> float:
        """Returns less than 1 for most specs: sums over channels alone are shorter sums."""
        g = Geometry.of(spec)
        products = g.channels * math.prod(g.kernel)
        return correlation_error(math.prod(tiling.size), g.channels, products)

    def error_bound(self, spec: ConvSpec, tiling: FftTiling) -> float:
        """Returns a bound of an output's error over max |x| of the image times sum |w|.

        See :func:`convsmith.kernel.fourier.correlation_bound`.
        """
        return correlation_bound(tiling.size, Geometry.of(spec).channels)

    def spread(self, spec: ConvSpec, tiling: FftTiling) -> tuple[int, ...]:
        """Returns the tile: a NaN or Inf reaches all outputs of every tile that reads it."""
        return tiling.m[2 - spec.rank :]

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: FftTiling
    ) -> NDArray[Any]:
        """Returns the formula, tile by tile."""
        g, t = Geometry.of(spec), tiling
        (down, across), (high, wide) = t.size, t.m
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        x = x.reshape(g.batch, g.groups, g.channels, *g.size[1:])
        kernel = np.zeros((g.groups, g.filters, g.channels, down, across), x.dtype)
        kernel[..., : g.reach[1] : g.dilation[1], : g.reach[2] : g.dilation[2]] = w.reshape(
            g.groups, g.filters, g.channels, *g.kernel[1:]
        )
        filters = np.conj(np.fft.rfft2(kernel))
        y = np.zeros((g.batch, g.groups, g.filters, g.rows + high, g.columns + wide), x.dtype)
        around = ((g.before[1], g.rows + down), (g.before[2], g.columns + across))
        padded = np.pad(x, ((0, 0), (0, 0), (0, 0), *around))
        for i, j in product(range(0, g.rows, high), range(0, g.columns, wide)):
            tile = np.fft.rfft2(padded[..., i : i + down, j : j + across])
            sums = np.einsum("gkcab,ngcab->ngkab", filters, tile)
            made = np.fft.irfft2(sums, t.size)
            y[..., i : i + high, j : j + wide] = made[..., :high, :wide]
        y = y[..., : g.rows, : g.columns].reshape(g.batch, spec.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: FftTiling) -> Lowered:
        """Returns one kernel, or three."""
        writer = FftKernels(spec, target, tiling)
        return Lowered(
            key=f"fft {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("transform", "multiply", "restore") if tiling.staged else ("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )


def _effort(g: Geometry, target: Target, size: tuple[int, int], m: tuple[int, int]) -> float:
    """Returns about how many cycles of a core it takes.

    Products, the way of the weights through the caches, and transforms.
    """
    numbers = math.prod(size)
    tiles = g.batch * -(-g.rows // m[0]) * -(-g.columns // m[1])
    padded = -(-g.filters // target.lanes) * target.lanes
    products = 2.1 * numbers * tiles * g.channels * g.groups * padded / target.lanes
    weights = 4 * numbers * g.channels * g.groups * padded / _BYTES_PER_CYCLE
    vectors = g.groups * (g.channels + g.filters) / target.lanes
    return products + weights + 1.5 * tiles * vectors * numbers * math.log2(numbers)
