"""Spectra as a page: a contact sheet of kernels beside what they pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from convsmith.report.pages import Card, Cell, Heading, Line, file_name, page
from convsmith.report.png import png
from convsmith.report.rendering import html
from convsmith.report.spectrum_text import HEADINGS, NOTE, cells
from convsmith.signal import KernelSpectrum, Spectrum

__all__: list[str] = []

Array = npt.NDArray[Any]


def _square(values: Array) -> Array:
    """Values between 0 and 1 as a picture; one axis becomes a band."""
    return np.tile(values, (8, 1))[None] if values.ndim == 1 else values[None]


def _taps(kernel: KernelSpectrum) -> Markup:
    """The kernel: grey is 0, white and black its largest number."""
    largest = float(np.abs(kernel.taps).max()) or 1.0
    return png(_square(0.5 + kernel.taps / (2 * largest)))


def _response(kernel: KernelSpectrum) -> Markup:
    """The magnitude: black stops, white passes best; constants in the middle."""
    largest = float(kernel.magnitude.max()) or 1.0
    return png(_square(kernel.magnitude / largest))


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
                "taps": _taps(kernel),
                "response": _response(kernel),
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
