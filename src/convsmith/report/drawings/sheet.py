"""Contact sheets: pictures with captions in rows, and curves, as one SVG or PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from convsmith.report import wording
from convsmith.report.drawings.png import png as data_uri

__all__ = [
    "Chart",
    "Curve",
    "Sheet",
    "Tile",
    "chart_svg",
    "fitted",
    "sheet_png",
    "sheet_svg",
]

Array = npt.NDArray[Any]

_MARGIN = 16
_GAP = 14
_INSIDE = 4  # between the pictures of a tile
_LINE = 15  # of text
_FONT = 12
_TYPE = f'font-family="sans-serif" font-size="{_FONT}"'
_INK, _QUIET, _PAPER = "#1b1b1f", "#5c5c66", "#ffffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Colors:
    """Of a chart: its words, its lines, its curves."""

    quiet: str
    rule: str
    series: tuple[str, ...]


_PRINTED = _Colors(quiet=_QUIET, rule="#c9c9d1", series=("#2a6fdb", "#c2570c"))
_IN_A_PAGE = _Colors(
    quiet="var(--quiet)", rule="var(--line)", series=("var(--quiet)", "var(--after)")
)
"""Those of the page, light or dark."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """Pictures side by side above their caption.

    Attributes:
        pictures: Each (C, H, W) between 0 and 1, C 1 or 3.
        caption: Lines of text.
    """

    pictures: tuple[Array, ...]
    caption: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A named line; both coordinates between 0 and 1, up is more."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves in one frame, with words for its axes and marks (place, text) on them."""

    curves: tuple[Curve, ...]
    across: str
    upward: str
    marks_across: tuple[tuple[float, str], ...] = ()
    marks_upward: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """What stands on a sheet.

    Attributes:
        title: One line.
        tiles: In rows from the left.
        side: Height and width of the larger side of every picture.
        columns: Tiles in a row; by default as makes the sheet about square.
        chart: Below the tiles.
        note: Last, one line.
    """

    title: str
    tiles: tuple[Tile, ...]
    side: int
    columns: int = 0
    chart: Chart | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Placed:
    x: int
    y: int
    picture: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    x: float
    y: float
    text: str
    color: str = _INK
    anchor: str = "start"


_CHART = (460, 200)  # of the frame
_AROUND = (64, 24, 12, 36)  # left, top, right, bottom


