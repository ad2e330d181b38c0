"""k x k to R, then 1 x 1 (or 1 x 1 to R, then k x k): a bottleneck of channels.

Output mode, the window first::

    W'[o, i, t] = sum_r U[o, r] A[r, i, t]

loses least when ``U`` spans the principal components of the outputs: with ``W S W^T = U s U^T``,
``A = U^T W`` (reduced-rank regression; Zhang et al. 2015, section 3.1, without the ReLU). This is
the optimum, found in closed form for all ranks at once.

Input mode, channels first::

    W'[o, i, t] = sum_r A[o, r, t] P[r, i]

has no closed form; it starts at the principal components of ``W`` along its input channels,
weighted by their covariance, and alternates.

Multiplications per output position: ``R k k C_in + R C_out``, or ``R C_in + R k k C_out`` (the
former per output of the layer, the latter's first part per input).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph.operators import Linear
from convsmith.rewrite.fitting import Problem, alternate, whitened
from convsmith.rewrite.forms.form import Fitter, Form, Widths, aligned
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["Channel", "input_directions", "output_directions"]

Array = npt.NDArray[Any]

OUTPUT, INPUT = "window-first", "channels-first"


def output_directions(problem: Problem) -> Array:
    """Principal components of what a layer makes, ``(C_out, C_out)``, best first."""
    flat = problem.weight.reshape(problem.outs, -1)
    if flat.shape[1] < problem.outs:
        root = linalg.cholesky(problem.covariance, lower=True, check_finite=False)
        return np.asarray(linalg.svd(flat @ root)[0])
    made = flat @ problem.target.T
    vectors = linalg.eigh((made + made.T) / 2)[1]
    return np.asarray(vectors[:, ::-1])


def input_directions(problem: Problem) -> Array:
    """What a layer reads of its input channels, as rows ``(C_in, C_in)``, best first.

    Principal components of the weights along that axis, in the metric of the covariance of the
    channels.
    """
    root, inverse = whitened(problem.channel_covariance())
    flat = problem.weight.reshape(problem.outs, problem.ins, -1)
    read = np.einsum("oit,ojt->ij", flat, flat, optimize=True)
    vectors = linalg.eigh(root @ read @ root)[1][:, ::-1]
    return np.ascontiguousarray((inverse @ vectors).T)


class Channel(Form):
    """The two bottlenecks."""

    name = "channel"
    text = "conv O K -> conv R K > conv O 1, or conv R 1 > conv O K"

    def refusal(self, site: Site) -> str:
        """Says why not; depthwise layers have no channels to save."""
        if site.obstacle:
            return site.obstacle
        if min(site.ins, site.outs) < 2:
            return "each of its groups has a single channel"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """Both modes, where they differ."""
        return (OUTPUT,) if site.weight[0, 0, 0].size == 1 else (OUTPUT, INPUT)

    def full(self, site: Site, variant: str) -> Widths:
        """As many channels as the smaller side has."""
        taps = site.width // site.ins
        if variant == OUTPUT:
            return (min(site.outs, site.width),)
        return (min(site.ins, site.outs * taps),)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Aligned widths up to break-even."""
        one = cost(self.layout(site, variant, (1,)), site.x)[0]
        return aligned(min((site.cost[0] - 1) // one, *self.full(site, variant)))

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Window and pointwise layer in their order."""
        (rank,) = widths
        axes = () if isinstance(site.op, Linear) else range(len(site.kernel))
        if variant == OUTPUT:
            return site.part(rank, axes), site.part(site.outs, last=True)
        return site.part(rank), site.part(site.outs, axes, last=True)

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Finds the principal components once."""
        if variant == OUTPUT:
            return _WindowFirst(problem=problem, directions=output_directions(problem))
        return _ChannelsFirst(problem=problem, directions=input_directions(problem))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _WindowFirst:
    problem: Problem
    directions: Array

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """Optimal in closed form: rounds do not matter."""
        second = self.directions[:, : widths[0]]
        flat = second.T @ self.problem.weight.reshape(self.problem.outs, -1)
        ones = (1,) * len(self.problem.kernel)
        return (
            flat.reshape(-1, *self.problem.weight.shape[1:]),
            second.reshape(*second.shape, *ones),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ChannelsFirst:
    problem: Problem
    directions: Array

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From the principal components, or from kernels fitted before, by alternation."""
        if first is None:
            rows = self.directions[: widths[0]]
            ones = (1,) * len(self.problem.kernel)
            # The window is solved for first: where it starts is of no importance.
            window = np.zeros((self.problem.outs, len(rows), *self.problem.kernel))
            first = (rows.reshape(*rows.shape, *ones), window)
        return alternate(self.problem, first, rounds=max(rounds, 1))
