"""k x k to 3 x 3 with holes: the same field from fewer elements.

The kernel keeps those of its elements that lie on a coarser grid with the same corners, such as
every second one of a 5 x 5; they are fitted to make up for the ones between (one least-squares
problem, solved exactly). What is lost cannot be had back but by training: the form is for
networks that are trained again. Yu & Koltun 2016.

Multiplications per output position: ``m m C_in C_out`` for ``m`` elements a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph.operators import Conv
from convsmith.rewrite.fitting import Problem, ridged
from convsmith.rewrite.forms.form import Fitter, Form, Widths
from convsmith.rewrite.site import Kernels, LayerOp, Site

__all__ = ["Dilated"]

Array = npt.NDArray[Any]


class Dilated(Form):
    """One convolution with holes."""

    name = "dilated"
    text = "conv O K -> conv O k d(K-1)/(k-1)"
    automatic = False

    def refusal(self, site: Site) -> str:
        """Says why not: some axis must have elements to leave out."""
        if site.obstacle:
            return site.obstacle
        if not site.kernel:
            return "it has no window"
        if not self.grid(site, "corners-kept"):
            size = "x".join(map(str, site.kernel))
            return f"no coarser grid has the corners of its kernel {size}"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """There is one way."""
        return ("corners-kept",)

    def full(self, site: Site, variant: str) -> Widths:
        """Elements two, three, ... apart: at most the corners alone."""
        return (max((size - 1 for size in site.kernel), default=1),)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Distances that divide the reach of every longer axis and leave three elements."""
        longest = max(site.kernel, default=1)
        found = []
        for gap in range(2, longest):
            axes = [size for size in site.kernel if size > 1]
            if all((size - 1) % gap == 0 and (size - 1) // gap >= 2 for size in axes):
                found.append((gap,))
        return found[::-1]

    def possible(self, site: Site, variant: str, widths: Widths) -> bool:
        """Whether the corners stay."""
        return all((size - 1) % widths[0] == 0 for size in site.kernel)

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """The one convolution."""
        op = site.op
        assert isinstance(op, Conv)
        gap = widths[0]
        return (
            replace(
                op,
                kernel=tuple((size - 1) // gap + 1 for size in op.kernel),
                dilation=tuple(
                    d * gap if size > 1 else d
                    for d, size in zip(op.dilation, op.kernel, strict=True)
                ),
                bias=True,
            ),
        )

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Nothing is shared between distances."""
        return _Fitter(problem=problem)

    def weight(self, kernels: Kernels, shape: tuple[int, ...], variant: str) -> Array:
        """The kernel with zeros in its holes."""
        (kernel,) = kernels
        full = np.zeros(shape)
        full[_kept(shape[2:], kernel.shape[2:])] = kernel
        return full


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """Solved exactly: rounds do not matter."""
        problem, gap = self.problem, widths[0]
        sizes = tuple((size - 1) // gap + 1 for size in problem.kernel)
        places = np.arange(problem.ins * problem.taps).reshape(1, problem.ins, *problem.kernel)
        columns = places[_kept(problem.kernel, sizes)].ravel()
        gram = ridged(problem.covariance[np.ix_(columns, columns)], 1e-9)
        side = problem.target[:, columns]
        solved = linalg.solve(gram, side.T, assume_a="pos", check_finite=False).T
        return (solved.reshape(problem.outs, problem.ins, *sizes),)


def _kept(kernel: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Where the elements lie that stay."""
    gaps = [(a - 1) // (b - 1) if b > 1 else 1 for a, b in zip(kernel, sizes, strict=True)]
    return (slice(None), slice(None), *(slice(None, None, gap) for gap in gaps))
