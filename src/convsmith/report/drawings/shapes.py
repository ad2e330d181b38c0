"""Receptive fields drawn on what they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from convsmith.analysis import Field
from convsmith.graph import Shape
from convsmith.report import wording
from convsmith.report.drawings.png import middle, png

__all__ = ["Box", "Drawing", "drawing"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A field on the input; ``kind`` is ``is-before`` or ``is-after``."""

    x: float
    y: float
    width: int
    height: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What the middle of an output sees, on the middle of the input."""

    width: int
    height: int
    image: str
    boxes: tuple[Box, ...]
    label: str


def drawing(
    field: Field, shape: Shape, *, before: Field | None = None, image: Array | None = None
) -> Drawing | None:
    """Draws a receptive field on the input; ``None`` where that is not two-dimensional.

    Args:
        field: What an output sees.
        shape: Of the input, ``(N, C, H, W)``.
        before: What it saw before, drawn when it is something else.
        image: What to draw it on: a picture ``(C, H, W)``.
    """
    if len(shape) != 4:
        return None
    if image is not None:
        shape = (1, *image.shape)
    fields = [(field, "is-after")]
    if before is not None and before.size != field.size:
        fields.insert(0, (before, "is-before"))
    extents = []
    for each, kind in fields:
        size = shape[2:] if each.is_global else each.size
        if len(size) != 2 or size[0] is None or size[1] is None:
            return None
        extents.append((size[0], size[1], kind))
    room = max(32, *(3 * max(high, wide) for high, wide, _ in extents))
    height, width = min(shape[2], room), min(shape[3], room)
    boxes = tuple(
        Box(x=(width - wide) / 2, y=(height - high) / 2, width=wide, height=high, kind=kind)
        for high, wide, kind in extents
    )
    return Drawing(
        width=width,
        height=height,
        image="" if image is None else png(middle(image, height, width)),
        boxes=boxes,
        label=f"One output sees {wording.pixels(field)}; shown: {width} x {height} of the input",
    )
