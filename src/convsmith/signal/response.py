"""The frequency response of kernels: what they pass, stop and turn.

A kernel w[t] is a filter; framework convolutions are correlations, y[o] = sum over t of w[t] x[o +
t], so a wave exp(2 pi i f . o) comes out times

    H(f) = sum over t of w[t] exp(2 pi i f . t)

(Oppenheim & Schafer, Discrete-Time Signal Processing, section 2.6, with the sign of correlation).
Frequencies f are cycles per pixel, from -1/2 to 1/2 on each axis; taps are counted from the middle
of the kernel, (k - 1) / 2, so a symmetric kernel has a real response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError

__all__ = ["folded_share", "frequencies", "response"]

Array = npt.NDArray[Any]

_MOST = 1 << 24  # elements of one response


def frequencies(size: int) -> Array:
    """Returns the frequencies of a response, in cycles per pixel, ascending.

    >>> frequencies(4).tolist()
    [-0.5, -0.25, 0.0, 0.25]
    """
    return np.fft.fftshift(np.fft.fftfreq(size))


def response(kernels: Array, size: int | Sequence[int] = 64, *, axes: int | None = None) -> Array:
    """Returns H(f) of kernels on a grid of frequencies.

    Args:
        kernels: (..., *sizes); the last ``axes`` axes are spatial.
        size: Frequencies per spatial axis, at least the kernel's size: the kernel is padded with
            zeros to it.
        axes: Spatial axes; by default all but the first two of four or more, else all.

    Returns:
        complex128, (..., *size); the frequency grows along each axis, 0 stands at size // 2.

    Raises:
        UsageError: If the grid is smaller than the kernel, or too large to hold.

    >>> abs(response(np.full((3, 3), 1 / 9), 6)[3].round(3)).tolist()
    [0.333, 0.0, 0.667, 1.0, 0.667, 0.0]
    """
    kernels = np.asarray(kernels, np.float64)
    count = (
        axes if axes is not None else max(kernels.ndim - 2, 1) if kernels.ndim > 3 else kernels.ndim
    )
    spatial = tuple(range(kernels.ndim - count, kernels.ndim))
    taps = tuple(kernels.shape[axis] for axis in spatial)
    sizes = (size,) * count if isinstance(size, int) else tuple(size)
    if len(sizes) != count or any(n < k or k < 1 for n, k in zip(sizes, taps, strict=True)):
        raise UsageError(
            f"a response of {'x'.join(map(str, sizes))} frequencies does not hold a kernel "
            f"of {'x'.join(map(str, taps))}",
            remedy="give at least as many frequencies as taps, per axis",
        )
    if math.prod(kernels.shape[: kernels.ndim - count]) * math.prod(sizes) > _MOST:
        raise UsageError(
            f"{math.prod(kernels.shape[: kernels.ndim - count]):,} responses of "
            f"{'x'.join(map(str, sizes))} frequencies are too many to hold",
            remedy="give fewer kernels or frequencies",
        )
    made = np.conj(np.fft.fftn(kernels, s=sizes, axes=spatial))
    made = np.fft.fftshift(made, axes=spatial)
    for axis, n, k in zip(spatial, sizes, taps, strict=True):
        turn = np.exp(-2j * np.pi * frequencies(n) * (k - 1) / 2)
        made = made * turn.reshape([-1 if i == axis else 1 for i in range(made.ndim)])
    return np.asarray(made)


def folded_share(
    kernels: Array, stride: Sequence[int], dilation: Sequence[int] = (), *, size: int = 64
) -> float:
    """Returns the share of the kernels' energy that a stride folds onto other frequencies.

    What lies above the new Nyquist limit, 1 / (2 stride) on any axis (aliasing). White noise has
    1 - 1 / prod(stride).

    Args:
        kernels: (K, C, *sizes).
        stride: Per spatial axis.
        dilation: Per spatial axis; squeezes the response and repeats it.
        size: Frequencies per axis.

    >>> round(folded_share(np.ones((1, 1, 1, 1)), (2, 2)), 6)
    0.75
    """
    axes = tuple(range(2, kernels.ndim))
    apart = tuple(dilation) or (1,) * len(axes)
    sizes = (size,) * len(axes)
    energy = np.zeros(sizes)
    elements = kernels.shape[0] * kernels.shape[1] * math.prod(sizes)
    for part in np.array_split(kernels, min(max(elements >> 21, 1), len(kernels))):
        energy += (np.abs(np.fft.fftn(part, s=sizes, axes=axes)) ** 2).sum((0, 1))
    total = float(energy.sum())
    for axis, (step, spread) in enumerate(zip(stride, apart, strict=True)):
        shape = [-1 if i == axis else 1 for i in range(len(axes))]
        energy = energy * _kept(step, spread, size).reshape(shape)
    return 1 - float(energy.sum()) / total if total else 0.0


def _kept(stride: int, dilation: int, size: int) -> Array:
    """The share of each frequency of a kernel that lies below the new Nyquist limit.

    Bins are half open, so that white noise keeps one part in ``stride``.
    """
    count = size * dilation
    frequency = (np.arange(count) + count // 2) % count - count // 2  # in whole bins
    below = (2 * stride * frequency >= -count) & (2 * stride * frequency < count)
    share: Array = below.reshape(dilation, size).mean(0)
    return share
