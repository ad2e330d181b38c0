"""N x N -> N x 1 then 1 x N (or the other order): a convolution as two thin ones.

With ``W`` of shape ``(C_out, C_in, k_h, k_w)`` and rank ``R``, vertical first::

    W'[o, i, h, w] = sum_r H[o, r, w] V[r, i, h]

The first convolution carries all channels through ``k_h x 1`` windows to ``R`` channels, the
second through ``1 x k_w`` windows to ``C_out``. Stride, dilation and padding are split by axis,
so borders are exact: the first convolution has no bias, and a padded column of zeros stays a
column of zeros. The same holds for SAME padding, whose amount is a matter of each axis alone.

Multiplications per output position: ``R k_h C_in s_w + R k_w C_out``.

Sources: Jaderberg, Vedaldi & Zisserman 2014 (the form); Zhang et al. 2015 (the error measured
at the responses). The fit is alternating least squares in the norm of the inputs' covariance
``S``: ``err(W') = tr[(W - W') S (W - W')^T]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv
from convsmith.graph.shape import Shape, infer_shapes

__all__ = [
    "NAME",
    "ORDERS",
    "Factors",
    "Order",
    "Problem",
    "convolutions",
    "dense",
    "fit",
    "full_rank",
    "macs",
    "own_outputs",
    "params",
    "refusal",
    "ridged",
    "start",
    "steps",
]

Array = npt.NDArray[Any]
Order = Literal["vertical-first", "horizontal-first"]

NAME = "spatial"
ORDERS: tuple[Order, ...] = ("vertical-first", "horizontal-first")
RIDGE = 1e-6
"""Added to every Gram matrix, relative to its mean diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a fit needs to know of one layer; always laid out vertical-first.

    Attributes:
        covariance: ``S`` as ``(k_w, C_in k_h, k_w, C_in k_h)``.
        target: ``W S`` (or the covariance of the wanted outputs with the inputs) in blocks
            ``(k_w, C_out, C_in k_h)``.
        weight: The unconstrained optimum, ``(k_w, C_out, C_in k_h)``.
        energy: The variance of the wanted outputs, summed over channels.
        order: Which of the two orders this layout stands for.
    """

    covariance: Array
    target: Array
    weight: Array
    energy: float
    order: Order

    @classmethod
    def of(
        cls, weight: Array, covariance: Array, target: Array, energy: float, order: Order
    ) -> Problem:
        """Lays a layer out.

        Args:
            weight: The unconstrained optimum ``(C_out, C_in, k_h, k_w)``.
            covariance: Of the unfolded inputs, ``(n, n)`` with ``n = C_in k_h k_w``.
            target: ``(C_out, n)``.
            energy: Variance of the wanted outputs.
            order: Which window comes first.
        """
        outs, ins, kh, kw = weight.shape
        cov = covariance.reshape(ins, kh, kw, ins, kh, kw)
        tar = target.reshape(outs, ins, kh, kw)
        if order == "horizontal-first":
            cov, tar = cov.transpose(0, 2, 1, 3, 5, 4), tar.swapaxes(2, 3)
            weight, kh, kw = weight.swapaxes(2, 3), kw, kh
        rows = ins * kh
        return cls(
            covariance=np.ascontiguousarray(
                cov.transpose(2, 0, 1, 5, 3, 4).reshape(kw, rows, kw, rows)
            ),
            target=np.ascontiguousarray(tar.transpose(3, 0, 1, 2).reshape(kw, outs, rows)),
            weight=np.ascontiguousarray(weight.transpose(3, 0, 1, 2).reshape(kw, outs, rows)),
            energy=energy,
            order=order,
        )

    def through(self, first: Array) -> Array:
        """First factors ``(R, C_in k_h)`` times ``S``: ``(k_w, R, k_w, C_in k_h)``."""
        width, rows = self.covariance.shape[:2]
        product = np.matmul(first, self.covariance.reshape(width, rows, width * rows))
        result: Array = product.reshape(width, len(first), width, rows)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A fitted pair: ``first`` is ``(R, C_in k_h)``, ``second`` is ``(k_w, C_out, R)``."""

    first: Array
    second: Array
    order: Order
    error: float
    """Mean squared error of the outputs, in the units of their variance."""


def refusal(op: Conv) -> str:
    """Says why this form does not apply to a convolution; empty when it does.

    >>> thin = Conv(channels=8, kernel=(1, 5), stride=(1, 1), padding=((0, 0),) * 2,
    ...             dilation=(1, 1))
    >>> refusal(thin)
    'its kernel 1x5 is thin already'
    """
    if op.transposed:
        return "it is transposed"
    if len(op.kernel) != 2:
        return f"it is {len(op.kernel)}-D"
    if op.groups != 1:
        return f"it has {op.groups} groups"
    if min(op.kernel) == 1:
        return f"its kernel {op.kernel[0]}x{op.kernel[1]} is thin already"
    if op.rounding != "floor":
        return "it rounds its output size up"
    return ""


