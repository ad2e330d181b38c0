"""Planar convolution, one vector lane per output column: for few filters or small groups.

Where a group has fewer filters than a vector has lanes, lanes are better spent on the columns of a
plane: with channels first they lie together in memory. A tile of filters x output rows x vectors of
columns is summed in registers; every row of the input is loaded once per kernel column and used by
all filters and output rows of the tile, the weights are broadcast. Nothing is copied: columns
outside the input are lanes that stay zero, rows outside are skipped, strides pick their columns out
of whole vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.depthwise import inside_taps
from convsmith.conv.algorithms.direct import Direct
from convsmith.conv.algorithms.planar_kernels import PlanarKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import Target

__all__ = ["Planar", "PlanarTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_FILTERS: Final = 16  # per group: from there on filters fill the lanes
_STRIDE: Final = 4  # beyond, most of what is loaded is thrown away
_COLUMNS: Final = 4  # fewer output columns leave too many lanes empty
_TAPS: Final = 64  # kernel columns: all of them are written out
_CODE: Final = 320  # products of a tile that are written out


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanarTiling:
    """How planar convolution cuts its work.

    Attributes:
        filters: Filters of a register tile.
        rows: Output rows of a register tile.
        vectors: Vectors of output columns of a register tile.
        band: Output rows of one item.
        panels: Panels of ``filters`` filters of one item, all of one group.
        spans: Items that share the columns of a band.
        folded: Whether a vector holds two short rows; the tile is the whole plane then.
    """

    filters: int
    rows: int
    vectors: int
    band: int
    panels: int
    spans: int
    folded: bool = False

    def __str__(self) -> str:
        spans = f" spans {self.spans}" if self.spans > 1 else ""
        folded = " folded" if self.folded else ""
        return (
            f"{self.filters}x{self.rows}x{self.vectors} band {self.band} panels {self.panels}"
            f"{spans}{folded}"
        )


class Planar:
    """Few filters per group, channels first."""

    name = "planar"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        g = Geometry.of(spec)
        if spec.layout != "channels_first":
            return "its lanes are columns, which have to lie together: channels first"
        if g.filters > _FILTERS:
            return f"more than {_FILTERS} filters per group fill vectors by themselves"
        if g.stride[2] > _STRIDE:
            return f"a stride over {_STRIDE} columns uses too little of what is loaded"
        if g.columns < _COLUMNS:
            return f"fewer than {_COLUMNS} output columns leave its lanes empty"
        if g.kernel[2] > _TAPS:
            return f"more than {_TAPS} kernel columns are too much code"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[PlanarTiling, ...]:
        """Returns a tile that shares loaded rows, and one of wider rows."""
        g = Geometry.of(spec)
        room = 24 if target.registers >= 32 else 10
        wide = -(-g.columns // target.lanes)
        found: dict[PlanarTiling, None] = {}
        pairs = -(-g.rows // 2)
        if g.rows > 1 and 2 * g.columns <= target.lanes > g.size[2] and 2 * pairs <= room:
            filters = _even(g.filters, room // pairs)
            if pairs * filters * g.kernel[1] * g.kernel[2] <= _CODE:
                panels = -(-g.filters // filters)
                found[
                    PlanarTiling(
                        filters=filters, rows=g.rows, vectors=1, band=g.rows, panels=panels,
                        spans=1, folded=True,
                    )
                ] = None  # fmt: skip
        filters = _even(g.filters, 8 if room > 10 else 4)
        for most in (2, 4):
            vectors = _even(wide, min(most, max(1, room // filters)))
            rows = min(8, max(1, room // (filters * vectors)))
            taps = g.kernel[2] * vectors * filters
            if taps * g.kernel[1] * rows > _CODE:
                rows = max(1, _CODE // (taps * g.kernel[1]))
            rows = _even(g.rows, rows)
            found[self._tiling(spec, target, threads, filters, rows, vectors)] = None
        return tuple(found)

    @staticmethod
    def _tiling(
        spec: ConvSpec, target: Target, threads: int, filters: int, rows: int, vectors: int
    ) -> PlanarTiling:
        g = Geometry.of(spec)
        wanted = 3 * threads
        panels = -(-g.filters // filters)
        others = g.batch * g.output[0] * g.groups
        band = -(-g.rows // rows) * rows
        while band > rows and others * -(-g.rows // band) < wanted:
            band = max(rows, (band // 2 + rows - 1) // rows * rows)
        items = others * -(-g.rows // band)
        tiles = -(-g.columns // (vectors * target.lanes))
        spans = max(1, min(-(-wanted // items), tiles // 8))
        return PlanarTiling(
            filters=filters, rows=rows, vectors=vectors, band=band, panels=panels, spans=spans
        )

    def operations(self, spec: ConvSpec, tiling: PlanarTiling) -> Operations:
        """Returns a product per filter, channel of its group, row tap that meets the input.

        Columns of the padding are multiplied too.
        """
        products = spec.batch * spec.filters * (spec.channels // spec.groups)
        for axis in range(spec.rank):
            last = axis == spec.rank - 1
            products *= spec.output[axis] * spec.kernel[axis] if last else inside_taps(spec, axis)
        outputs = spec.batch * spec.filters * math.prod(spec.output)
        return Operations(mults=products, adds=max(products - outputs, 0))

    def error_ratio(self, spec: ConvSpec, tiling: PlanarTiling) -> float:
        """Returns 1: it is direct convolution."""
        return 1.0

    def error_bound(self, spec: ConvSpec, tiling: PlanarTiling) -> float:
        """Returns n u / (1 - n u) for n fused terms and unit roundoff u (Higham 2002.

        Section 3.1).
        """
        terms = math.prod(spec.weight_shape[1:]) + 2
        return terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF)

    def spread(self, spec: ConvSpec, tiling: PlanarTiling) -> tuple[int, ...]:
        """Returns ones: a NaN reaches what its products reach."""
        return (1,) * spec.rank

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: PlanarTiling | None = None
    ) -> NDArray[Any]:
        """Returns the sums tap by tap: the same as those of direct convolution."""
        return Direct().reference(spec, x, w)

    def lower(self, spec: ConvSpec, target: Target, tiling: PlanarTiling) -> Lowered:
        """Returns one kernel."""
        writer = PlanarKernels(spec, target, tiling)
        return Lowered(
            key=f"planar {spec.with_batch(1)!r} {tiling} {target.lanes} {target.registers}",
            functions=("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )


def _even(total: int, most: int) -> int:
    """Returns the tile size that cuts ``total`` into the fewest tiles, all nearly alike."""
    return -(-total // -(-total // most))
