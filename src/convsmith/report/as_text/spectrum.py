"""Spectra in a terminal and as rows: what kinds of filters every layer has."""

from __future__ import annotations

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.signal import KernelSpectrum, LayerSpectrum, Spectrum

__all__ = ["HEADINGS", "NOTE", "cells", "kinds"]

HEADINGS = (
    "layer", "kernel", "stride", "kernels", "kinds", "oriented", "low", "middle", "high",
    "separable", "aliased",
)  # fmt: skip
_MOST = 16
"""So many kernels are listed one by one; files for programs have all that were asked for."""

_KERNEL_HEADINGS = (
    "filter", "channel", "kind", "low", "middle", "high", "peak", "separable",
)  # fmt: skip

NOTE = (
    "Kinds: which frequencies pass. Low, middle, high: mean share of power per ring of frequencies"
    " (below 1/6, to 1/3, above, in cycles per pixel). Peak: the frequency that passes most."
    " Separable: energy in the best product of a column and a row. Aliased: energy above the"
    " Nyquist limit of the stride."
)

_SHORT = {
    "low-pass": "low",
    "high-pass": "high",
    "band-pass": "band",
    "all-pass": "all",
    "mixed": "mixed",
    "zero": "zero",
}


def kinds(layer: LayerSpectrum, most: int | None = None) -> str:
    """The most frequent kinds of filters of a layer: ``band 60 %, low 40 %``."""
    return ", ".join(
        f"{_SHORT[kind]} {100 * number / layer.scored:.0f} %" for kind, number in layer.kinds[:most]
    )


def cells(layer: LayerSpectrum, most: int | None = None) -> tuple[str, ...]:
    """A layer's row under :data:`HEADINGS`, with its ``most`` most frequent kinds."""
    return (
        wording.plain(layer.name),
        "x".join(map(str, layer.kernel)),
        "x".join(map(str, layer.stride)),
        f"{layer.kernels:,}",
        kinds(layer, most),
        f"{100 * layer.oriented / layer.scored:.0f} %",
        *(f"{100 * share:.0f} %" for share in (layer.low, layer.middle, layer.high)),
        f"{100 * layer.separability:.0f} %",
        f"{100 * layer.folded:.0f} %" if max(layer.stride) > 1 else "-",
    )


def _line(kernel: KernelSpectrum) -> tuple[str, ...]:
    made = kernel.character
    return (
        str(kernel.filter),
        str(kernel.channel),
        made.label,
        *(f"{100 * share:.0f} %" for share in (made.low, made.middle, made.high)),
        f"{made.peak:.2f}",
        f"{100 * made.separability:.0f} %",
    )


@text.register
def _(result: Spectrum, *, width: int | None = None, color: bool = False) -> str:
    """Renders one table of layers, one of kernels."""
    width = width or terminal_width()
    left_out = () if width >= 110 else ("stride", "low", "middle", "high")
    rows = [cells(layer, 1 if left_out else None) for layer in result.layers]
    layers = [
        Column(
            heading=heading,
            cells=[row[i] for row in rows],
            right=heading not in ("layer", "kinds"),
            shrinks=heading in ("layer", "kinds"),
        )
        for i, heading in enumerate(HEADINGS)
        if heading not in left_out
    ]
    shown = result.kernels[:_MOST]
    made = [_line(kernel) for kernel in shown]
    kernels = [
        Column(heading=name, cells=[row[i] for row in made], right=name != "kind")
        for i, name in enumerate(_KERNEL_HEADINGS)
    ]
    more = len(result.kernels) + result.left_out - len(shown)
    title = f"Kernels of {wording.plain(result.layer)}" + (f", and {more:,} more" if more else "")
    source = wording.plain(" ".join(result.source.split()))
    lines = [
        Text(wording.shorten(source, width), style="bold"),
        *table(layers, width),
        Text(""),
        Text(wording.shorten(title, width), style="bold"),
        *table(kernels, width),
        Text(""),
        *filled(NOTE, width, style="dim"),
    ]
    return printed(lines, color=color)


@csv.register
def _(result: Spectrum) -> str:
    """One line a kernel, without its response."""
    scores = [kernel.character.to_dict() for kernel in result.kernels]
    names = list(scores[0]) if scores else []
    rows = (
        (result.layer, kernel.filter, kernel.channel, *row.values())
        for kernel, row in zip(result.kernels, scores, strict=True)
    )
    return comma_separated(("layer", "filter", "channel", *names), rows)


@markdown.register
def _(result: Spectrum) -> str:
    """One table of layers."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{':--|' * len(HEADINGS)}"]
    lines += [
        f"| {' | '.join(escaped(cell) for cell in cells(layer))} |" for layer in result.layers
    ]
    return "\n".join([*lines, "", NOTE])
