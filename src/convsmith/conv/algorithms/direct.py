"""Direct convolution as an implicit matrix product: every spec, nothing approximated, no detour.

A tile of M output pixels by V vectors of filters is summed in registers over the taps and
channels. The left-hand side is read in place from a padded patch of the input whose channels lie
together, so a row of kernel taps is one run of memory; the right-hand side is the weights, packed
once.

The patch is gathered by the thread that uses it, in its own cache (*local*), or by all threads in a
phase before, for the whole image (*staged*: small images, many filters). With pointwise kernels and
channels last the input is its own patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.direct_kernels import DirectKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes

__all__ = ["Direct", "DirectTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectTiling:
    """How direct convolution cuts its work.

    Attributes:
        rows: Output rows of a register tile.
        columns: Output columns of a register tile.
        vectors: Vectors of filters of a register tile.
        band: Output rows of one item.
        panels: Panels of ``vectors`` vectors of filters of one item.
        staged: Whether the padded input is gathered in a phase of its own.
    """

    rows: int
    columns: int
    vectors: int
    band: int
    panels: int
    staged: bool

    def __str__(self) -> str:
        way = "staged" if self.staged else "local"
        return (
            f"{self.rows}x{self.columns}x{self.vectors} band {self.band} panels {self.panels} {way}"
        )


class Direct:
    """The general workhorse."""

    name = "direct"

    def refuses(self, spec: ConvSpec) -> str:
        """Takes everything."""
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[DirectTiling, ...]:
        """Returns tiles that fill the registers.

        In bands that fit the cache and busy all threads.
        """
        g = Geometry.of(spec)
        found: dict[DirectTiling, None] = {}
        for pixels, vectors in tile_shapes(target)[:2]:
            if (vectors - 1) * target.lanes >= g.filters:
                vectors = -(-g.filters // target.lanes)
            columns = -(-g.columns // -(-g.columns // pixels))
            rows = min(max(1, pixels // columns), g.rows) if columns == g.columns else 1
            all_panels = g.groups * -(-g.filters // (vectors * target.lanes))
            for staged in (False, True):
                found[
                    self._tiling(spec, target, threads, rows, columns, vectors, all_panels, staged)
                ] = None
            panel = 4 * vectors * target.lanes * math.prod(spec.weight_shape[1:])
            if all_panels >= 2 * threads and all_panels * panel > target.level2 >= panel:
                # Every panel of the weights is read once, and stays near for the whole image.
                found[
                    DirectTiling(
                        rows=rows, columns=columns, vectors=vectors, band=g.rows, panels=1,
                        staged=True,
                    )
                ] = None  # fmt: skip
        ordered = list(found)
        if self._in_place(spec) or math.prod(g.output) * g.batch < 32 * 32 * threads:
            ordered.sort(key=lambda tiling: not tiling.staged)
        return tuple(ordered)

    def _tiling(
        self, spec: ConvSpec, target: Target, threads: int, rows: int, columns: int, vectors: int,
        all_panels: int, staged: bool,
    ) -> DirectTiling:  # fmt: skip
        g = Geometry.of(spec)
        line = 4 * g.padded[2] * g.channels * g.groups * g.kernel[0]  # bytes of one row of a patch
        most = max(
            1, (target.level2 // 2 // max(line, 1) - (g.reach[1] - g.stride[1])) // g.stride[1]
        )
        band = max(rows, min(most, g.rows) // rows * rows)
        wanted = 3 * threads
        images = g.batch * g.output[0]
        while band > rows and images * -(-g.rows // band) < wanted:
            band = max(rows, (band // 2 + rows - 1) // rows * rows)
        panels = all_panels
        if staged:
            bands = images * -(-g.rows // band)
            chunks = min(all_panels, max(1, -(-wanted // bands)))
            panels = -(-all_panels // chunks)
        return DirectTiling(
            rows=rows, columns=columns, vectors=vectors, band=band, panels=panels, staged=staged
        )

    def operations(self, spec: ConvSpec, tiling: DirectTiling) -> Operations:
        """Returns one product per tap, channel and output, and a sum of them."""
        outputs = spec.batch * spec.filters * math.prod(spec.output)
        return Operations(mults=spec.macs, adds=max(spec.macs - outputs, 0))

    def error_ratio(self, spec: ConvSpec, tiling: DirectTiling) -> float:
        """Returns 1: this is what the others are compared with."""
        return 1.0

    def error_bound(self, spec: ConvSpec, tiling: DirectTiling) -> float:
        """Returns n u / (1 - n u) for n fused terms and unit roundoff u (Higham 2002.

        Section 3.1).
        """
        terms = math.prod(spec.weight_shape[1:]) + 2
        return terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF)

    def spread(self, spec: ConvSpec, tiling: DirectTiling) -> tuple[int, ...]:
        """Returns ones: a NaN reaches what its products reach."""
        return (1,) * spec.rank

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: DirectTiling | None = None
    ) -> NDArray[Any]:
        """Returns the sums tap by tap.

        Each tap of the kernel is one matrix product over channels.
        """
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        padded = np.pad(x, ((0, 0), (0, 0), *spec.padding))
        y = np.zeros((len(x), spec.filters, *spec.output), x.dtype)
        per, out = spec.channels // spec.groups, spec.filters // spec.groups
        for tap in np.ndindex(*spec.kernel):
            seen = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, spec.dilation, spec.output, spec.stride, strict=True)
            )
            for group in range(spec.groups):
                taps = w[(slice(group * out, group * out + out), slice(None), *tap)]
                window = padded[(slice(None), slice(group * per, group * per + per), *seen)]
                y[:, group * out : group * out + out] += np.einsum("kc,nc...->nk...", taps, window)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: DirectTiling) -> Lowered:
        """Returns kernels that gather padded patches and sum tiles."""
        writer = DirectKernels(spec, target, tiling, in_place=self._in_place(spec))
        return Lowered(
            key=f"direct {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("stage", "compute") if writer.stages else ("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )

    @staticmethod
    def _in_place(spec: ConvSpec) -> bool:
        return spec.layout == "channels_last" and not any(map(any, spec.padding))
