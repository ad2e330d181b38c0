"""What kind of filter a kernel is: scores with stated definitions, and a name.

All scores are ratios of the power P(f) = |H(f)|^2 on a grid of frequencies, the same for a kernel
and for any multiple of it.

* ``gain_zero``: |H(0)| over the largest |H|: how much of a constant passes.
* ``gain_edge``: the largest |H| where some |f| is 1/2, the Nyquist limit, over the largest |H|.
* ``peak``: the radius, in cycles per pixel, of the frequency that passes most.
* ``centre``: the mean radius, weighted with power.
* ``low``, ``middle``, ``high``: the shares of power per unit of area with radius below 1/6, from
  there to 1/3, and above (one axis: the same intervals): how strongly each ring passes on average,
  adding up to 1.
* ``direction``: degrees from the horizontal axis, 0 to 180, along which the image varies most in
  what passes; the
  angle of the largest axis of the power's second moments (structure tensor; Bigun & Granlund 1987).
* ``coherence``: (a - b) / (a + b) for the moments' two axes a >= b: 1 for waves of one direction,
  0 for none.
* ``separability``: the share of a kernel's energy in its best product of a column and a row: the
  largest squared
  singular value over their sum (rank-1 share).

The name: ``zero`` if nothing passes; ``low-pass`` if a constant passes best (``gain_zero`` at
least 0.9) and the edge at most half (``gain_edge`` up to 0.5); ``all-pass`` if every frequency
passes at least half as well as the best; ``high-pass`` if a constant hardly passes (``gain_zero``
up to 0.1) and the edge does (``gain_edge`` at least 0.7); ``band-pass`` if neither does; else
``mixed``. It is ``oriented`` if ``coherence`` is at least 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError
from convsmith.signal.response import frequencies, response

__all__ = ["Character", "Kind", "character", "orientation", "separability"]

Array = npt.NDArray[Any]
Kind = Literal["zero", "low-pass", "high-pass", "band-pass", "all-pass", "mixed"]

PASSES = 0.9
STOPS = 0.1
EDGE_STOPS = 0.5
EDGE_PASSES = 0.7
ORIENTED = 0.5
RINGS = (1 / 6, 1 / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """The scores of one kernel; their definitions stand in the module's docstring."""

    kind: Kind
    oriented: bool
    gain_zero: float
    gain_edge: float
    peak: float
    centre: float
    low: float
    middle: float
    high: float
    direction: float | None
    coherence: float
    separability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON-ready data."""
        return asdict(self)

    @property
    def label(self) -> str:
        """The kind in words, with the direction if it has one."""
        if self.oriented and self.direction is not None:
            return f"{self.kind} {self.direction:.0f}°"
        return self.kind


def character(kernel: Array, *, size: int = 64) -> Character:
    """Returns what kind of filter a kernel is.

    Args:
        kernel: One or two axes.
        size: Frequencies per axis; raised to the kernel's size.

    Raises:
        UsageError: If it has another number of axes, no taps, or numbers that are not finite.

    >>> character(np.full((3, 3), 1 / 9)).kind
    'low-pass'
    >>> sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    >>> character(sobel).label
    'band-pass 0°'
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim not in (1, 2) or not kernel.size:
        raise UsageError(
            f"a kernel of shape {kernel.shape} is no filter of one or two axes",
            remedy="give one kernel, of one input channel and one filter",
        )
    if not np.isfinite(kernel).all():
        raise UsageError(
            "the kernel has numbers that are not finite", remedy="look at how it was trained"
        )
    largest = float(np.abs(kernel).max())
    if largest == 0:
        return Character(
            kind="zero", oriented=False, gain_zero=0, gain_edge=0, peak=0, centre=0, low=0,
            middle=0, high=0, direction=None, coherence=0, separability=0,
        )  # fmt: skip
    scaled = kernel / largest  # squares of very small numbers would vanish
    sizes = tuple(max(size, k) + max(size, k) % 2 for k in kernel.shape)  # even: has the edge
    gain = np.abs(response(scaled, sizes, axes=kernel.ndim))
    grids = np.meshgrid(*(frequencies(n) for n in sizes), indexing="ij")
    radius = np.sqrt(sum(grid**2 for grid in grids))
    power = gain**2
    best = float(gain.max())
    edge = np.any([grid == -0.5 for grid in grids], axis=0)
    inner, outer = (radius < RINGS[0]), (radius >= RINGS[1])
    rings = np.array(
        [power[inner].mean(), power[~inner & ~outer].mean(), power[outer].mean()], np.float64
    )
    rings /= rings.sum()
    direction, coherence = orientation(power, grids)
    zero, at_edge = float(gain[radius == 0][0]) / best, float(gain[edge].max()) / best
    return Character(
        kind=_kind(zero, at_edge, float(gain.min()) / best),
        oriented=coherence >= ORIENTED,
        gain_zero=zero,
        gain_edge=at_edge,
        peak=float(radius.flat[int(gain.argmax())]),
        centre=float((radius * power).sum() / power.sum()),
        low=float(rings[0]),
        middle=float(rings[1]),
        high=float(rings[2]),
        direction=direction,
        coherence=coherence,
        separability=separability(scaled),
    )


def _kind(zero: float, edge: float, least: float) -> Kind:
    if least >= 0.5:
        return "all-pass"
    if zero >= PASSES and edge <= EDGE_STOPS:
        return "low-pass"
    if zero <= STOPS:
        return "high-pass" if edge >= EDGE_PASSES else "band-pass"
    return "mixed"


def orientation(power: Array, grids: Sequence[Array]) -> tuple[float | None, float]:
    """Returns along which direction power lies, and how clearly: see ``direction``, ``coherence``.

    Args:
        power: |H(f)|^2 or a power spectrum, one value a frequency.
        grids: Its frequencies, one array of the same shape per axis.

    >>> grids = np.meshgrid(frequencies(8), frequencies(8), indexing="ij")
    >>> orientation((grids[0] == 0) * 1.0, grids)
    (0.0, 1.0)
    """
    if len(grids) == 1:
        return None, 0.0
    # On the edge f = -1/2 and f = 1/2 are one wave: it has no sign, so no mixed moment.
    down, across = grids
    inside = (down > -0.5) & (across > -0.5)
    total = float(power.sum())
    yy = float((power * down**2).sum()) / total
    xx = float((power * across**2).sum()) / total
    xy = float((power * down * across)[inside].sum()) / total
    if xx + yy == 0:
        return None, 0.0
    apart = math.hypot(xx - yy, 2 * xy)
    coherence = apart / (xx + yy)
    if coherence < 1e-9:
        return None, 0.0
    # The vertical axis of an image points down; angles are counted as in mathematics.
    return round(math.degrees(math.atan2(-2 * xy, xx - yy)) / 2, 9) % 180, coherence


def separability(kernel: Array) -> float:
    """Returns the share of a kernel's energy in its best product of a column and a row.

    1 for one axis, for Gaussians and Sobel kernels; at least 1 / min(sizes).

    >>> round(separability(np.outer([1, 2, 1], [1, 0, -1])), 12)
    1.0
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim < 2:
        return float(np.any(kernel))
    largest = float(np.abs(kernel).max(initial=0))
    if largest == 0:
        return 0.0
    values = np.linalg.svd(kernel / largest, compute_uv=False) ** 2
    return float(values[0] / values.sum())