def convolutions(op: Conv, rank: int, order: Order) -> tuple[Conv, Conv]:
    """The two operators that stand for ``op``."""
    vertical = replace(
        op,
        kernel=(op.kernel[0], 1),
        stride=(op.stride[0], 1),
        padding=(op.padding[0], (0, 0)),
        dilation=(op.dilation[0], 1),
    )
    horizontal = replace(
        op,
        kernel=(1, op.kernel[1]),
        stride=(1, op.stride[1]),
        padding=((0, 0), op.padding[1]),
        dilation=(1, op.dilation[1]),
    )
    pair = (vertical, horizontal) if order == "vertical-first" else (horizontal, vertical)
    return replace(pair[0], channels=rank, bias=False), replace(pair[1], bias=True)


def macs(op: Conv, rank: int, order: Order, x: Shape) -> int:
    """Multiply-accumulates of the pair for an input of shape ``x``, exactly."""
    total = 0
    for step in convolutions(op, rank, order):
        y = infer_shapes(step, x)[0]
        assert y is not None
        total += math.prod(y) * x[1] * math.prod(step.kernel)
        x = y
    return total


def params(op: Conv, rank: int, order: Order, channels: int) -> int:
    """Weights and biases of the pair for ``channels`` input channels.

    >>> conv = Conv(channels=8, kernel=(3, 3), stride=(1, 1), padding=((0, 0),) * 2,
    ...             dilation=(1, 1))
    >>> params(conv, 2, "vertical-first", 4)
    80
    """
    first, second = convolutions(op, rank, order)
    return rank * (channels * math.prod(first.kernel) + op.channels * math.prod(second.kernel)) + (
        op.channels
    )


def full_rank(op: Conv, order: Order, channels: int) -> int:
    """The rank at which the pair is as good as the layer: ``min(C_in k_h, C_out k_w)``."""
    first, second = convolutions(op, 1, order)
    return min(channels * math.prod(first.kernel), op.channels * math.prod(second.kernel))


def own_outputs(weight: Array, covariance: Array, order: Order) -> Problem:
    """The problem of reproducing a layer's own outputs from its own inputs."""
    covariance = ridged(covariance)
    flat = weight.reshape(len(weight), -1)
    target = flat @ covariance
    return Problem.of(weight, covariance, target, float(np.sum(flat * target)), order)


def ridged(matrix: Array, share: float = RIDGE) -> Array:
    """A Gram matrix with ``share`` of its mean diagonal added, so that it can be inverted."""
    result = matrix.copy()
    result[np.diag_indices_from(result)] += share * np.trace(matrix) / len(matrix) + 1e-30
    return result


def dense(factors: Factors, kernel: tuple[int, ...]) -> Array:
    """The single kernel ``(C_out, C_in, k_h, k_w)`` that a pair amounts to."""
    height = kernel[0] if factors.order == "vertical-first" else kernel[1]
    first = factors.first.reshape(len(factors.first), -1, height)
    weight: Array = np.einsum("wor,rih->oihw", factors.second, first, optimize=True)
    return weight if factors.order == "vertical-first" else weight.swapaxes(2, 3)


def steps(op: Conv, factors: Factors, bias: Array, dtype: npt.DTypeLike) -> tuple[ConvStep, ...]:
    """The pair as two convolutions with weights; numbers that would be denormal become zero."""
    rank = len(factors.first)
    first_op, second_op = convolutions(op, rank, factors.order)
    first = factors.first.reshape(rank, -1, *first_op.kernel)
    second = factors.second.transpose(1, 2, 0).reshape(op.channels, rank, *second_op.kernel)
    return (
        ConvStep(op=first_op, weight=_flushed(first, dtype)),
        ConvStep(op=second_op, weight=_flushed(second, dtype), bias=_flushed(bias, dtype)),
    )


def _flushed(values: Array, dtype: npt.DTypeLike) -> Array:
    kind = np.dtype(dtype)
    smallest = np.finfo(kind).tiny if np.issubdtype(kind, np.floating) else 0
    return np.ascontiguousarray(np.where(np.abs(values) < smallest, 0, values).astype(kind))


