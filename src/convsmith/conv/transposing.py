"""Transposed convolutions of arrays, in one call: ``conv_transpose1d``, ``2d``, ``3d``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.calling import Padding, arrays_of, pairs_per_axis, per_axis
from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.conv.spec import Activation, Layout
from convsmith.conv.transposed import TransposedSpec, plan_transposed, reference
from convsmith.errors import ShapeError, UsageError

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

_A = TypeVar("_A")


def conv_transpose1d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    output_padding: int | Sequence[int] = 0, dilation: int | Sequence[int] = 1, groups: int = 1,
    activation: Activation = "none", layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False,
) -> _A:  # fmt: skip
    """Convolves (N, C, L) transposed with (C, K / groups, k); see :func:`conv_transpose2d`.

    >>> import numpy as np
    >>> conv_transpose1d(np.ones((1, 1, 2), "f4"), np.ones((1, 1, 3), "f4"), stride=2)
    array([[[1., 1., 2., 1., 1.]]], dtype=float32)
    """
    made: _A = _convolve(
        1, x, w, b, stride, padding, output_padding, dilation, groups, activation, layout,
        algorithm, tolerance, tune,
    )  # fmt: skip
    return made


def conv_transpose2d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    output_padding: int | Sequence[int] = 0, dilation: int | Sequence[int] = 1, groups: int = 1,
    activation: Activation = "none", layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False,
) -> _A:  # fmt: skip
    """Convolves images transposed: every input adds a kernel to the output, ``stride`` apart.

    No zero is multiplied: the outputs of each remainder modulo the stride are one plain
    convolution, computed by the best algorithm for its shape.

    Args:
        x: (N, C, H, W), or (N, H, W, C) with ``layout="channels_last"``. NumPy, or a torch tensor
            on the CPU; a torch tensor is always written (N, C, H, W) and its strides tell the
            layout.
        w: Filters, (C, K / groups, h, w) in both layouts.
        b: One number per filter.
        stride: One number, or one per axis.
        padding: What is cut off around: one number, one per axis, or pairs (before, after).
        output_padding: Outputs added behind every axis.
        dilation: One number, or one per axis.
        groups: Channels and filters are multiples of it.
        activation: ``none``, ``relu``, ``relu6``, ``silu`` or ``hardswish``, applied last.
        layout: ``channels_first`` or ``channels_last``, for NumPy arrays.
        algorithm: ``auto``, ``exact`` (no transforms), or a name.
        tolerance: The largest error that ``auto`` accepts; see :func:`convsmith.conv.plan`.
        tune: Whether to measure the candidates for this shape, once per machine.

    Returns:
        (N, K, H', W'), or (N, H', W', K), of the kind and type of x, H' = (H - 1) * stride -
        before - after + dilation * (h - 1) + 1 + output_padding. float32 runs compiled; other types
        through the reference, in their own precision.

    Raises:
        ShapeError: If shapes do not fit.
        UsageError: If an argument makes no sense.

    >>> import numpy as np
    >>> image = np.arange(4, dtype="f4").reshape(1, 1, 2, 2)
    >>> conv_transpose2d(image, np.ones((1, 1, 2, 2), "f4"))
    array([[[[0., 1., 1.],
             [2., 6., 4.],
             [2., 5., 3.]]]], dtype=float32)
    """
    made: _A = _convolve(
        2, x, w, b, stride, padding, output_padding, dilation, groups, activation, layout,
        algorithm, tolerance, tune,
    )  # fmt: skip
    return made


def conv_transpose3d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    output_padding: int | Sequence[int] = 0, dilation: int | Sequence[int] = 1, groups: int = 1,
    activation: Activation = "none", layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False,
) -> _A:  # fmt: skip
    """Convolves (N, C, D, H, W) transposed; see :func:`conv_transpose2d`.

    >>> import numpy as np
    >>> conv_transpose3d(np.ones((1, 1, 1, 1, 2), "f4"), np.ones((1, 1, 1, 1, 2), "f4"))
    array([[[[[1., 2., 1.]]]]], dtype=float32)
    """
    made: _A = _convolve(
        3, x, w, b, stride, padding, output_padding, dilation, groups, activation, layout,
        algorithm, tolerance, tune,
    )  # fmt: skip
    return made


def _convolve(
    rank: int, x: Any, w: Any, b: Any, stride: int | Sequence[int], padding: Padding,
    output_padding: int | Sequence[int], dilation: int | Sequence[int], groups: int,
    activation: Activation, layout: Layout | None, algorithm: str, tolerance: float, tune: bool,
) -> Any:  # fmt: skip
    given = arrays_of(rank, layout, x, w, b)
    (images,), weights, bias = given.images, given.weights, given.bias
    spec = _spec(
        rank, images, weights, stride, padding, output_padding, dilation, groups, activation,
        given.layout, bias=bias is not None,
    )  # fmt: skip
    into, result = given.result(spec.output_shape)
    if images.dtype == weights.dtype == np.float32:
        made = plan_transposed(spec, algorithm=algorithm, tolerance=tolerance, tune=tune)
        made.prepare(weights, bias)(np.ascontiguousarray(images), into)
        return result
    if images.dtype.kind not in "fiu" or weights.dtype != images.dtype:
        raise UsageError(
            f"x is {images.dtype} and w {weights.dtype}",
            remedy="pass both as the same type of real numbers",
        )
    if images.dtype.kind != "f" and activation not in ("none", "relu", "relu6"):
        raise UsageError(
            f"{activation} of integers has fractions", remedy="convert x and w to a float type"
        )
    into[...] = reference(spec, images, weights, bias)
    return result


def _spec(
    rank: int, x: NDArray[Any], w: NDArray[Any], stride: int | Sequence[int], padding: Padding,
    output_padding: int | Sequence[int], dilation: int | Sequence[int], groups: int,
    activation: Activation, layout: Layout, *, bias: bool,
) -> TransposedSpec:  # fmt: skip
    for name, value in (("x", x), ("w", w)):
        if value.ndim != rank + 2:
            raise ShapeError(
                f"{name} has shape {value.shape}, not {rank + 2} axes",
                remedy=f"conv_transpose{rank}d takes a batch of images and filters, "
                f"{rank + 2} axes each",
            )
    last = layout == "channels_last"
    channels = x.shape[-1 if last else 1]
    if w.shape[0] != channels:
        raise ShapeError(
            f"w has {w.shape[0]} channels, x {channels}",
            remedy="w is (channels, filters / groups, *kernel)",
        )
    if isinstance(padding, str):
        raise UsageError(
            f"there is no padding {padding!r} of a transposed convolution",
            remedy="give what to cut off in numbers",
        )
    strides = per_axis("stride", stride, rank)
    dilations = per_axis("dilation", dilation, rank)
    return TransposedSpec(
        batch=x.shape[0],
        size=x.shape[1:-1] if last else x.shape[2:],
        channels=channels,
        filters=w.shape[1] * groups,
        kernel=w.shape[2:],
        stride=strides,
        dilation=dilations,
        padding=pairs_per_axis(padding, w.shape[2:], strides, dilations),
        output_padding=per_axis("output_padding", output_padding, rank),
        groups=groups,
        layout=layout,
        bias=bias,
        activation=activation,
    )
