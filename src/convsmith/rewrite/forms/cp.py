"""k x k to 1 x 1, k x 1 and 1 x k depthwise, 1 x 1: a sum of rank-one terms.

::

    W'[o, i, h, w] = sum_r U[o, r] Y[r, h] X[r, w] V[r, i]

Canonical polyadic decomposition (Lebedev et al. 2015). Plain alternation tends to terms that
grow without bound and cancel; here every solution is followed by error-preserving correction
(Phan et al. 2020): among weights that lose no more, those with the smallest terms. The chain is
sensitive to training and to low precision, so the form is never chosen by itself.

Multiplications per output position: ``R (C_in + k + k + C_out)`` (the first per input).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.rewrite.fitting import Problem, alternate
from convsmith.rewrite.forms.form import Fitter, Form, Widths, aligned, spread_groups
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["CP"]

Array = npt.NDArray[Any]


class CP(Form):
    """Rank-one terms."""

    name = "cp"
    text = "conv O KxK -> conv R 1 > conv R Kx1 gR > conv R 1xK gR > conv O 1"
    automatic = False

    def refusal(self, site: Site) -> str:
        """Says why not: it needs a window and channels."""
        if site.obstacle:
            return site.obstacle
        if site.width == site.ins:
            return "it has no window"
        if min(site.ins, site.outs) < 2:
            return "each of its groups has a single channel"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """There is one way."""
        return ("rank-one",)

    def full(self, site: Site, variant: str) -> Widths:
        """A rank at which every tensor of this shape can be written so."""
        sizes = sorted((site.ins, site.outs, *site.kernel))
        return (int(np.prod(sizes[:-1])),)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Aligned widths up to break-even."""
        one = cost(self.layout(site, variant, (1,)), site.x)[0]
        return aligned(min((site.cost[0] - 1) // one, *self.full(site, variant)), about=6)

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Mixing, one thin depthwise layer per axis, mixing."""
        (rank,) = widths
        axes = [axis for axis, size in enumerate(site.kernel) if size > 1]
        strided = [axis for axis in range(len(site.kernel)) if axis not in axes]
        windows = [[axis] for axis in axes]
        windows[-1] += strided  # axes without a window may still have a stride
        return (
            site.part(rank),
            *(site.part(rank, window, groups=rank) for window in windows),
            site.part(site.outs, last=True),
        )

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Nothing is shared between ranks."""
        return _Fitter(problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From singular vectors, by alternation with correction."""
        problem, (rank,) = self.problem, widths
        axes = [axis for axis, size in enumerate(problem.kernel) if size > 1]
        if first is None:
            factors = _corrected(problem, _start(problem, rank, axes), rounds=8 * max(rounds, 1))
            kernels = _kernels(factors, axes, problem.kernel)
        else:
            kernels = first
        dense = [kernels[0], *(spread_groups(k, rank) for k in kernels[1:-1]), kernels[-1]]
        masks = [None, *(spread_groups(np.ones_like(k), rank) for k in kernels[1:-1]), None]
        made = alternate(problem, dense, masks=masks, rounds=max(rounds, 1))
        inner = [np.einsum("rr...->r...", kernel)[:, None] for kernel in made[1:-1]]
        return (made[0], *inner, made[-1])


def _kernels(factors: Sequence[Array], axes: Sequence[int], kernel: tuple[int, ...]) -> Kernels:
    """Factors ``(size, R)`` of outputs, inputs and window axes as kernels."""
    outs, ins, *windows = factors
    ones = (1,) * len(kernel)
    inner = []
    for axis, factor in zip(axes, windows, strict=True):
        shape = tuple(kernel[axis] if a == axis else 1 for a in range(len(kernel)))
        inner.append(factor.T.reshape(-1, 1, *shape))
    return (ins.T.reshape(*ins.T.shape, *ones), *inner, outs.reshape(*outs.shape, *ones))


def _tensor(problem: Problem, axes: Sequence[int]) -> Array:
    return problem.weight.reshape(
        problem.outs, problem.ins, *(problem.kernel[axis] for axis in axes)
    )


def _start(problem: Problem, rank: int, axes: Sequence[int]) -> list[Array]:
    """Leading singular vectors of every unfolding, random where there are too few."""
    tensor = _tensor(problem, axes)
    random = np.random.default_rng(0)
    factors = []
    for axis, size in enumerate(tensor.shape):
        flat = np.moveaxis(tensor, axis, 0).reshape(size, -1)
        vectors = linalg.eigh(flat @ flat.T)[1][:, ::-1][:, :rank]
        more = random.normal(size=(size, rank - vectors.shape[1])) / np.sqrt(size)
        factors.append(np.concatenate([vectors, more], axis=1))
    return factors


def _others(factors: Sequence[Array], axis: int) -> Array:
    """The Khatri-Rao product of all factors but one, ``(prod of sizes, R)``."""
    made = np.ones((1, factors[0].shape[1]))
    for index, factor in enumerate(factors):
        if index != axis:
            made = (made[:, None] * factor[None]).reshape(-1, factor.shape[1])
    return made


def _corrected(problem: Problem, factors: list[Array], rounds: int) -> list[Array]:
    """Alternating least squares on the weights that keeps the terms small.

    Every solve minimizes ``|W - W'|^2 + l sum_r |term_r|^2``; ``l`` shrinks as long as that gains,
    which follows the curve of smallest terms for the error reached (the constraint form of the
    correction, with its multiplier).
    """
    axes = [axis for axis, size in enumerate(problem.kernel) if size > 1]
    tensor = _tensor(problem, axes)
    size = float(np.square(tensor).sum())
    if size <= 0:
        return [factor * 0 for factor in factors]
    pull = 1e-1
    for _ in range(rounds):
        for axis in range(tensor.ndim):
            flat = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
            others = _others(factors, axis)
            gram = others.T @ others
            # |term_r|^2 = |f_r|^2 prod of the other factors' |.|^2 = |f_r|^2 gram_rr
            ridge = np.diag(pull * gram.diagonal() + 1e-12 * gram.trace() / len(gram) + 1e-300)
            side = flat @ others
            factors[axis] = linalg.solve(gram + ridge, side.T, assume_a="pos").T
        norms = [np.linalg.norm(factor, axis=0) + 1e-300 for factor in factors]
        together = np.prod(norms, axis=0) ** (1 / len(factors))
        factors = [f * (together / norm) for f, norm in zip(factors, norms, strict=True)]
        pull = max(pull / 2, 1e-6)
    return factors
