"""k x k to k x k in groups, and 1 x 1 to mix them: fewer connections inside the window.

Mixing behind the window, or in front of it::

    W'[o, i, t] = sum_m P[o, m] G[m, i, t]        G[m, i, t] = 0 unless m and i share a group
    W'[o, i, t] = sum_m G[o, m, t] P[m, i]        G[o, m, t] = 0 unless o and m share a group

The pointwise layer takes the place of the permutation that gathers related channels (ShuffleNet,
CondenseNet), and costs little beside the window. Each group starts at the optimal bottleneck of
its own channels; then both kernels are solved for in turn. It loses much without training.

Multiplications per output position: ``k k M C_in / G + M C_out``, or ``M C_in + k k M C_out / G``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.rewrite.fitting import Problem, alternate
from convsmith.rewrite.forms.channel import input_directions, output_directions
from convsmith.rewrite.forms.form import Fitter, Form, Widths, spread_groups
from convsmith.rewrite.site import Kernels, LayerOp, Site

__all__ = ["Grouped"]

Array = npt.NDArray[Any]

BEHIND, FRONT = "mixing-behind", "mixing-in-front"


class Grouped(Form):
    """A grouped convolution and the pointwise layer that mixes its channels."""

    name = "grouped"
    text = "conv O K -> conv M K gG > conv O 1, or conv M 1 > conv O K gG"
    automatic = False

    def refusal(self, site: Site) -> str:
        """Says why not: it needs a window, and channels that can be divided."""
        if site.obstacle:
            return site.obstacle
        if site.width == site.ins:
            return "it has no window"
        if min(site.ins, site.outs) < 4:
            return "it has too few channels to divide"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """Mixing behind the window or in front of it."""
        return (BEHIND, FRONT)

    def full(self, site: Site, variant: str) -> Widths:
        """As many groups as there are channels, and all channels between."""
        side = site.ins if variant == BEHIND else site.outs
        return (side, max(site.ins, site.outs))

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Powers of two that divide the channels, many groups first."""
        divided, other = (site.ins, site.outs) if variant == BEHIND else (site.outs, site.ins)
        found = []
        for groups in (16, 8, 4, 2):
            between = other // groups * groups
            if divided % groups == 0 and divided > groups and between:
                found.append((groups, between))
        return found

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Window in groups, and mixing."""
        groups, between = widths
        axes = range(len(site.kernel))
        if variant == BEHIND:
            return site.part(between, axes, groups=groups), site.part(site.outs, last=True)
        return site.part(between), site.part(site.outs, axes, groups=groups, last=True)

    def possible(self, site: Site, variant: str, widths: Widths) -> bool:
        """Whether the groups divide both sides of the window."""
        groups, between = widths
        divided = site.ins if variant == BEHIND else site.outs
        return divided % groups == 0 and between % groups == 0

    def mixes(self, variant: str) -> bool:
        """Not with the groups at the end."""
        return variant == BEHIND

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Nothing is shared between numbers of groups."""
        return _Fitter(problem=problem, behind=variant == BEHIND)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem
    behind: bool

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From the bottleneck of every group, by alternation."""
        groups, between = widths
        problem = self.problem
        kernels = self._start(groups, between) if first is None else first
        if self.behind:
            window, mixing = kernels
            full = spread_groups(window, problem.ins)
            mask = spread_groups(np.ones_like(window), problem.ins)
            made = alternate(problem, (full, mixing), masks=(mask, None), rounds=max(rounds, 1))
            return _gathered(made[0], groups), made[1]
        mixing, window = kernels
        full = spread_groups(window, between)
        mask = spread_groups(np.ones_like(window), between)
        made = alternate(problem, (mixing, full), masks=(None, mask), rounds=max(rounds, 1))
        return made[0], _gathered(made[1], groups)

    def _start(self, groups: int, between: int) -> Kernels:
        problem = self.problem
        outs, ins = problem.outs, problem.ins
        ones, each = (1,) * len(problem.kernel), between // groups
        windows, mixings = [], []
        for group in range(groups):
            if self.behind:
                part = slice(group * (ins // groups), (group + 1) * (ins // groups))
                local = _restricted(problem, part)
                columns = _padded(output_directions(local)[:, :each], each)
                flat = columns.T @ local.weight.reshape(outs, -1)
                windows.append(flat.reshape(each, *local.weight.shape[1:]))
                mixings.append(columns.reshape(outs, each, *ones))
            else:
                part = slice(group * (outs // groups), (group + 1) * (outs // groups))
                local = replace(problem, weight=problem.weight[part], target=problem.target[part])
                rows = _padded(input_directions(local)[:each].T, each).T
                back = np.linalg.pinv(rows)
                windows.append(np.einsum("oi...,ir->or...", local.weight, back))
                mixings.append(rows.reshape(each, ins, *ones))
        if self.behind:
            return np.concatenate(windows), np.concatenate(mixings, axis=1)
        return np.concatenate(mixings), np.concatenate(windows)


def _restricted(problem: Problem, part: slice) -> Problem:
    """The problem of some input channels alone."""
    weight = problem.weight[:, part]
    columns = np.arange(problem.ins * problem.taps).reshape(problem.ins, -1)[part].ravel()
    covariance = problem.covariance[np.ix_(columns, columns)]
    flat = weight.reshape(problem.outs, -1)
    return Problem(
        weight=weight, covariance=covariance, target=flat @ covariance, energy=problem.energy
    )


def _padded(columns: Array, count: int) -> Array:
    """So many columns; what is missing is filled with small ones that are free to grow."""
    missing = count - columns.shape[1]
    if missing <= 0:
        return columns
    size = 1e-3 * max(float(np.abs(columns).max()), 1e-30)
    more = np.random.default_rng(0).normal(size=(len(columns), missing)) * size
    return np.concatenate([columns, more], axis=1)


def _gathered(full: Array, groups: int) -> Array:
    """The way back from a dense array to the kernel of a grouped layer."""
    deep, wide = len(full) // groups, full.shape[1] // groups
    return np.concatenate(
        [full[g * deep : (g + 1) * deep, g * wide : (g + 1) * wide] for g in range(groups)]
    )
