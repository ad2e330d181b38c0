"""The spectrum of an image as a page: pictures beside their spectra, and both profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from convsmith.report.as_text.image_spectrum import HEADINGS, NOTE, cells, heading, parts, steps
from convsmith.report.drawings.png import png
from convsmith.report.drawings.sheet import chart_svg, fitted
from convsmith.report.drawings.spectrum import DECIBELS, image_tile, profile_chart, what
from convsmith.report.pages import Card, Cell, Heading, Line, page, typeset
from convsmith.report.rendering import html
from convsmith.signal import ImageSpectrum, PartSpectrum

__all__: list[str] = []

_SIDE = 384
"""Pixels of the larger side of a picture in a page."""

_MAP_SIDE = 128


@html.register
def _(result: ImageSpectrum) -> str:
    """Renders the page."""
    before = result.before
    top = float(before.power.max())
    pairs = [_pair(before, "before", top)]
    if result.after is not None:
        top = float(result.after.power.max()) if result.network else top
        pairs.append(_pair(result.after, f"after {what(result)}", top))
    content: dict[str, Any] = {
        "name": Path(result.source).name or "image",
        "lead": heading(result),
        "cards": [
            Card(value="×".join(map(str, before.power.shape)), label="pixels"),
            *(
                []
                if before.slope is None
                else [Card(value=typeset(f"{before.slope:.2f}"), label="slope")]
            ),
            *([Card(value=result.kernel.label, label="filter")] if result.kernel else []),
        ],
        "pairs": pairs,
        "maps": [
            _pair(part, part.name, float(part.power.max()), _MAP_SIDE) for part in result.maps
        ],
        "layer": result.layer,
        "left_out": f"{result.left_out:,}" if result.left_out else "",
        "chart": Markup(chart_svg(profile_chart(result))),
        "columns": [Heading(heading=name, numeric=i > 0) for i, name in enumerate(HEADINGS)],
        "rows": [_line(cells(part)) for part in parts(result)],
        "steps": [_line(step) for step in steps(result)],
        "step_columns": [
            Heading(heading=name, numeric=i > 0)
            for i, name in enumerate(("frequency", "before", "after", "change"))
        ],
        "decibels": DECIBELS,
        "note": NOTE,
    }
    return page("image_spectrum.html", content, styles=("image_spectrum.css",))


def _pair(part: PartSpectrum, name: str, top: float, side: int = _SIDE) -> dict[str, Any]:
    seen, spectrum = (fitted(each, side) for each in image_tile(part, name, top).pictures)
    return {"name": name, "seen": png(seen), "spectrum": png(spectrum)}


def _line(row: tuple[str, ...]) -> Line:
    return Line(
        cells=tuple(
            Cell(text=typeset(c) if i else c, kind="number" if i else "") for i, c in enumerate(row)
        )
    )
