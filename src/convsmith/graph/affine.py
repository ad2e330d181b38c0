"""One factor and one summand per channel: what batch normalization is at inference.

The arithmetic that folds such a map into the layer before or behind it, in float64, for every
layout of weights. Rounding to the type of the layer is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError
from convsmith.graph.operators import Conv, Linear, Norm, roles

__all__ = ["Affine", "affine_of", "checked_affine", "fold_before", "fold_behind"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """``y = scale * x + shift`` per channel.

    Attributes:
        scale: (C,), float64.
        shift: (C,), float64.
    """

    scale: Array
    shift: Array

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, to the bit."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())


def affine_of(op: Norm, parameters: Sequence[Array]) -> Affine:
    """Returns a batch normalization with stored statistics as a factor and a summand.

    ``scale = weight / sqrt(variance + epsilon)``, ``shift = bias - mean * scale`` (Ioffe &
    Szegedy, 2015, arXiv:1502.03167, algorithm 2). Statistics that make no sense give what they
    give: see :func:`checked_affine`.

    Args:
        op: The normalization, of kind ``batch``.
        parameters: Its tensors, each (C,), in the order of ``roles(op)``.

    >>> norm = Norm(kind="batch", epsilon=0.0, affine=False)
    >>> found = affine_of(norm, [np.ones(1), np.full(1, 4.0)])
    >>> found.scale, found.shift
    (array([0.5]), array([-0.5]))
    """
    given = _by_role(op, parameters)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(given["variance"] + op.epsilon)
        if op.affine:
            scale = scale * given["weight"]
        shift = -given["mean"] * scale
    return Affine(scale=scale, shift=shift + given["bias"] if op.affine else shift)


def checked_affine(op: Norm, parameters: Sequence[Array]) -> Affine:
    """Returns :func:`affine_of` of statistics that make sense.

    Raises:
        DataError: If a number is not finite, a variance negative, or a division one by zero.
    """
    given = _by_role(op, parameters)
    for role, values in given.items():
        wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
        if wrong:
            raise DataError(
                f"{wrong} of the {values.size} elements of its {role} are not finite",
                remedy="load the weights again, or train on without the batches that broke them",
            )
    variance = given["variance"]
    if (variance < 0).any():
        raise DataError(
            f"{int((variance < 0).sum())} of its {variance.size} variances are negative, down to"
            f" {variance.min():.3g}",
            remedy="check the order in which mean, variance, scale and shift are loaded",
        )
    if (variance + op.epsilon <= 0).any():
        raise DataError(
            "a variance and epsilon are both 0: it divides by zero",
            remedy="give it an epsilon, such as 1e-5",
        )
    return affine_of(op, parameters)


def _by_role(op: Norm, parameters: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(roles(op), (np.asarray(p, np.float64) for p in parameters), strict=True))


def fold_behind(
    op: Conv | Linear, weight: Array, bias: Array | None, affine: Affine
) -> tuple[Array, Array]:
    """Returns weight and bias of the layer that is ``op`` with an affine map behind it.

    Exact for every kernel, stride, padding and group, transposed or not.

    Args:
        op: The layer.
        weight: Its weight, in the layout of the operator.
        bias: Its bias (C_out,), or ``None``.
        affine: One factor and one summand per output channel.

    Returns:
        Both in float64; the bias (C_out,).

    >>> twice = Affine(scale=np.full(1, 2.0), shift=np.ones(1))
    >>> fold_behind(Linear(features=1), np.ones((1, 1)), np.ones(1), twice)
    (array([[2.]]), array([3.]))
    """
    wide = np.asarray(weight, np.float64)
    if isinstance(op, Conv) and op.transposed:
        grouped = wide.reshape(op.groups, -1, *wide.shape[1:])
        factors = affine.scale.reshape(op.groups, 1, -1, *(1,) * len(op.kernel))
        made = (grouped * factors).reshape(wide.shape)
    else:
        made = wide * affine.scale.reshape(-1, *(1,) * (wide.ndim - 1))
    shift = affine.shift
    if bias is not None:
        shift = shift + np.asarray(bias, np.float64) * affine.scale
    return made, shift


def fold_before(
    op: Conv | Linear, weight: Array, bias: Array | None, affine: Affine
) -> tuple[Array, Array]:
    """Returns weight and bias of the layer that is ``op`` with an affine map in front of it.

    Exact where every output sums up the whole kernel: without padding, and transposed with a
    kernel of one element and stride 1. A map whose shift is 0 folds into every layer.

    Args:
        op: The layer.
        weight: Its weight, in the layout of the operator.
        bias: Its bias (C_out,), or ``None``.
        affine: One factor and one summand per input channel.

    Returns:
        Both in float64; the bias (C_out,).

    >>> twice = Affine(scale=np.full(1, 2.0), shift=np.ones(1))
    >>> fold_before(Linear(features=1), np.full((1, 1), 3.0), np.ones(1), twice)
    (array([[6.]]), array([4.]))
    """
    wide = np.asarray(weight, np.float64)
    taps = (1,) * (wide.ndim - 2)
    if isinstance(op, Conv) and op.transposed:
        made = wide * affine.scale.reshape(-1, 1, *taps)
        shifted = wide * affine.shift.reshape(-1, 1, *taps)
        per_group = shifted.reshape(op.groups, -1, wide.shape[1], *wide.shape[2:])
        added = per_group.sum(axis=(1, *range(3, per_group.ndim))).reshape(-1)
    else:
        groups = op.groups if isinstance(op, Conv) else 1
        grouped = wide.reshape(groups, -1, *wide.shape[1:])
        row = (groups, 1, -1, *taps)
        made = (grouped * affine.scale.reshape(row)).reshape(wide.shape)
        shifted = grouped * affine.shift.reshape(row)
        added = shifted.sum(axis=tuple(range(2, shifted.ndim))).reshape(-1)
    return made, added if bias is None else added + np.asarray(bias, np.float64)