def _laid_out(sheet: Sheet) -> tuple[int, int, list[_Placed], list[_Text], int]:
    """Width and height, what stands where, and where the chart begins."""
    count = max((len(tile.pictures) for tile in sheet.tiles), default=1)
    wide = count * sheet.side + (count - 1) * _INSIDE
    shapes = [picture.shape[1:] for tile in sheet.tiles for picture in tile.pictures]
    tall = max((max(round(sheet.side * h / max(h, w)), 1) for h, w in shapes), default=0)
    high = tall + _INSIDE + _LINE * max((len(t.caption) for t in sheet.tiles), default=0)
    columns = sheet.columns or max(1, round(math.sqrt(len(sheet.tiles) * 1.4 * high / wide)))
    columns = min(columns, max(len(sheet.tiles), 1))
    rows = -(-len(sheet.tiles) // columns)
    top = _MARGIN + _LINE + _GAP
    placed, texts = [], []
    for index, tile in enumerate(sheet.tiles):
        x = _MARGIN + index % columns * (wide + _GAP)
        y = top + index // columns * (high + _GAP)
        for number, picture in enumerate(tile.pictures):
            place = x + number * (sheet.side + _INSIDE)
            placed.append(_Placed(x=place, y=y, picture=fitted(picture, sheet.side)))
        for number, line in enumerate(tile.caption):
            below = y + tall + _INSIDE + _LINE * number + _FONT
            shown = _shown(line, wide)
            texts.append(_Text(x=x, y=below, text=shown, color=_QUIET if number else _INK))
    chart = top + rows * (high + _GAP)
    width = columns * (wide + _GAP) - _GAP
    end = chart
    if sheet.chart is not None:
        width = max(width, _CHART[0] + _AROUND[0] + _AROUND[2])
        end += _CHART[1] + _AROUND[1] + _AROUND[3]
    if sheet.note:
        texts.append(_Text(x=_MARGIN, y=end + _FONT, text=_shown(sheet.note, width), color=_QUIET))
        end += _LINE
    texts.append(_Text(x=_MARGIN, y=_MARGIN + _FONT, text=_shown(sheet.title, width)))
    return width + 2 * _MARGIN, end + _MARGIN, placed, texts, chart


def _shown(line: str, width: int) -> str:
    """What fits; characters of this font are up to 7 pixels wide, but for a few."""
    return wording.shorten(wording.plain(line), max(width // 7, 8))


def fitted(picture: Array, side: int) -> Array:
    """Few pixels become squares, many are averaged: (C, H, W), the larger side ``side``."""
    height, width = picture.shape[1:]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BOX
    channels = [Image.fromarray(c.astype(np.float32)).resize(size, how) for c in picture]
    return np.stack([np.asarray(channel) for channel in channels])


def sheet_svg(sheet: Sheet) -> str:
    """Returns the sheet as an SVG file; its pictures are in it, and it loads nothing."""
    width, height, placed, texts, top = _laid_out(sheet)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_TYPE}>',
        f"<title>{escape(wording.plain(sheet.title))}</title>",
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
    ]
    parts += [
        f'<image x="{one.x}" y="{one.y}" width="{one.picture.shape[2]}"'
        f' height="{one.picture.shape[1]}" href="{data_uri(one.picture)}"/>'
        for one in placed
    ]
    if sheet.chart is not None:
        parts.append(
            f'<g transform="translate({_MARGIN} {top})">{_chart_parts(sheet.chart, _PRINTED)}</g>'
        )
    parts += [_text_svg(text) for text in texts]
    return "\n".join([*parts, "</svg>", ""])


def chart_svg(chart: Chart) -> str:
    """Returns a chart alone as an ``svg`` element, in the colors of the page around it."""
    width = _CHART[0] + _AROUND[0] + _AROUND[2]
    height = _CHART[1] + _AROUND[1] + _AROUND[3]
    names = quoteattr(", ".join(wording.plain(curve.name) for curve in chart.curves))
    return (
        f'<svg class="profile" viewBox="0 0 {width} {height}" width="{width}" role="img"'
        f" aria-label={names} {_TYPE}>{_chart_parts(chart, _IN_A_PAGE)}</svg>"
    )


def _chart_parts(chart: Chart, colors: _Colors) -> str:
    lines, curves, texts = _drawn(chart, colors)
    parts = [
        f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{colors.rule}"/>'
        for a, b, c, d in lines
    ]
    for color, points in curves:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
    return "".join([*parts, *map(_text_svg, texts)])


def _text_svg(text: _Text) -> str:
    place = f'x="{text.x:g}" y="{text.y:g}" fill="{text.color}" text-anchor="{text.anchor}"'
    return f"<text {place}>{escape(text.text)}</text>"


_Line = tuple[float, float, float, float]


def _drawn(
    chart: Chart, colors: _Colors
) -> tuple[list[_Line], list[tuple[str, list[tuple[float, float]]]], list[_Text]]:
    """Lines, curves and words of a chart whose corner is at 0, 0."""
    wide, high = _CHART
    left, top = _AROUND[:2]

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * wide, top + (1 - y) * high

    lines: list[_Line] = [(*place(0, 0), *place(1, 0)), (*place(0, 0), *place(0, 1))]
    texts = [
        _Text(x=left + wide, y=top + high + 32, text=chart.across, anchor="end", color=colors.quiet)
    ]
    texts.append(_Text(x=left, y=top - 8, text=chart.upward, color=colors.quiet))
    for at, words in chart.marks_across:
        x, y = place(at, 0)
        lines.append((x, y, x, y + 4))
        texts.append(_Text(x=x, y=y + 17, text=words, anchor="middle", color=colors.quiet))
    for at, words in chart.marks_upward:
        x, y = place(0, at)
        lines.append((x, y, *place(1, at)))
        texts.append(_Text(x=x - 6, y=y + 4, text=words, anchor="end", color=colors.quiet))
    curves = [
        (color, [place(x, y) for x, y in curve.points])
        for curve, color in zip(chart.curves, cycle(colors.series), strict=False)
    ]
    right = float(left + wide)
    for curve, (color, _) in reversed(list(zip(chart.curves, curves, strict=True))):
        words = wording.shorten(wording.plain(curve.name), 24)
        texts.append(_Text(x=right, y=top - 8, text=words, anchor="end", color=color))
        right -= 7 * len(words) + _GAP
    return lines, curves, texts


def sheet_png(sheet: Sheet) -> bytes:
    """Returns the sheet as a PNG file."""
    width, height, placed, texts, top = _laid_out(sheet)
    canvas = Image.new("RGB", (width, height), _PAPER)
    for one in placed:
        pixels = np.rint(np.clip(one.picture, 0, 1) * 255).astype(np.uint8)
        made = Image.fromarray(np.moveaxis(pixels, 0, 2) if len(pixels) == 3 else pixels[0])
        canvas.paste(made, (one.x, one.y))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_FONT)
    if sheet.chart is not None:
        lines, curves, words = _drawn(sheet.chart, _PRINTED)
        for a, b, c, d in lines:
            draw.line((a + _MARGIN, b + top, c + _MARGIN, d + top), fill=_PRINTED.rule)
        for color, points in curves:
            draw.line([(x + _MARGIN, y + top) for x, y in points], fill=color, width=2)
        _write(draw, font, words, _MARGIN, top)
    _write(draw, font, texts, 0, 0)
    file = io.BytesIO()
    canvas.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _write(draw: Any, font: Any, texts: Sequence[_Text], right: float, down: float) -> None:
    for text in texts:
        anchor = {"start": "l", "middle": "m", "end": "r"}[text.anchor]
        place = (text.x + right, text.y + down)
        draw.text(place, text.text, fill=text.color, font=font, anchor=f"{anchor}s")