def _root(matrix: Array) -> tuple[Array, Array]:
    """The symmetric square root of a covariance and its inverse, regularized."""
    values, vectors = linalg.eigh(matrix)
    values = np.maximum(values, max(values[-1], 1e-30) * 1e-10)
    roots = np.sqrt(values)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def start(problem: Problem) -> Array:
    """First factors for every rank at once: rows of the result, best first.

    The weights are flattened to ``(C_in k_h) x (k_w C_out)`` and whitened by the part of the
    covariance that splits into a product over the two sides; then one SVD serves all ranks.
    """
    width, outs, rows = problem.weight.shape
    left = np.einsum("aiaj->ij", problem.covariance) / width
    right = np.einsum("aibi->ab", problem.covariance) / rows
    root, inverse = _root(left)
    side, _ = _root(right)
    flat = np.einsum("ab,boi->iao", side, problem.weight).reshape(rows, width * outs)
    vectors = linalg.svd(root @ flat, full_matrices=False)[0]
    return np.ascontiguousarray((inverse @ vectors).T)


def _solve_second(problem: Problem, first: Array) -> tuple[Array, float]:
    """The best second factor for a first one, by its normal equations; and the error."""
    width, outs, _ = problem.target.shape
    rank = len(first)
    # gram[(a r), (b s)] = first[r] . S[a, b] . first[s]
    gram = np.tensordot(problem.through(first), first, axes=(3, 1)).reshape(width * rank, -1)
    gram = ridged((gram + gram.T) / 2, 1e-9)
    side = np.matmul(problem.target, first.T)  # a o r
    side = side.transpose(0, 2, 1).reshape(width * rank, outs)
    solution = linalg.solve(gram, side, assume_a="pos", check_finite=False)
    error = problem.energy - float(np.sum(solution * side))
    second = solution.reshape(width, rank, outs).transpose(0, 2, 1)
    return np.ascontiguousarray(second), max(error, 0.0)


def _inverse(matrix: Array, ridge: float) -> Array:
    """The inverse of a Gram matrix, good enough to precondition with."""
    factor = linalg.cho_factor(ridged(matrix, ridge))
    result: Array = linalg.cho_solve(factor, np.eye(len(matrix)))
    return result


def _solve_first(
    problem: Problem, first: Array, second: Array, inverse: Array, iterations: int
) -> Array:
    """Improves the first factor for a second one, by preconditioned conjugate gradients.

    Solves ``sum_ab H_a^T H_b V S_ba = sum_a H_a^T T_a`` for ``V``. The preconditioner is a product
    over the two sides: the inverses of ``sum_a H_a^T H_a`` and of the mean of ``S_aa``, which is
    ``inverse``.
    """
    mixing = np.einsum("aor,bos->abrs", second, second, optimize=True)

    def apply(value: Array) -> Array:
        result: Array = np.tensordot(mixing, problem.through(value), axes=((1, 3, 0), (0, 1, 2)))
        return result

    side = np.einsum("aor,aoi->ri", second, problem.target, optimize=True)
    left = _inverse(np.einsum("aars->rs", mixing), RIDGE)

    def precondition(value: Array) -> Array:
        result: Array = left @ value @ inverse
        return result

    residual = side - apply(first)
    ready = precondition(residual)
    direction, old = ready, float(np.sum(residual * ready))
    goal = 1e-8 * old
    for _ in range(iterations):
        if old <= goal or old <= 0:
            break
        image = apply(direction)
        curvature = float(np.sum(direction * image))
        if curvature <= 0:
            break
        first = first + (old / curvature) * direction
        residual = residual - (old / curvature) * image
        ready = precondition(residual)
        new = float(np.sum(residual * ready))
        direction, old = ready + (new / old) * direction, new
    return first


def _orthonormal(first: Array) -> Array:
    """The same row space: only the product of the factors matters, this scales both well."""
    return np.ascontiguousarray(linalg.qr(first.T, mode="economic")[0].T)


def fit(problem: Problem, first: Array, *, rounds: int, iterations: int = 6) -> Factors:
    """Fits both factors by alternating least squares.

    Args:
        problem: The layer.
        first: Where to start, ``(R, C_in k_h)``; see :func:`start`.
        rounds: How many times both factors are solved for.
        iterations: Conjugate-gradient steps for the first factor.
    """
    first = _orthonormal(first)
    second, error = _solve_second(problem, first)
    width = len(problem.target)
    inverse = _inverse(np.einsum("aiaj->ij", problem.covariance) / width, 1e-4)
    for _ in range(rounds):
        tried = _orthonormal(_solve_first(problem, first, second, inverse, iterations))
        better, lower = _solve_second(problem, tried)
        if lower >= error:
            break
        gain = error - lower
        first, second, error = tried, better, lower
        if gain < 1e-4 * error:
            break
    return Factors(first=first, second=second, order=problem.order, error=error)
