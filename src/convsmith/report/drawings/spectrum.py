"""Spectra as contact sheets: the kernels of a layer, or an image before and after."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.report import wording
from convsmith.report.as_text.image_spectrum import heading
from convsmith.report.drawings.sheet import Chart, Curve, Sheet, Tile, sheet_png, sheet_svg
from convsmith.report.pages import file_name
from convsmith.report.rendering import picture
from convsmith.signal import ImageSpectrum, KernelSpectrum, PartSpectrum, Spectrum

__all__ = [
    "DECIBELS",
    "image_tile",
    "magnitude_picture",
    "power_picture",
    "profile_chart",
    "seen_picture",
    "taps_picture",
]

Array = npt.NDArray[Any]

DECIBELS = 80
"""From white to black in a power spectrum."""

_DEEPEST = 120  # decibels of a chart, at most


def _square(values: Array) -> Array:
    """Values between 0 and 1 as a picture; one axis becomes a band."""
    return np.tile(values, (8, 1))[None] if values.ndim == 1 else values[None]


def taps_picture(kernel: KernelSpectrum) -> Array:
    """The kernel: grey is 0, white and black its largest number."""
    largest = float(np.abs(kernel.taps).max()) or 1.0
    return _square(0.5 + kernel.taps / (2 * largest))


def magnitude_picture(kernel: KernelSpectrum) -> Array:
    """The magnitude: black stops, white passes best; constants in the middle."""
    largest = float(kernel.magnitude.max()) or 1.0
    return _square(kernel.magnitude / largest)


def seen_picture(part: PartSpectrum) -> Array:
    """A picture as it is if it has one or three channels between 0 and 1, else stretched."""
    made = part.picture if len(part.picture) in (1, 3) else part.picture.mean(0)[None]
    low, high = float(made.min()), float(made.max())
    if low >= 0 and high <= 1 and high > 0.5:
        return made
    return (made - low) / ((high - low) or 1.0)


def power_picture(part: PartSpectrum, top: float) -> Array:
    """The power in decibels: white is ``top``, black :data:`DECIBELS` below it."""
    if top <= 0:
        return np.zeros((1, *part.power.shape))
    with np.errstate(divide="ignore"):
        below = 10 * np.log10(part.power / top)
    return np.clip(1 + below / DECIBELS, 0, 1)[None]


def image_tile(part: PartSpectrum, name: str, top: float) -> Tile:
    """A picture beside its spectrum."""
    shares = " / ".join(f"{100 * share:.0f}" for share in (part.low, part.middle, part.high))
    return Tile(
        pictures=(seen_picture(part), power_picture(part, top)),
        caption=(name, f"{shares} % low / middle / high"),
    )


def profile_chart(result: ImageSpectrum) -> Chart:
    """Power over the radius of the frequency, in decibels below the largest."""
    parts = [part for part in (result.before, result.after) if part is not None]
    # What comes out of a network has no unit in common with what went in.
    own = bool(result.network)
    tops = [max(part.profile) for part in parts]
    tops = tops if own else [max(tops)] * len(tops)
    levels = [
        [10 * math.log10(p / top) if p > 0 and top > 0 else -math.inf for p in part.profile]
        for part, top in zip(parts, tops, strict=True)
    ]
    known = [max(level, -_DEEPEST) for each in levels for level in each]
    depth = min(max(20 * math.ceil(-min(known, default=0) / 20), 20), _DEEPEST)
    curves = tuple(
        Curve(
            name=part.name,
            points=tuple(
                ((i + 0.5) / len(each), max(1 + level / depth, 0.0)) for i, level in enumerate(each)
            ),
        )
        for part, each in zip(parts, levels, strict=True)
    )
    step = 20 if depth <= 80 else 40
    return Chart(
        curves=curves,
        across="frequency, cycles per pixel",
        upward="power",
        marks_across=tuple((f / 0.5, f"{f:g}") for f in (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        marks_upward=tuple(
            (1 - d / depth, f"-{d} dB" if d else "0 dB") for d in range(0, depth + 1, step)
        ),
    )


@picture.register
def _(result: Spectrum, form: str) -> bytes:
    """Every kernel beside what it passes."""
    tiles = tuple(
        Tile(
            pictures=(taps_picture(kernel), magnitude_picture(kernel)),
            caption=(kernel.character.label, f"filter {kernel.filter}, channel {kernel.channel}"),
        )
        for kernel in result.kernels
    )
    left_out = f", and {result.left_out:,} more" if result.left_out else ""
    name = file_name(result.source)
    sheet = Sheet(
        title=f"{len(tiles):,} kernels of {result.layer}, {name}{left_out}",
        tiles=tiles,
        side=72,
        note="Left the taps, grey is 0; right what passes, constants in the middle.",
    )
    return _file(sheet, form)


@picture.register
def _(result: ImageSpectrum, form: str) -> bytes:
    """The image and what came out, each beside its spectrum, and both profiles."""
    top = float(result.before.power.max())
    tiles = [image_tile(result.before, "before", top)]
    if result.after is not None:
        if result.network:
            top = float(result.after.power.max())
        tiles.append(image_tile(result.after, f"after {what(result)}", top))
    tiles += [image_tile(part, part.name, float(part.power.max())) for part in result.maps]
    sheet = Sheet(
        title=heading(result),
        tiles=tuple(tiles),
        side=192 if result.maps else 256,
        columns=2 if len(tiles) <= 2 else 0,
        chart=profile_chart(result),
        note=f"Spectra: power over {DECIBELS} dB, constants in the middle.",
    )
    return _file(sheet, form)


def what(result: ImageSpectrum) -> str:
    """What was done to an image."""
    return result.filter or f"{wording.plain(result.layer)} of {file_name(result.network)}"


def _file(sheet: Sheet, form: str) -> bytes:
    return sheet_png(sheet) if form == "png" else sheet_svg(sheet).encode()
