"""Pictures in a page: as PNG in data URIs, and what their difference looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.optimization import Picture
from convsmith.report.drawings.png import middle, png
from convsmith.report.pages import typeset

__all__ = ["Comparison", "Shown", "amplification", "comparison"]

Array = npt.NDArray[Any]

MOST_PIXELS = 512
"""Height and width of a picture in a page: of larger ones the middle is shown."""

MOST_AMPLIFICATION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One picture: a data URI, its size, and its PSNR against the target."""

    data: str
    width: int
    height: int
    psnr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One test image through both networks.

    Attributes:
        factor: By how much the difference is amplified.
        change: Of the PSNR.
        apart: Root of the mean squared difference of the outputs, of 255.
        size: Of the whole picture, and which part is shown.
    """

    name: str
    given: Shown
    wanted: Shown
    before: Shown
    after: Shown
    difference: Shown
    factor: int
    change: str
    apart: str
    size: str


def amplification(pictures: Sequence[Picture]) -> int:
    """The power of two that makes the differences of the outputs visible, the same for all."""
    apart = [np.abs(p.after.astype(np.float64) - p.before).ravel() for p in pictures]
    high = max((float(np.quantile(each, 0.995)) for each in apart), default=0.0)
    if high == 0:
        return 1
    factor = 1
    while 2 * factor * high <= 0.5 and factor < MOST_AMPLIFICATION:
        factor *= 2
    return factor


def comparison(picture: Picture, factor: int) -> Comparison:
    """Prepares one picture for a page."""
    wanted = picture.wanted
    before, after = _psnr(picture.before, wanted), _psnr(picture.after, wanted)
    given = _psnr(picture.given, wanted) if picture.given.shape == wanted.shape else None
    apart = picture.after.astype(np.float64) - picture.before
    height, width = wanted.shape[1:]
    cut = f", middle {MOST_PIXELS} shown" if max(height, width) > MOST_PIXELS else ""
    return Comparison(
        name=picture.name.removeprefix("input/"),
        given=_shown(picture.given, given),
        wanted=_shown(wanted),
        before=_shown(picture.before, before),
        after=_shown(picture.after, after),
        difference=_shown(0.5 + factor * apart),
        factor=factor,
        change=typeset(f"{after - before:+.2f} dB"),
        apart=f"{255 * math.sqrt(float(np.square(apart).mean())):.2f}",
        size=f"{width} × {height}{cut}",
    )


def _psnr(image: Array, target: Array) -> float:
    error = float(np.square(image.astype(np.float64) - target).mean())
    return -10 * math.log10(max(error, 1e-20))


def _shown(image: Array, psnr: float | None = None) -> Shown:
    image = middle(image, MOST_PIXELS, MOST_PIXELS)
    return Shown(
        data=png(image),
        width=image.shape[2],
        height=image.shape[1],
        psnr="" if psnr is None else f"{psnr:.2f} dB",
    )
