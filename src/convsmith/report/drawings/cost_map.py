"""Where the multiply-accumulates of a network are: modules, and the layers in them, as areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.analysis import Analysis, Row
from convsmith.analysis.modules import parts
from convsmith.report import wording
from convsmith.report.drawings.treemap import Tile, squarified

__all__ = ["HEIGHT", "WIDTH", "Area", "cost_map"]

WIDTH, HEIGHT, _HEAD = 1200.0, 400.0, 18.0
_SMALLEST_TILE = 0.0012
"""Layers with a smaller share of the network stand together in one tile of their module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A tile of the map; ``layer`` is empty for modules and for what stands together."""

    tile: Tile
    title: str
    layer: str
    text: str
    hue: int
    is_module: bool = False


def cost_map(analysis: Analysis) -> list[Area]:
    """Multiply-accumulates as areas: modules, and the layers in them."""
    groups: dict[str, list[Row]] = {}
    depth = _depth(analysis.rows)
    for row in analysis.rows:
        if row.macs:
            path = parts(row.module)[:-1][:depth]
            groups.setdefault(".".join(path), []).append(row)
    total = analysis.total.macs
    ordered = list(groups.items())
    areas: list[Area] = []
    outer = squarified([sum(r.macs for r in rows) for _, rows in ordered], 0, 0, WIDTH, HEIGHT)
    for hue, ((name, rows), tile) in enumerate(zip(ordered, outer, strict=True)):
        share = sum(row.macs for row in rows) / total
        title = f"{name}: {wording.short(sum(row.macs for row in rows))} MACs, {share:.1%}"
        head = _HEAD if name and tile.height > 3 * _HEAD and tile.width > 50 else 0.0
        if name:
            areas.append(
                Area(tile=tile, title=title, layer="", text=_fit(name, tile.width) if head else "",
                      hue=hue % 8, is_module=True)
            )  # fmt: skip
        small = [row for row in rows if row.macs < _SMALLEST_TILE * total]
        large = [row for row in rows if row.macs >= _SMALLEST_TILE * total]
        amounts = [row.macs for row in large] + ([sum(r.macs for r in small)] if small else [])
        inner = squarified(amounts, tile.x, tile.y + head, tile.width, tile.height - head)
        for index, place in enumerate(inner):
            layer = large[index] if index < len(large) else None
            label = f"{len(small)} more layers" if layer is None else layer.name
            amount = amounts[index]
            short = label.removeprefix(f"{name}.") if name else label
            areas.append(
                Area(
                    tile=place,
                    title=f"{label}: {wording.short(amount)} MACs, {amount / total:.1%}",
                    layer="" if layer is None else layer.name,
                    text=_fit(short, place.width) if place.height > 15 else "",
                    hue=(hue if len(ordered) > 1 else index) % 8,
                )
            )
    return areas


def _depth(rows: Sequence[Row]) -> int:
    """How deep the modules lie that the map shows: where there are enough of them to tell apart."""
    for depth in (1, 2, 3):
        count = len({parts(row.module)[:-1][:depth] for row in rows if row.macs})
        if count >= 4:
            return depth
    return 1


def _fit(text: str, width: float) -> str:
    """A name, or its end, if it fits into so many pixels; else nothing."""
    room = int((width - 8) / 6.4)
    name = wording.plain(text)
    for shown in (name, name.rpartition(".")[2]):
        if len(shown) <= room:
            return shown
    return ""
