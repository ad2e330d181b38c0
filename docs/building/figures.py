"""Figures that are computed by the library when the pages are built: SVG in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

import convsmith as cs
from building.tables import fewest
from convsmith.analysis import sight
from convsmith.conv.algorithms.winograd_error import error_ratio
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import transform

__all__ = ["MAKERS"]

_INKS = ("one", "two", "three", "four")


def _figure(width: float, height: float, parts: Sequence[str], caption: str) -> str:
    drawn = "".join(parts)
    return (
        f'<figure class="drawn"><svg viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' role="img" aria-label="{escape(caption)}">{drawn}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "line") -> str:
    return f'<path class="{kind}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def _cell(x: float, y: float, side: float, kind: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" class="{kind}" rx="2"/>'


def stack() -> str:
    """A row of the input, of the map between and of the output, for one 5x5 and two 3x3."""
    side, gap, count = 26, 54, 9
    middle = (count // 2, count // 2)
    parts = []
    for ink, (title, sizes) in zip(_INKS, (("one 5x5", (5,)), ("two 3x3", (3, 3))), strict=False):
        left = 20 + (count * side + 60) * _INKS.index(ink)
        parts.append(_text(left + count * side / 2, 20, title))
        # What the middle output sees of every map: the field of the layers above that map.
        maps: list[tuple[str, tuple[int, int]]] = [(f"conv{len(sizes)}", (middle[0], middle[0]))]
        for depth in range(1, len(sizes) + 1):
            above = " > ".join(f"conv 1 {k} p{k // 2}" for k in sizes[-depth:])
            seen = sight(cs.load(f"1@{count} > {above}")).at(f"conv{depth}", middle).clipped[1]
            assert seen is not None
            maps.append((f"conv{len(sizes) - depth}" if depth < len(sizes) else "input", seen))
        downs = [40 + 2 * gap * at // len(sizes) for at in range(len(maps))]
        for (name, (first, last)), down in zip(maps, downs, strict=True):
            kind = f"{ink}{'' if down == downs[0] else ' middle'}"
            for column in range(count):
                if first <= column <= last:
                    parts.append(_cell(left + column * side, down, side, kind))
                parts.append(_cell(left + column * side, down, side, "cell"))
            parts.append(
                _text(left + count * side + 8, down + 17, name, anchor="start", kind="small")
            )
        for (_, upper), (_, lower), down, below in zip(
            maps, maps[1:], downs, downs[1:], strict=False
        ):
            for a, b in ((upper[0], lower[0]), (upper[1] + 1, lower[1] + 1)):
                parts.append(_line(left + a * side, down + side, left + b * side, below))
    return _figure(
        2 * count * side + 160, 54 + 2 * gap + side, parts,
        "One row of pixels: what one output sees of every map. The stack ends on the same five.",
    )  # fmt: skip


def _chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, xs: Sequence[float],
    ys: Sequence[float], x_label: str, y_label: str, caption: str, logarithmic: bool = False,
) -> str:  # fmt: skip
    left, top, wide, high = 56, 30, 420, 230
    low, most = min(xs), max(xs)

    def scale(value: float) -> float:
        return math.log10(value) if logarithmic else value

    bottom, above = scale(min(ys)), scale(max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - low) / (most - low) * wide
        down = top + high - (scale(y) - bottom) / (above - bottom) * high
        return across, down

    parts = []
    for y in ys:
        _, down = at(low, y)
        parts.append(_line(left, down, left + wide, down))
        parts.append(_text(left - 8, down + 4, f"{y:g}", anchor="end", kind="small"))
    parts += [_text(at(x, min(ys))[0], top + high + 18, f"{x:g}", kind="small") for x in xs]
    for index, (name, points) in enumerate(curves.items()):
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in (at(*point) for point in points))
        ink = _INKS[index % len(_INKS)]
        parts.append(f'<path class="ink-{ink}" d="M{path}"/>')
        y = top + 12 + 20 * index
        parts.append(_line(left + wide + 18, y - 4, left + wide + 42, y - 4, f"ink-{ink}"))
        parts.append(_text(left + wide + 50, y, name, anchor="start", kind="small"))
    parts.append(_text(left + wide / 2, top + high + 38, x_label, kind="small"))
    parts.append(_text(left, 14, y_label, anchor="start", kind="small"))
    return _figure(left + wide + 210, top + high + 46, parts, caption)


def forms() -> str:
    """Multiply-accumulates of the forms, in percent of a k x k kernel's, by k."""
    found = cs.compare("64@28 > conv 64 5 p2")
    wanted = ("stack-3", "spatial-vertical-first", "bottleneck-stack-3", "depthwise-separable")
    curves = {
        curve.form: [(k, 100 * share) for k, share in curve.points if k % 2]
        for curve in found.curves
        if curve.form in wanted
    }
    return _chart(
        curves, xs=range(3, 16, 2), ys=range(0, 101, 20), x_label="kernel size k",
        y_label="% of the MACs",
        caption="What the forms cost, in percent of a k x k kernel, 64 to 64 channels.",
    )  # fmt: skip


