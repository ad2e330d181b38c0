"""1 x 1, k x k, 1 x 1: a bottleneck of channels on both sides.

::

    W'[o, i, t] = sum_pq U[o, p] C[p, q, t] V[q, i]

Tucker decomposition of the two channel axes (Kim et al. 2016). It starts at the principal
components of what the layer makes and of what it reads (one step of higher-order orthogonal
iteration in the metric of the data) and alternates over the three kernels.

Multiplications per output position: ``Q C_in + Q P k k + P C_out`` (the first per input).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.rewrite.fitting import Problem, alternate
from convsmith.rewrite.forms.channel import input_directions, output_directions
from convsmith.rewrite.forms.form import Fitter, Form, Widths
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["Tucker"]

Array = npt.NDArray[Any]

SHARES = (0.25, 0.375, 0.5, 0.625, 0.75)
"""Of the channels of each side that the grid keeps."""


class Tucker(Form):
    """Two bottlenecks with the window between them."""

    name = "tucker"
    text = "conv O K -> conv Q 1 > conv P K > conv O 1"

    def refusal(self, site: Site) -> str:
        """Says why not: without a window it is the form ``channel``."""
        if site.obstacle:
            return site.obstacle
        if site.width == site.ins:
            return "it has no window"
        if min(site.ins, site.outs) < 2:
            return "each of its groups has a single channel"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """There is one way."""
        return ("both-sides",)

    def full(self, site: Site, variant: str) -> Widths:
        """All channels of both sides."""
        return (site.ins, site.outs)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """The same and neighbouring shares of both sides, cheap to dear."""
        found = {
            (_rounded(site.ins * one), _rounded(site.outs * two))
            for one in SHARES
            for two in SHARES
            if abs(one - two) <= 0.25
        }
        return sorted(found, key=lambda w: cost(self.layout(site, variant, w), site.x))

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Pointwise, window, pointwise."""
        read, made = widths
        return (
            site.part(read),
            site.part(made, range(len(site.kernel))),
            site.part(site.outs, last=True),
        )

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Finds the principal components of both sides once."""
        return _Fitter(
            problem=problem, reads=input_directions(problem), makes=output_directions(problem)
        )


def _rounded(channels: float) -> int:
    """A multiple of 4, or of 8 from 64 on; at least 1."""
    step = 8 if channels >= 64 else 4 if channels >= 8 else 1
    return max(1, round(channels / step) * step)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem
    reads: Array
    makes: Array

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From the principal components, or from kernels fitted before, by alternation."""
        if first is None:
            read, made = widths
            rows, columns = self.reads[:read], self.makes[:, :made]
            back = np.linalg.pinv(rows)
            core = np.einsum("oi...,op,iq->pq...", self.problem.weight, columns, back)
            ones = (1,) * len(self.problem.kernel)
            first = (
                rows.reshape(*rows.shape, *ones),
                core,
                columns.reshape(*columns.shape, *ones),
            )
        return alternate(self.problem, first, rounds=max(rounds, 1))
