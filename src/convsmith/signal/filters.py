"""The classic filters, by name: ``gaussian:1.5``, ``box:3``, ``sobel-x``, ``gabor:8:45``.

* ``box:N``: the mean of N x N pixels.
* ``gaussian:SIGMA``: a Gaussian of that standard deviation in pixels, cut at 4 SIGMA; its sum is 1.
* ``sobel-x``, ``sobel-y``: the slope along an axis, per pixel: the kernel of Sobel over 8.
* ``laplacian``: the sum of the second differences, 4 neighbours less 4 times the middle.
* ``gabor:WAVE[:DEGREES[:SIGMA]]``: a cosine of that wavelength in pixels and that direction (0)
  under a Gaussian of SIGMA (0.56 WAVE: one octave wide; Kruizinga & Petkov 1999, eq. 2). A constant
  gives 0, the wave itself comes out as it was.

Directions are counted as in mathematics, from the horizontal axis, as those of
:class:`~convsmith.signal.Character`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError

__all__ = ["FILTERS", "filter_kernel"]

Array = npt.NDArray[Any]

FILTERS = (
    "box:N", "gaussian:SIGMA", "sobel-x", "sobel-y", "laplacian", "gabor:WAVE[:DEGREES[:SIGMA]]",
)  # fmt: skip

_WIDEST = 255  # taps per axis
_LARGEST = (_WIDEST - 1) / 8  # sigma: cut at 4 sigma on both sides


def filter_kernel(name: str) -> Array:
    """Returns the taps of a classic filter.

    Args:
        name: One of :data:`FILTERS`, with numbers.

    Returns:
        float64, (h, w).

    Raises:
        UsageError: If there is no such filter, or its numbers make no sense.

    >>> filter_kernel("box:3").sum().round(12).item()
    1.0
    >>> filter_kernel("sobel-x")[1].tolist()
    [-0.25, 0.0, 0.25]
    """
    kind, *numbers = name.strip().lower().split(":")
    if kind not in _MAKERS:
        raise UsageError(f"there is no filter {name!r}", remedy=f"choose from {', '.join(FILTERS)}")
    least, most, make = _MAKERS[kind]
    if not least <= len(numbers) <= most:
        form = next(form for form in FILTERS if form.split(":")[0] == kind)
        raise UsageError(f"{name!r} is no filter", remedy=f"write {form}")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{name!r} has something else than numbers", remedy="write gaussian:1.5")
    return make(values)


def _box(numbers: Sequence[float]) -> Array:
    taps = numbers[0]
    if taps != int(taps) or not 1 <= taps <= _WIDEST:
        raise UsageError(
            f"a box of {taps:g} pixels is no filter", remedy=f"give a whole number to {_WIDEST}"
        )
    return np.full((int(taps), int(taps)), 1 / taps**2)


def _gaussian(numbers: Sequence[float]) -> Array:
    made = _envelope(numbers[0])[2]
    return np.asarray(made / made.sum())


def _gabor(numbers: Sequence[float]) -> Array:
    wave = numbers[0]
    if wave < 2:
        raise UsageError(
            f"no wave is {wave:g} pixels long", remedy="give 2, the Nyquist limit, or more"
        )
    angle = math.radians(numbers[1] if len(numbers) > 1 else 0.0)
    y, x, under = _envelope(numbers[2] if len(numbers) > 2 else 0.56 * wave)
    carrier = np.cos(2 * math.pi * (x * math.cos(angle) - y * math.sin(angle)) / wave)
    made = under * (carrier - (under * carrier).sum() / under.sum())
    return np.asarray(made / (made * carrier).sum())


def _envelope(sigma: float) -> tuple[Array, Array, Array]:
    """Coordinates, and a Gaussian on them."""
    if not 0 < sigma <= _LARGEST:
        raise UsageError(
            f"a standard deviation of {sigma:g} pixels is no width of a filter",
            remedy=f"give a number above 0, up to {_LARGEST:g}",
        )
    reach = math.ceil(4 * sigma)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    return y, x, np.exp(-(x**2 + y**2) / (2 * sigma**2))


_SOBEL = np.outer([1.0, 2, 1], [-1.0, 0, 1]) / 8
_MAKERS: dict[str, tuple[int, int, Callable[[Sequence[float]], Array]]] = {
    "box": (1, 1, _box),
    "gaussian": (1, 1, _gaussian),
    "sobel-x": (0, 0, lambda _: _SOBEL.copy()),
    "sobel-y": (0, 0, lambda _: _SOBEL.T.copy()),
    "laplacian": (0, 0, lambda _: np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])),
    "gabor": (1, 3, _gabor),
}
"""The least and the most numbers, and what makes the taps."""
