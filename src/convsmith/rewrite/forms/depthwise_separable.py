"""k x k to T times k x k depthwise, then 1 x 1: separable convolutions, T terms of them.

::

    W'[o, i, t] = sum_n P[o, i, n] D[i, n, t]

Every input channel goes through ``T`` windows of its own, and one pointwise layer mixes all of
them: the sum of ``T`` depthwise-separable convolutions, as one depthwise convolution with channel
multiplier ``T`` and one 1 x 1. Network decoupling (Guo et al. 2018): per input channel the
singular vectors of ``W[:, i, :]`` are the best windows, and with all ``k k`` of them it is exact.
Here the pointwise layer is then solved for jointly, from what really reaches it, and the windows
are improved in turn.

Multiplications per output position: ``T C_in (k k + C_out)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.rewrite.fitting import Problem, conjugated, ridged, whitened
from convsmith.rewrite.forms.form import Fitter, Form, Widths
from convsmith.rewrite.site import Kernels, LayerOp, Site

__all__ = ["DepthwiseSeparable"]

Array = npt.NDArray[Any]


class DepthwiseSeparable(Form):
    """A sum of depthwise-separable convolutions."""

    name = "depthwise_separable"
    text = "conv O K -> conv TC K gC > conv O 1"

    def refusal(self, site: Site) -> str:
        """Says why not: it needs a window, and channels to mix."""
        if site.obstacle:
            return site.obstacle
        if site.width == site.ins:
            return "it has no window"
        if site.ins == 1:
            return "each of its groups has a single input channel"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """There is one way."""
        return ("window-first",)

    def full(self, site: Site, variant: str) -> Widths:
        """As many terms as the window has elements, or as there are outputs."""
        return (min(site.width // site.ins, site.outs),)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """One term, two, ..."""
        return [(terms,) for terms in range(1, self.full(site, variant)[0] + 1)]

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """The windows, then the mixing."""
        channels = widths[0] * site.ins
        return (
            site.part(channels, range(len(site.kernel)), groups=site.ins),
            site.part(site.outs, last=True),
        )

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Nothing is shared between numbers of terms."""
        return _Fitter(problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From the singular vectors of every channel, by alternation."""
        problem, terms = self.problem, widths[0]
        if first is None:
            windows = _singular_windows(problem, terms)
        else:
            windows = first[0].reshape(problem.ins, terms, problem.taps)
        best = self._mixed(windows)
        for _ in range(rounds):
            tried = self._mixed(self._improved(*best[:2]))
            gain = best[2] - tried[2]
            if gain <= 0:
                break
            best = tried
            if gain < 1e-4 * best[2]:
                break
        windows, mixing, _ = best
        kernel, ones = problem.kernel, (1,) * len(problem.kernel)
        return (
            windows.reshape(problem.ins * terms, 1, *kernel),
            mixing.reshape(problem.outs, problem.ins * terms, *ones),
        )

    def _mixed(self, windows: Array) -> tuple[Array, Array, float]:
        """The best mixing ``(C_out, C_in, T)`` for some windows ``(C_in, T, taps)``; the error."""
        problem = self.problem
        ins, terms, taps = windows.shape
        split = problem.covariance.reshape(ins, taps, ins * taps)
        half = np.einsum("itk,ikn->itn", windows, split, optimize=True)
        half = half.reshape(ins * terms, ins, taps)
        gram = np.einsum("aik,itk->ait", half, windows, optimize=True)
        gram = ridged(gram.reshape(ins * terms, ins * terms), 1e-9)
        target = problem.target.reshape(problem.outs, ins, taps)
        side = np.einsum("oik,itk->oit", target, windows, optimize=True)
        side = side.reshape(problem.outs, ins * terms)
        mixing = linalg.solve((gram + gram.T) / 2, side.T, assume_a="pos", check_finite=False).T
        error = max(problem.energy - float(np.sum(mixing * side)), 0.0)
        return windows, mixing.reshape(problem.outs, ins, terms), error

    def _improved(self, windows: Array, mixing: Array, iterations: int = 4) -> Array:
        """Better windows for a mixing, by conjugate gradients."""
        problem = self.problem
        ins, _, taps = windows.shape
        strength = np.einsum("oit,oit->it", mixing, mixing)
        strength = np.maximum(strength, 1e-9 * strength.max() + 1e-300)
        variance = np.einsum("ikik->ik", problem.covariance.reshape(ins, taps, ins, taps))
        scale = strength[:, :, None] * variance[:, None, :] + 1e-300

        def back(flat: Array) -> Array:
            split = flat.reshape(problem.outs, ins, taps)
            made: Array = np.einsum("oit,oik->itk", mixing, split, optimize=True)
            return made

        def apply(value: Array) -> Array:
            dense = np.einsum("oit,itk->oik", mixing, value, optimize=True)
            return back(dense.reshape(problem.outs, -1) @ problem.covariance)

        side = back(problem.target)
        return conjugated(apply, side, windows, lambda rest: rest / scale, iterations, goal=0.0)


def _singular_windows(problem: Problem, terms: int) -> Array:
    """The best windows of every input channel on its own, ``(C_in, terms, taps)``."""
    found = []
    covariance = problem.covariance.reshape(problem.ins, problem.taps, problem.ins, problem.taps)
    for channel in range(problem.ins):
        root, inverse = whitened(covariance[channel, :, channel])
        flat = problem.weight[:, channel].reshape(problem.outs, problem.taps)
        rows = linalg.svd(flat @ root, full_matrices=True)[2][:terms]
        found.append(rows @ inverse)
    return np.stack(found)
