"""Spectra as a page: a contact sheet of kernels beside what they pass."""

from __future__ import annotations

from convsmith.report.as_text.spectrum import HEADINGS, NOTE, cells
from convsmith.report.drawings.png import png
from convsmith.report.drawings.spectrum import magnitude_picture, taps_picture
from convsmith.report.pages import Card, Cell, Heading, Line, file_name, page
from convsmith.report.rendering import html
from convsmith.signal import Spectrum

__all__: list[str] = []


@html.register
def _(result: Spectrum) -> str:
    """Renders the page."""
    layers = result.layers
    kernels = sum(layer.kernels for layer in layers)
    content = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "cards": [
            Card(value=f"{len(layers):,}", label="layer" if len(layers) == 1 else "layers"),
            Card(value=f"{kernels:,}", label="kernel" if kernels == 1 else "kernels"),
        ],
        "layer": result.layer,
        "sheet": [
            {
                "taps": png(taps_picture(kernel)),
                "response": png(magnitude_picture(kernel)),
                "label": kernel.character.label,
                "place": f"filter {kernel.filter}, channel {kernel.channel}",
            }
            for kernel in result.kernels
        ],
        "left_out": f"{result.left_out:,}" if result.left_out else "",
        "columns": [Heading(heading=heading) for heading in HEADINGS],
        "rows": [Line(cells=tuple(Cell(text=cell) for cell in cells(layer))) for layer in layers],
        "note": NOTE,
    }
    return page("spectrum.html", content)
