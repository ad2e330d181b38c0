"""The spectrum of an image in a terminal and as rows: where its power lies, before and after."""

from __future__ import annotations

import math

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.signal import ImageSpectrum, PartSpectrum

__all__ = ["HEADINGS", "NOTE", "cells", "heading", "parts", "steps"]

HEADINGS = (
    "picture", "size", "variance", "low", "middle", "high", "centre", "slope", "direction",
)  # fmt: skip
NOTE = (
    "Low, middle, high: shares of the power by frequency (below 1/6, to 1/3, above, in cycles per"
    " pixel). Centre: its mean frequency. Slope: a of the power law 1 / f^a; natural images have"
    " about 2. Direction: along which it varies most, counterclockwise from the horizontal axis."
)
_STEPS = 8
_MOST = 16
"""So many maps are listed one by one; files for programs have all that were asked for."""


def parts(result: ImageSpectrum) -> list[PartSpectrum]:
    """Everything that there is a spectrum of."""
    return [result.before, *([result.after] if result.after else []), *result.maps]


def heading(result: ImageSpectrum) -> str:
    """What was looked at, in one line."""
    done = ""
    if result.filter:
        kind = f", {result.kernel.label}" if result.kernel else ""
        done = f" through {result.filter}{kind}"
    elif result.network:
        done = f" through {result.layer} of {result.network}"
    return wording.plain(" ".join(f"{result.source}{done}".split()))


def cells(part: PartSpectrum) -> tuple[str, ...]:
    """A row under :data:`HEADINGS`."""
    height, width = part.power.shape
    clear = part.direction is not None and part.coherence >= 0.1
    return (
        wording.plain(part.name),
        f"{height}x{width}",
        f"{part.variance:.3g}",
        *(f"{100 * share:.1f} %" for share in (part.low, part.middle, part.high)),
        f"{part.centre:.3f}",
        "-" if part.slope is None else f"{part.slope:.2f}",
        f"{part.direction:.0f}°" if clear else "-",
    )


def steps(result: ImageSpectrum) -> list[tuple[str, str, str, str]]:
    """Frequencies, power before and after in decibels below the largest before, and the change."""
    rings = len(result.before.profile)
    if result.after is None or result.network or rings < _STEPS:
        return []
    per = rings // _STEPS
    top = max(result.before.profile)
    rows = []
    for step in range(_STEPS):
        low, high = step * per, (step + 1) * per if step + 1 < _STEPS else rings
        before = math.fsum(result.before.profile[low:high]) / (high - low)
        after = math.fsum(result.after.profile[low:high]) / (high - low)
        span = f"{low / rings / 2:.3f} to {high / rings / 2:.3f}"
        rows.append((span, _decibels(before, top), _decibels(after, top), _decibels(after, before)))
    return rows


def _decibels(value: float, of: float) -> str:
    if value <= 0 or of <= 0:
        return "-"
    return f"{10 * math.log10(value / of):+.1f} dB".replace("+0.0", "0.0").replace("-0.0 ", "0.0 ")


@text.register
def _(result: ImageSpectrum, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a picture, and what happened to every range of frequencies."""
    width = width or terminal_width()
    left_out = () if width >= 90 else ("variance", "centre")
    found = parts(result)
    shown = [cells(part) for part in found[: _MOST + 2]]
    columns = [
        Column(heading=name, cells=[row[i] for row in shown], right=i > 0, shrinks=i == 0)
        for i, name in enumerate(HEADINGS)
        if name not in left_out
    ]
    lines = [Text(wording.shorten(heading(result), width), style="bold"), *table(columns, width)]
    more = len(found) - len(shown) + result.left_out
    if more:
        lines += [Text(f"and {more:,} more maps", style="dim")]
    if changed := steps(result):
        names = ("frequency", "before", "after", "change")
        made = [
            Column(heading=name, cells=[row[i] for row in changed], right=True)
            for i, name in enumerate(names)
        ]
        lines += [Text(""), *table(made, width)]
    lines += [Text(""), *filled(NOTE, width, style="dim")]
    return printed(lines, color=color)


@csv.register
def _(result: ImageSpectrum) -> str:
    """One line a picture or map."""
    names = ("variance", "low", "middle", "high", "centre", "slope", "direction", "coherence")
    rows = (
        (part.name, *part.power.shape, *(getattr(part, name) for name in names))
        for part in parts(result)
    )
    return comma_separated(("picture", "height", "width", *names), rows)


@markdown.register
def _(result: ImageSpectrum) -> str:
    """One line a picture or map."""
    lines = [f"**{escaped(heading(result))}**", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{':--|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(escaped(cell) for cell in cells(part))} |" for part in parts(result)]
    return "\n".join([*lines, "", NOTE])
