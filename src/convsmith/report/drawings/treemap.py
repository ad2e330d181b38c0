"""Shares of a whole as rectangles inside rectangles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Tile", "squarified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One rectangle."""

    x: float
    y: float
    width: float
    height: float


def squarified(
    amounts: Sequence[float], x: float, y: float, width: float, height: float
) -> list[Tile]:
    """Divides a rectangle into tiles of given areas that are as square as can be.

    Bruls, Huizing & van Wijk, "Squarified treemaps" (2000).

    Args:
        amounts: Positive, in any order; the tiles come back in this order.
        x: Of the rectangle.
        y: Of the rectangle.
        width: Of the rectangle.
        height: Of the rectangle.

    >>> [round(tile.width * tile.height, 6) for tile in squarified([6, 3, 3], 0, 0, 4, 3)]
    [6.0, 3.0, 3.0]
    """
    order = sorted(range(len(amounts)), key=lambda i: -amounts[i])
    scale = width * height / max(sum(amounts), 1e-300)
    areas = [amounts[i] * scale for i in order]
    tiles: list[Tile] = []
    start = 0
    while start < len(areas):
        side = min(width, height)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(
            areas[start:end], side
        ):
            end += 1
        row = areas[start:end]
        thick = sum(row) / max(side, 1e-300)
        if width >= height:
            tiles += _column(row, x, y, thick)
            x, width = x + thick, max(width - thick, 0.0)
        else:
            tiles += [
                Tile(x=tile.y - y + x, y=tile.x - x + y, width=tile.height, height=tile.width)
                for tile in _column(row, x, y, thick)
            ]
            y, height = y + thick, max(height - thick, 0.0)
        start = end
    return [tile for _, tile in sorted(zip(order, tiles, strict=True), key=lambda pair: pair[0])]


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of the sides of tiles that lie along a side."""
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * max(min(row), 1e-300)))


def _column(row: Sequence[float], x: float, y: float, thick: float) -> Iterator[Tile]:
    for area in row:
        high = area / max(thick, 1e-300)
        yield Tile(x=x, y=y, width=thick, height=high)
        y += high