def multiplications() -> str:
    """Multiplications of the algorithms over those of the definition, by kernel size."""
    sizes = range(3, 12, 2)
    curves: dict[str, list[tuple[float, float]]] = {}
    for kernel in sizes:
        spec = ConvSpec(
            size=(56, 56), channels=64, filters=64, kernel=(kernel, kernel),
            padding=((kernel // 2, kernel // 2),) * 2,
        )  # fmt: skip
        for name, plan in fewest(spec).items():
            if name in ("direct", "winograd", "fft"):
                curves.setdefault(name, []).append((kernel, plan.operations.mults / spec.macs))
    return _chart(
        curves, xs=sizes, ys=(0, 0.25, 0.5, 0.75, 1),
        x_label="kernel size, 64 to 64 channels at 56x56", y_label="× direct",
        caption="Multiplications, transforms included, over those of the definition.",
    )  # fmt: skip


def winograd() -> str:
    """Error against savings of F(m x m, 3 x 3)."""
    sizes = range(2, 7)
    errors = [(m, error_ratio(transform(m, 3), transform(m, 3), 64)) for m in sizes]
    saved = [(m, (3 * m / (m + 2)) ** 2) for m in sizes]
    return _chart(
        {"expected error, over direct's": errors, "times fewer products": saved},
        xs=sizes, ys=(0.5, 1, 2, 5, 10), logarithmic=True, x_label="outputs m of a tile, per axis",
        y_label="times",
        caption="F(m x m, 3 x 3), 64 channels: what a larger tile saves, and what it costs.",
    )  # fmt: skip


def gaussian() -> str:
    """What n stacked 3x3 with equal taps weigh the pixels of one row with, beside the Gaussian."""
    count = 8
    weights = np.ones(1)
    for _ in range(count):
        weights = np.convolve(weights, np.full(3, 1 / 3))
    reach = np.arange(-count, count + 1)
    net = cs.load("1@64 > " + " > ".join(["conv 1 3 p1"] * count))
    sigma = sight(net).gaussian(net.nodes[-1].name)[0].sigma
    bell = np.exp(-(reach**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return _chart(
        {
            f"{count} stacked 3x3, equal taps": list(zip(reach, weights, strict=True)),
            f"Gaussian, σ = {sigma:.2f}": list(zip(reach, bell, strict=True)),
        },
        xs=range(-8, 9, 4), ys=(0, 0.05, 0.1, 0.15, 0.2), x_label="pixels from the middle",
        y_label="weight",
        caption="How much the pixels of the field count: 17 are seen, the middle nine decide.",
    )  # fmt: skip


MAKERS: dict[str, Callable[[], str]] = {
    "figure-stack": stack,
    "figure-forms": forms,
    "figure-multiplications": multiplications,
    "figure-winograd": winograd,
    "figure-gaussian": gaussian,
}
"""What a page can ask for with ``<!-- library: NAME -->``."""
