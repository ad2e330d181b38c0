"""The effective receptive field: how much of the field really counts.

Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field in deep convolutional
networks" (2016): the gradient of one output with respect to the input says how much every pixel
contributes, and most of it comes from a small, Gaussian-like middle of the field. Here are the
statistics of such a map; ``convsmith.sources.torch.gradients`` measures one with PyTorch, and
:func:`convsmith.analysis.field.gaussian.gaussians` says what theory expects without any weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError

__all__ = ["CentredSquare", "EffectiveField", "effective_field"]

Array = npt.NDArray[np.floating]

SHARES = (0.2, 0.3, 0.5, 0.99)
"""The shares of all contributions for which RepLKNet states its squares (its table 7)."""

_TWO_SIGMA = 1 - 0.9545


@dataclass(frozen=True, slots=True, kw_only=True)
class CentredSquare:
    """The smallest centred square that holds a share of all contributions.

    Attributes:
        share: Of all contributions.
        side: Pixels along each axis; odd, and no longer than the image.
        ratio: The part of the image that the square takes.
    """

    share: float
    side: int
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveField:
    """What a map of contributions says.

    Attributes:
        centre: Per image axis: the mean position of the contributions.
        sigma: Per image axis: their standard deviation, in pixels.
        two_sigma: The side of a square of as many pixels as contribute more than 4.55 % of the
            strongest one (Luo et al., section 3): two standard deviations of a Gaussian.
        squares: The smallest centred squares (Ding et al., 2022, section 4.1), of the contributions
            themselves.
        logarithmic_squares: The same of ``log10(contribution + 1)``, as RepLKNet's table has it.
    """

    centre: tuple[float, ...]
    sigma: tuple[float, ...]
    two_sigma: float
    squares: tuple[CentredSquare, ...]
    logarithmic_squares: tuple[CentredSquare, ...]


def effective_field(contributions: Array, shares: Sequence[float] = SHARES) -> EffectiveField:
    """Returns the statistics of a map of contributions.

    Ding, Zhang, Han & Ding, "Scaling up your kernels to 31x31" (2022), section 4.1, take squares
    of the logarithm of the map; both are here, because the logarithm makes a field look wider.

    Args:
        contributions: ``(*image)``, not negative; the unit that they belong to lies in the middle
            (at ``size // 2``).
        shares: Of all contributions, each above 0 and below 1.

    Raises:
        DataError: If the map is empty, negative, not finite, or zero everywhere.

    >>> y, x = np.mgrid[-32:33, -32:33]
    >>> found = effective_field(np.exp(-(x**2 + y**2) / (2 * 4.0**2)), shares=(0.5,))
    >>> [round(sigma, 6) for sigma in found.sigma], found.squares[0].side
    ([4.0, 4.0], 9)
    """
    scores = np.asarray(contributions, np.float64)
    if scores.ndim == 0 or scores.size == 0:
        raise DataError("a map of contributions needs at least one pixel")
    if not np.isfinite(scores).all() or scores.min() < 0:
        raise DataError(
            "contributions must be finite and not negative",
            remedy="take the absolute value of the gradients, or their positive part",
        )
    total = scores.sum()
    if total == 0:
        raise DataError(
            "no pixel contributes anything",
            remedy="choose a unit whose activation is not zero, or more images",
        )
    if not all(0 < share < 1 for share in shares):
        raise DataError(f"shares must lie between 0 and 1, not {tuple(shares)}")
    centre, sigma = [], []
    for axis in range(scores.ndim):
        line = (
            scores.sum(axis=tuple(other for other in range(scores.ndim) if other != axis)) / total
        )
        places = np.arange(len(line))
        mean = float(line @ places)
        centre.append(mean)
        sigma.append(math.sqrt(float(line @ (places - mean) ** 2)))
    strong = int((scores > _TWO_SIGMA * scores.max()).sum())
    logarithm = np.log10(scores + 1)
    return EffectiveField(
        centre=tuple(centre),
        sigma=tuple(sigma),
        two_sigma=strong ** (1 / scores.ndim),
        squares=_squares(scores, shares),
        logarithmic_squares=_squares(logarithm, shares),
    )


def _squares(scores: npt.NDArray[np.float64], shares: Sequence[float]) -> tuple[CentredSquare, ...]:
    """The smallest centred squares, from how much lies within each distance of the middle."""
    distance = np.zeros(scores.shape, np.int64)
    for axis, size in enumerate(scores.shape):
        along = np.abs(np.arange(size) - size // 2)
        shape = [1] * scores.ndim
        shape[axis] = size
        distance = np.maximum(distance, along.reshape(shape))
    within = np.bincount(distance.ravel(), weights=scores.ravel()).cumsum()
    found = []
    for share in shares:
        radius = int(np.searchsorted(within, share * within[-1]))
        radius = min(radius, len(within) - 1)
        covered = int((distance <= radius).sum())
        side = min(2 * radius + 1, max(scores.shape))
        found.append(CentredSquare(share=share, side=side, ratio=covered / scores.size))
    return tuple(found)
