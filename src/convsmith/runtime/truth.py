"""What a convolution is, in float64: the judge of every algorithm and peer.

One matrix product per tap over whole images; large depthwise kernels by SciPy's overlap-add FFT in
double precision. Nothing here is shared with the algorithms that are judged.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from convsmith.conv.output import activated
from convsmith.conv.spec import ConvSpec

__all__ = ["error", "true_output"]

_MANY_TAPS: Final = 100


def true_output(
    spec: ConvSpec,
    x: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any] | None,
    residual: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Returns bias, residual and activation included, in the spec's layout.

    Args:
        spec: The problem; its batch does not matter.
        x: Images, in the spec's layout.
        weights: Of ``spec.weight_shape``.
        bias: One number per filter, if the spec has a bias.
        residual: Of the output's shape, if the spec has one.

    >>> spec = ConvSpec(size=(3,), channels=1, filters=1, kernel=(2,), bias=False)
    >>> true_output(spec, np.array([[[1.0, 2.0, 4.0]]]), np.array([[[1.0, 10.0]]]), None)
    array([[[21., 42.]]])
    """
    last = spec.layout == "channels_last"
    images = np.moveaxis(x, -1, 1) if last else x
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), *spec.padding))
    w = weights.astype(np.float64)
    one_each = spec.depthwise and spec.filters == spec.channels
    if one_each and math.prod(spec.kernel) >= _MANY_TAPS:
        y = _by_fourier(spec, padded, w)
    else:
        y = _by_taps(spec, padded, w)
    if bias is not None:
        y += bias.reshape(-1, *[1] * spec.rank)
    if last:
        y = np.moveaxis(y, 1, -1)
    if residual is not None:
        y = y + residual
    return np.ascontiguousarray(activated(spec.activation, y))


def _by_taps(
    spec: ConvSpec, padded: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    groups, batch = spec.groups, len(padded)
    per, made = spec.channels // groups, spec.filters // groups
    pixels = math.prod(spec.output)
    y = np.zeros((batch, groups, made, pixels))
    for tap in np.ndindex(*spec.kernel):
        seen = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec.dilation, spec.output, spec.stride, strict=True)
        )
        window = padded[(slice(None), slice(None), *seen)].reshape(batch, groups, per, pixels)
        factors = w[(slice(None), slice(None), *tap)].reshape(1, groups, made, per)
        y += factors * window if per == 1 else factors @ window
    return y.reshape(batch, spec.filters, *spec.output)


def _by_fourier(
    spec: ConvSpec, padded: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    steps = (slice(None), *(slice(None, None, step) for step in spec.dilation))
    spaced = np.zeros((spec.channels, *spec.reach))
    spaced[steps] = w[:, 0]
    axes = tuple(range(2, spec.rank + 2))
    mirrored = np.flip(spaced[np.newaxis], axes)
    y = np.asarray(oaconvolve(padded, mirrored, mode="valid", axes=axes))
    strided = (slice(None), slice(None), *(slice(None, None, step) for step in spec.stride))
    return np.array(y[strided])


def error(y: NDArray[Any], truth: NDArray[np.float64]) -> float:
    """Returns the largest difference over the largest true value; infinite if y is not finite.

    >>> error(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    0.25
    """
    if y.shape != truth.shape or not np.isfinite(y).all():
        return math.inf
    apart = float(np.abs(y - truth).max(initial=0.0))
    return apart / max(float(np.abs(truth).max(initial=0.0)), 1e-300)
